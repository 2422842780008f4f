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
        "--server",
        metavar="URL",
        help="The server (default: the chosen target, else the only known one).",
    )
    add_insecure = click.option(
        "--insecure", is_flag=True, help="Send the key over plain http, which others may read."
    )
    return add_server(add_insecure(command))


def chosen_server(server: str | None, insecure: bool) -> ControlClient:
    """The server that was chosen; a usage error where none was."""
    from runpod_flash.client.control import ControlClient

    return ControlClient(chosen_address(server), insecure=insecure)


def chosen_address(server: str | None, *variables: str) -> str:
    """The server that was named, else the one that a key is kept for; a usage error for none.

    It is named by the option, by one of the variables, or is the chosen target.
    """
    from runpod_flash.client.chosen import chosen_target
    from runpod_flash.client.credentials import known_servers

    target = chosen_target()
    named = next(filter(None, map(os.environ.get, variables)), None)
    address = server or named or (target.address if target is not None else "")
    known = [] if address else known_servers()
    if len(known) == 1:
        address = known[0]
    if not address:
        which = f": {', '.join(known)}" if known else ""
        hint = "" if known else " (`flash server` starts one)"
        raise click.UsageError(
            f"No server is chosen{which}; give --server URL, or `flash target use URL`{hint}.",
            click.get_current_context(),
        )
    return address
