"""Which server a command asks: the options that say so, alike in all of them."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from collections.abc import Callable

    from runpod_flash.client.control import ControlClient

F = TypeVar("F", bound="Callable[..., Any]")


def server_options(command: F) -> F:
    """Adds `--server` and `--insecure`."""
    add_server = click.option(
        "--server", metavar="URL", help="The server (default: the one that FLASH_TARGET names)."
    )
    add_insecure = click.option(
        "--insecure", is_flag=True, help="Send the key over plain http, which others may read."
    )
    return add_server(add_insecure(command))


def chosen_server(server: str | None, insecure: bool) -> ControlClient:
    """The server that was chosen; a usage error where none was."""
    from runpod_flash.client.control import ControlClient

    address = server or os.environ.get("FLASH_TARGET")
    if not address:
        raise click.UsageError(
            "No server is chosen: give --server URL, or set FLASH_TARGET.",
            click.get_current_context(),
        )
    return ControlClient(address, insecure=insecure)
