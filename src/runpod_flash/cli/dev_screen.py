"""What a person sees of `flash dev`: endpoints with their addresses, requests, changes, errors."""

from __future__ import annotations

import contextlib
import json
import shlex
import sys
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import quote, urlencode

import click

from runpod_flash.cli import output
from runpod_flash.client.terminal import line_of
from runpod_flash.gateway.addresses import Addresses, prefix_of
from runpod_flash.gateway.openapi import example
from runpod_flash.gateway.results import error_text
from runpod_flash.plane.events import JobEnded
from runpod_flash.plane.store.base import JobState
from runpod_flash.printable import LINES, printable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from pathlib import Path

    from runpod_flash.gateway.noting import Answered
    from runpod_flash.plane.events import Event
    from runpod_flash.project.catalog import Catalog, Discovered, Problem

_EXAMPLE = """\
Write a file such as hello.py:

    from runpod_flash import Endpoint

    @Endpoint(name="hello", cpu="cpu3c-1-2")
    def hello(name: str = "world") -> dict:
        return {"message": f"hello {name}"}

or start from a skeleton: flash init my-project"""


def _out(text: str = "") -> None:
    with contextlib.suppress(OSError):  # the terminal is gone; the work goes on
        click.echo(text)


def say(text: str) -> None:
    """A line about what happens now."""
    click.echo(f"{click.style('flash:', dim=True)} {text}", err=True)


def nothing_found(root: Path, catalog: Catalog) -> None:
    """The directory holds no endpoint."""
    if catalog.problems:
        return
    output.error(f"no endpoint in {root}: no file below it uses Endpoint of runpod_flash.")
    click.echo(f"\n{_EXAMPLE}", err=True)


def problems(found: Iterable[Problem]) -> None:
    """Why files or endpoints are not served."""
    for problem in found:
        output.error(problem.message)
        if problem.detail:
            click.echo(_indented(problem.detail), err=True)


def _indented(text: str) -> str:
    return "\n".join(f"    {line}" for line in text.rstrip().splitlines())


# The table

_HEADS = ("ENDPOINT", "WHERE", "ADDRESS")


def ready(catalog: Catalog, address: str, wanted_port: int, seconds: float) -> None:
    """Everything that can be called, and how."""
    _head("flash dev", catalog, address)
    if wanted_port and not address.endswith(f":{wanted_port}"):
        port = address.rpartition(":")[2]
        _out(f"  {click.style(f'port {wanted_port} is in use: this is {port}', fg='yellow')}")
    addresses = _endpoints(catalog)
    _out()
    for line in _curls(addresses, address):
        _out(f"  {line}")
    _out()
    _out(f"  ready in {seconds:.2f} s; saved changes are served at once; Ctrl-C stops")
    _out()


def served(catalog: Catalog, address: str) -> None:
    """What a server serves, and where."""
    _head("flash server", catalog, address)
    if catalog.endpoints:
        _endpoints(catalog)
    _out()


def _head(command: str, catalog: Catalog, address: str) -> None:
    _out()
    _out(f"  {click.style(command, bold=True)}  {catalog.root}".rstrip())
    _out(f"  {click.style(address, fg='cyan')}  (docs: {address}/docs)")


def _endpoints(catalog: Catalog) -> Addresses:
    _out()
    _table(_HEADS, [row for name, each in _shown(catalog).items() for row in each.rows(name)])
    return Addresses(catalog)


class _Shown(NamedTuple):
    """What the table has of an endpoint."""

    file: str
    place: str
    calls: Sequence[str]

    def rows(self, name: str) -> list[tuple[str, str, str]]:
        heads = [(name, self.place), *[("", "")] * len(self.calls)]
        return [(*head, call) for head, call in zip(heads, self.calls, strict=False)]

    def without(self, other: _Shown | None) -> _Shown:
        """With those calls only that the other has not."""
        known = () if other is None else other.calls
        return self._replace(calls=[call for call in self.calls if call not in known])


def _shown(catalog: Catalog) -> dict[str, _Shown]:
    addresses = Addresses(catalog)
    return {
        each.spec.name: _Shown(each.file, _place(each), _calls(addresses, each))
        for each in catalog.endpoints
    }


def _place(endpoint: Discovered) -> str:
    where = "cpu" if not endpoint.spec.uses_gpu else "gpu"
    low, high = endpoint.spec.scaling.workers_min, endpoint.spec.scaling.workers_max
    return f"{where} {low}-{high}"


def _calls(addresses: Addresses, endpoint: Discovered) -> list[str]:
    prefix = _path(prefix_of(endpoint))
    if endpoint.spec.is_image:
        queue = f"POST /v2/{quote(endpoint.spec.name, safe='')}/runsync"
        return [queue, f"ANY {prefix}/..."]
    operations = addresses.operations_of(endpoint)
    calls = [f"POST {_path(bound.path)}/runsync" for bound in operations]
    return calls + [f"{_verb(each.method)} {prefix}{_path(each.path)}" for each in endpoint.routes]


def _path(path: str, keep: str = "{}") -> str:
    """As it is typed; the braces of a route's parameters are for people."""
    return quote(path, safe=f"/:{keep}")


def _verb(method: str) -> str:
    return "WS" if method == "WEBSOCKET" else method


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    for line in output.headed(heads, rows):
        _out(f"  {line}")


# Lines to try


def _curls(addresses: Addresses, address: str) -> list[str]:
    lines = []
    for endpoint in addresses.catalog.endpoints:
        for bound in addresses.operations_of(endpoint):
            body = json.dumps({"input": example(bound.operation.input)})
            lines.append(_curl("POST", f"{address}{_path(bound.path)}/runsync", body))
        for route in endpoint.routes:
            if route.method != "WEBSOCKET" and not endpoint.spec.is_image:
                lines.append(_route_curl(endpoint, route, address))
    return lines


def _route_curl(endpoint: Discovered, route: Any, address: str) -> str:
    given = example(route.input)
    path = route.path
    for name in list(given):
        if f"{{{name}" in path:
            head, _, tail = path.partition(f"{{{name}")
            path = f"{head}{given.pop(name)}{tail.partition('}')[2]}"
    # (curl reads braces as a list of addresses.)
    url = f"{address}{_path(prefix_of(endpoint) + path, keep='')}"
    if route.method == "GET":
        return _curl("GET", f"{url}?{urlencode(given, doseq=True)}" if given else url, "")
    return _curl(route.method, url, json.dumps(given))


def _curl(method: str, url: str, body: str) -> str:
    """A line for the shell."""
    verb = ["-X", method] if method not in ("GET", "POST") else []
    sent = [] if method == "GET" else ["-H", "content-type: application/json", "-d", body]
    return shlex.join(["curl", *verb, url, *sent])


# While it runs


class Failures:
    """Prints why jobs have failed: a caller may have left, or be a page without tracebacks."""

    def __init__(self, write: Callable[[str], None], name_of: Callable[[str], str]) -> None:
        self._write = write
        self._name_of = name_of

    def __call__(self, event: Event) -> None:
        """Of a `JobEnded`, what its caller is told; nothing where it did not fail."""
        if not isinstance(event, JobEnded) or event.job.state is JobState.CANCELLED:
            return
        failure = event.job.outcome.failure if event.job.outcome is not None else None
        if failure is not None:
            line = line_of(_one_statement(error_text(failure)), self._name_of(event.job.endpoint))
            traceback = printable(failure.traceback, keep=LINES)
            detail = f"{_indented(traceback)}\n" if traceback else ""
            self._write(f"{line}\n{detail}")


def _one_statement(text: str) -> str:
    """A message may repeat an input: its further lines are set apart from those of others."""
    first, *others = text.split("\n")
    return "\n".join([first, *(f"    {line}" for line in others)])


def request_line(told: Answered) -> str:
    """One line for a request that was answered."""
    status, seconds = told.status, told.seconds
    colour = "green" if status < 400 else "yellow" if status < 500 else "red"
    phrase = HTTPStatus(status).phrase if status in HTTPStatus._value2member_map_ else ""
    shown = click.style(f"{status} {phrase}".rstrip(), fg=colour)
    took = f"{seconds * 1000:.0f} ms" if seconds < 10 else f"{seconds:.1f} s"
    asked = f"{printable(told.method)} {printable(told.path)}"
    line = f"{asked}  {shown}  {click.style(took, dim=True)}\n"
    plain = output.colour() is False or not sys.stderr.isatty()
    return click.unstyle(line) if plain else line


class Changes:
    """Tells what changes of files do to what is served, beginning with a catalog that was shown."""

    def __init__(self, catalog: Catalog) -> None:
        self._shown = _shown(catalog)

    def reloaded(
        self, changed: Sequence[str], catalog: Catalog, replaced: Iterable[str], seconds: float
    ) -> None:
        """What is served after a change, and no more; its problems were shown.

        `replaced` are the endpoints that get other workers.
        """
        broken = {problem.file for problem in catalog.problems}
        before, now = self._shown, _shown(catalog)
        gone = [n for n, each in before.items() if n not in now and each.file not in broken]
        # What is broken now is none the newer when it is mended.
        waits = {n: each for n, each in before.items() if n not in now and n not in gone}
        self._shown = {**waits, **now}
        new = {n: each.without(before.get(n)) for n, each in now.items()}
        old = {n: each.without(now.get(n)) for n, each in before.items() if n in now}
        what = [
            *_named("now serves the new {}", sorted(replaced)),
            *_named("{} is new", [n for n in now if n not in before]),
            *_named("{} has new addresses", [n for n in new if n in before and new[n].calls]),
            *_named("{} is gone", [*gone, *(call for each in old.values() for call in each.calls)]),
        ]
        if not what:
            mends = not broken.isdisjoint(changed)
            what = ["served again when that is mended" if mends else "nothing to replace"]
        say(f"{', '.join(changed[:3])} changed: {'; '.join(what)} ({seconds * 1000:.0f} ms)")
        rows = [row for n, each in new.items() for row in each.rows(n)]
        if rows:
            _table(_HEADS, rows)


def _named(text: str, names: Sequence[str]) -> list[str]:
    """A sentence about these, if there are any."""
    if len(names) > 1:
        text = text.replace("is", "are").replace("has", "have")
    return [text.format(", ".join(names))] if names else []


def provisioned(ready: int, wanted: int, seconds: float) -> None:
    """How `--auto-provision` ended."""
    say(f"{ready} of {wanted} endpoints ready in {seconds:.1f} s")


def stopping() -> None:
    """Ctrl-C was pressed."""
    if sys.stderr.isatty():
        click.echo(err=True)
    say("stopping (Ctrl-C again: at once)")
