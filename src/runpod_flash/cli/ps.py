"""`flash ps`: endpoints, workers, queues and GPUs of a server."""

from __future__ import annotations

import json
import sys
import time
from typing import TYPE_CHECKING, Any

import click

from runpod_flash.cli.json_output import json_option
from runpod_flash.cli.servers import chosen_server, server_options

if TYPE_CHECKING:
    from runpod_flash.client.control import ControlClient

_CLEAR = "\x1b[2J\x1b[H"
_WATCH_SECONDS = 1.0


@click.command()
@json_option
@click.option("--watch", is_flag=True, help="Show it anew each second, until Ctrl-C.")
@server_options
def ps(as_json: bool, watch: bool, server: str | None, insecure: bool) -> None:
    """Show a server's endpoints and workers, who waits for what, and who holds which GPU.

    Example: flash ps --watch
    """
    target = chosen_server(server, insecure)
    _show(target, as_json, clear=False)
    while watch:
        time.sleep(_WATCH_SECONDS)
        _show(target, as_json, clear=not as_json and sys.stdout.isatty())


def _show(target: ControlClient, as_json: bool, *, clear: bool) -> None:
    seen: dict[str, Any] = target.ask("GET", "/v2/flash/overview")
    if as_json:
        click.echo(json.dumps(seen))
        return
    from runpod_flash.cli.ps_screen import screen

    click.echo(f"{_CLEAR if clear else ''}{screen(seen)}")
