"""What a person sees of `flash dev`: endpoints with their addresses, requests, changes, errors."""

from __future__ import annotations

import contextlib
import json
import sys
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

import click

from runpod_flash.cli import output

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from runpod_flash.plane.pool import Pool
    from runpod_flash.project.catalog import Catalog, Discovered, Operation, Problem

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


def error(text: str) -> None:
    """Something that went wrong, in one sentence."""
    click.echo(f"{click.style('Error:', fg='red')} {text}", err=True)


def nothing_found(root: Path, catalog: Catalog) -> None:
    """The directory holds no endpoint."""
    if catalog.problems:
        return
    error(f"no endpoint in {root}: no file below it uses Endpoint of runpod_flash.")
    click.echo(f"\n{_EXAMPLE}", err=True)


def problems(found: Iterable[Problem]) -> None:
    """Why files or endpoints are not served."""
    for problem in found:
        error(problem.message)
        if problem.detail:
            click.echo(_indented(problem.detail), err=True)


def _indented(text: str) -> str:
    return "\n".join(f"    {line}" for line in text.rstrip().splitlines())


# The table


def ready(catalog: Catalog, address: str, wanted_port: int, seconds: float) -> None:
    """Everything that can be called, and how."""
    _out()
    served = str(catalog.root)
    _out(f"  {click.style('flash dev', bold=True)}  {served}")
    _out(f"  {click.style(address, fg='cyan')}  (docs: {address}/docs)")
    if wanted_port and not address.endswith(f":{wanted_port}"):
        port = address.rpartition(":")[2]
        _out(f"  {click.style(f'port {wanted_port} is in use: this is {port}', fg='yellow')}")
    _out()
    rows = [row for endpoint in catalog.endpoints for row in _rows(catalog, endpoint)]
    _table(("ENDPOINT", "WHERE", "ADDRESS"), rows)
    _out()
    for line in _curls(catalog, address):
        _out(f"  {line}")
    _out()
    _out(f"  ready in {seconds:.2f} s; saved changes are served at once; Ctrl-C stops")
    _out()


def _rows(catalog: Catalog, endpoint: Discovered) -> list[tuple[str, str, str]]:
    where = "cpu" if not endpoint.spec.uses_gpu else "gpu"
    low, high = endpoint.spec.scaling.workers_min, endpoint.spec.scaling.workers_max
    place = f"{where} {low}-{high}"
    calls = [f"POST {path_of(catalog, endpoint, each)}/runsync" for each in endpoint.operations]
    prefix = _prefix(endpoint)
    calls += [f"{_verb(each.method)} {prefix}{each.path}" for each in endpoint.routes]
    heads = [(endpoint.spec.name, place), *[("", "")] * (len(calls) - 1)]
    return [(*head, call) for head, call in zip(heads, calls, strict=True)]


def _verb(method: str) -> str:
    return "WS" if method == "WEBSOCKET" else method


def _prefix(endpoint: Discovered) -> str:
    return "/" + endpoint.file.removesuffix(".py")


def path_of(catalog: Catalog, endpoint: Discovered, operation: Operation) -> str:
    """The shortest path of a function or method."""
    prefix = _prefix(endpoint)
    siblings = [
        each
        for other in catalog.endpoints
        if other.file == endpoint.file
        for each in other.operations
    ]
    if len(siblings) == 1:
        return prefix
    if sum(each.name == operation.name for each in siblings) > 1 and endpoint.owner:
        return f"{prefix}/{endpoint.owner}/{operation.name}"
    return f"{prefix}/{operation.name}"


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    widths = [max(len(row[i]) for row in (heads, *rows)) for i in range(len(heads) - 1)]
    for index, row in enumerate((heads, *rows)):
        cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=False)]
        line = "  " + "  ".join([*cells, row[-1]])
        _out(click.style(line, dim=True) if not index else line)


# Lines to try


def _curls(catalog: Catalog, address: str) -> list[str]:
    lines = []
    for endpoint in catalog.endpoints:
        for operation in endpoint.operations:
            path = path_of(catalog, endpoint, operation)
            body = json.dumps({"input": example(operation.input)})
            lines.append(_curl("POST", f"{address}{path}/runsync", body))
        for route in endpoint.routes:
            if route.method != "WEBSOCKET":
                lines.append(_route_curl(endpoint, route, address))
    return lines


def _route_curl(endpoint: Discovered, route: Any, address: str) -> str:
    given = example(route.input)
    path = route.path
    for name in list(given):
        if f"{{{name}" in path:
            head, _, tail = path.partition(f"{{{name}")
            path = f"{head}{given.pop(name)}{tail.partition('}')[2]}"
    url = f"{address}{_prefix(endpoint)}{path}"
    if route.method == "GET":
        query = "&".join(f"{name}={value}" for name, value in given.items())
        return _curl("GET", f"{url}?{query}" if query else url, "")
    return _curl(route.method, url, json.dumps(given))


def _curl(method: str, url: str, body: str) -> str:
    verb = f" -X {method}" if method not in ("GET", "POST") else ""
    quoted = f"'{url}'" if "?" in url or "&" in url else url
    if method == "GET":
        return f"curl {quoted}"
    return f"curl{verb} {quoted} -H 'content-type: application/json' -d '{body}'"


_EXAMPLES: dict[str, Any] = {
    "string": "text",
    "integer": 1,
    "number": 1.5,
    "boolean": True,
    "array": [],
    "object": {},
}


def example(schema: dict[str, Any]) -> dict[str, Any]:
    """Values for what is required, as the types say."""
    properties = schema.get("properties", {})
    return {name: _value(properties.get(name, {})) for name in schema.get("required", ())}


def _value(schema: dict[str, Any]) -> Any:
    if "enum" in schema:
        return schema["enum"][0]
    if schema.get("type") == "array" and schema.get("items"):
        return [_value(schema["items"])]
    kind = schema.get("type")
    return _EXAMPLES.get(kind, "text") if isinstance(kind, str) else "text"


# While it runs


def request_line(method: str, path: str, status: int, seconds: float) -> str:
    """One line for a request that was answered."""
    colour = "green" if status < 400 else "yellow" if status < 500 else "red"
    phrase = HTTPStatus(status).phrase if status in HTTPStatus._value2member_map_ else ""
    shown = click.style(f"{status} {phrase}".rstrip(), fg=colour)
    took = f"{seconds * 1000:.0f} ms" if seconds < 10 else f"{seconds:.1f} s"
    line = f"{method} {path}  {shown}  {click.style(took, dim=True)}\n"
    plain = output.colour() is False or not sys.stderr.isatty()
    return click.unstyle(line) if plain else line


def reloaded(changed: Sequence[str], replaced: Sequence[Pool], seconds: float) -> None:
    """What a change of files led to."""
    names = ", ".join(sorted(pool.spec.name for pool in replaced))
    what = f"now serves the new {names}" if names else "nothing to replace"
    say(f"{', '.join(changed[:3])} changed: {what} ({seconds * 1000:.0f} ms)")


def provisioned(ready: int, wanted: int, seconds: float) -> None:
    """How `--auto-provision` ended."""
    say(f"{ready} of {wanted} endpoints ready in {seconds:.1f} s")


def stopping() -> None:
    """Ctrl-C was pressed."""
    if sys.stderr.isatty():
        click.echo(err=True)
    say("stopping (Ctrl-C again: at once)")
