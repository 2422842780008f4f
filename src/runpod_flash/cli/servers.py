"""Which server a command asks: the options that say so, alike in all of them."""

from __future__ import annotations

import os
import socket
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit

import click

from runpod_flash.loopback import is_loopback
from runpod_flash.suggest import listed

if TYPE_CHECKING:
    from collections.abc import Callable

    from runpod_flash.client.control import ControlClient

F = TypeVar("F", bound="Callable[..., Any]")

_THERE_SECONDS = 0.5
_LISTED = 3


def server_options(command: F) -> F:
    """Adds `--server` and `--insecure`."""
    add_server = click.option(
        "--server",
        metavar="URL",
        help="The server (default: the chosen target, else the only known one that runs).",
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

    target = chosen_target()
    named = next(filter(None, map(os.environ.get, variables)), None)
    address = server or named or (target.address if target is not None else "")
    return address or known_address(", or `flash target use URL`")


def known_address(otherwise: str = "") -> str:
    """The only server that a key is kept for, or the only one of several that is there.

    A usage error where there is none, with what else to do than to name one.
    """
    from runpod_flash.client.credentials import known_servers

    known = known_servers()
    found = known if len(known) == 1 else [each for each in known if _is_there(each)]
    if len(found) == 1:
        return found[0]
    which, hint = f": {listed(found, _LISTED)} are known", ""
    if not found:
        which = (
            f", and none of those that are known runs: {listed(known, _LISTED)}" if known else ""
        )
        hint = " (`flash server` starts one)"
    raise click.UsageError(
        f"No server is chosen{which}; give --server URL{otherwise}{hint}.",
        click.get_current_context(),
    )


def _is_there(origin: str) -> bool:
    """Whether something answers at this machine's port; those of others are taken to be there."""
    parts = urlsplit(origin)
    if not is_loopback(parts.hostname or ""):
        return True
    place = parts.hostname or "", parts.port or 0
    try:
        socket.create_connection(place, timeout=_THERE_SECONDS).close()
    except OSError:
        return False
    return True
