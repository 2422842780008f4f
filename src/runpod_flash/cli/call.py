"""`flash call`: run one job on a server, and print its result."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click

from runpod_flash.cli.place import endpoint_of, place_options
from runpod_flash.cli.servers import chosen_server, server_options
from runpod_flash.cli.standard_input import read_input

if TYPE_CHECKING:
    from pathlib import Path


@click.command()
@click.argument("name")
@click.argument("value", metavar="[JSON|@FILE|-]", default=None, required=False)
@click.option("--method", metavar="NAME", help="The method, for a class that has several.")
@click.option(
    "--wait/--no-wait",
    default=True,
    show_default=True,
    help="Wait for the result, or print the id.",
)
@click.option("--stream", is_flag=True, help="Print each value of a generator as it comes.")
@click.option("--job", metavar="ID", help="Wait for a job that was queued before.")
@place_options
@server_options
def call(
    name: str,
    value: str | None,
    method: str | None,
    wait: bool,
    stream: bool,
    job: str | None,
    app: str | None,
    environment: str | None,
    server: str | None,
    insecure: bool,
) -> None:
    """Call the function or class NAME on a server: this project's, where it is deployed there.

    The result is JSON on standard output; what the function prints goes to standard error. A job
    that fails ends this with code 1, and Ctrl-C cancels it.

    With --job, nothing is called: the result is that of a job whose id --no-wait has printed, and
    Ctrl-C leaves the job alone. With --no-wait as well, its status is printed.

    Example: flash call resize '{"width": 200}'
    """
    if job is not None and (value is not None or method is not None):
        raise click.UsageError("--job names a job that has its input.", click.get_current_context())
    given = (
        None if job is not None else _with_method(_parsed("{}" if value is None else value), method)
    )
    target = chosen_server(server, insecure)
    name = endpoint_of(target, name, app, environment)
    from runpod_flash.cli import call_session

    if job is not None and not wait:
        click.echo(json.dumps(call_session.look(target, name, job)))
    elif job is not None:
        raise SystemExit(call_session.await_job(target, name, job, stream))
    elif not wait:
        click.echo(json.dumps(call_session.submit(target, name, given)))
    else:
        raise SystemExit(call_session.run(target, name, given, stream))


def _parsed(value: str) -> Any:
    """The JSON of an argument, of a file, or of standard input."""
    where, text = _text(value)
    try:
        return json.loads(text)
    except RecursionError:
        raise click.UsageError(f"{where} is nested too deeply to be read as JSON.") from None
    except json.JSONDecodeError as error:
        line = text.splitlines()[error.lineno - 1] if text.strip() else ""
        raise click.UsageError(
            f"{where} is no JSON: {error.msg} at line {error.lineno}, column {error.colno}"
            f"{_pointed(line, error.colno)}",
            click.get_current_context(),
        ) from None


def _text(value: str) -> tuple[str, str]:
    from pathlib import Path

    if value == "-":
        return "standard input", read_input()
    if not value.startswith("@"):
        return "the input", value
    return value[1:], _read(Path(value[1:]))


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise click.UsageError(f"{path} is no UTF-8 text.") from None


def _pointed(line: str, column: int) -> str:
    """The place, as far as it fits on a line; and what a shell makes of quotes."""
    if not line:
        return ": it is empty."
    start = max(0, column - 31)
    shown = line[start : start + 60]
    hint = "" if '"' in line else '\n(JSON has double quotes: \'{"key": "value"}\')'
    return f":\n    {shown}\n    {' ' * (column - 1 - start)}^{hint}"


def _with_method(given: Any, method: str | None) -> Any:
    if method is None:
        return given
    if not isinstance(given, dict):
        raise click.UsageError("--method goes with an input that is a JSON object.")
    return {**given, "method": method}
