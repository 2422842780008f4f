"""`flash login`: keep a key of a server for this user's commands and programs."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from runpod_flash.cli import output

if TYPE_CHECKING:
    from runpod_flash.client.control import ControlClient


@click.command()
@click.option("--server", metavar="URL", help="The server (default: the only known one).")
@click.option("--api-key", metavar="KEY", help="The key; - reads it from standard input.")
@click.option(
    "--insecure", is_flag=True, help="Send the key over plain http, which others may read."
)
def login(server: str | None, api_key: str | None, insecure: bool) -> None:
    """Keep a key of a server, and have programs run there from now on.

    An admin of the server makes a key: `flash key create NAME --scope deploy`. Without --api-key it
    is asked for, unseen.

    Example: flash login --server https://gpu-box:8000
    """
    from runpod_flash.client.chosen import keep_choice
    from runpod_flash.client.control import ControlClient
    from runpod_flash.client.credentials import keep_key

    address = server or _only_known()
    key = _given(api_key, address)
    client = ControlClient(address, insecure=insecure, key=key)
    whose = account(client)
    keep_key(client.origin, key)
    keep_choice(client.origin)
    click.echo(f"Logged in as {whose}.")
    click.echo("Programs and commands run there now; `flash target use none`: on this machine.")


def _only_known() -> str:
    from runpod_flash.client.credentials import known_servers

    known = known_servers()
    if len(known) != 1:
        which = f"several servers are known: {', '.join(known)}" if known else "no server is known"
        raise click.UsageError(
            f"{which[0].upper()}{which[1:]}; give --server URL (`flash server` starts one).",
            click.get_current_context(),
        )
    return known[0]


def _given(api_key: str | None, address: str) -> str:
    if api_key == "-" or (api_key is None and not output.can_ask()):
        api_key = sys.stdin.read()
    elif api_key is None:
        api_key = click.prompt(f"A key of {address}", hide_input=True, err=True)
    key = str(api_key).strip()
    if not key:
        raise click.ClickException(
            "No key was given: pass --api-key KEY, or pipe it in (`flash key create` makes one)."
        )
    return key


def account(client: ControlClient) -> str:
    """Whose key is used, as a phrase."""
    key = client.ask("GET", "/v2/account")["key"]
    only = f" to {', '.join(key['endpoints'])}" if key["endpoints"] else ""
    until = f" until {key['expiresAt']}" if key["expiresAt"] else ""
    return f"{key['name']} at {client.origin}, who may {key['scope']}{only}{until}"
