"""`flash key`: who may use a server. An admin makes, lists and revokes its keys."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

import click

from runpod_flash.cli import output
from runpod_flash.cli.servers import chosen_server, server_options

if TYPE_CHECKING:
    from runpod_flash.client.control import ControlClient

_HEADS = ("NAME", "ID", "SCOPE", "ENDPOINTS", "KEY", "LAST USED", "EXPIRES")
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 7 * 86_400}


def _span(_: click.Context, parameter: click.Parameter, value: str | None) -> int | None:
    """A length of time such as 30d, in seconds."""
    if value is None:
        return None
    found = re.fullmatch(r"([1-9]\d{0,6})([smhdw])", value)
    if found is None:
        text = f"{value!r} is no length of time; give one such as 30d, 12h or 45m"
        raise click.BadParameter(text, param=parameter)
    return int(found[1]) * _SECONDS[found[2]]


@click.group()
def key() -> None:
    """Make, list and revoke the keys of a server.

    Scopes: `invoke` calls functions and routes; `deploy` may also send Python objects, which is as
    much as a shell on the server; `admin` may also manage keys.

    Example: flash key create ci --expires 30d
    """


@key.command()
@click.argument("name")
@click.option(
    "--scope",
    type=click.Choice(["invoke", "deploy", "admin"]),
    default="invoke",
    show_default=True,
    help="What the key may do.",
)
@click.option(
    "--endpoint",
    "endpoints",
    multiple=True,
    metavar="NAME",
    help="Only for this endpoint; may be given several times.",
)
@click.option(
    "--expires", callback=_span, metavar="TIME", help="End it after a time such as 30d or 12h."
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON, for a script.")
@server_options
def create(
    name: str,
    scope: str,
    endpoints: tuple[str, ...],
    expires: int | None,
    as_json: bool,
    server: str | None,
    insecure: bool,
) -> None:
    """Make a key, and print it: this once, for the server keeps only its hash.

    Example: flash key create ci --endpoint resize --expires 30d
    """
    fields = {"name": name, "scope": scope, "endpoints": list(endpoints), "expiresIn": expires}
    made = chosen_server(server, insecure).ask("POST", "/v2/keys", fields)
    if as_json:
        click.echo(json.dumps(made, indent=2))
        return
    click.echo(made["key"])
    until = f" until {made['expiresAt']}" if made["expiresAt"] else ""
    where = f" for {', '.join(made['endpoints'])}" if made["endpoints"] else ""
    # (Not to standard output, so that a script gets the key alone.)
    click.echo(f"{made['name']} ({made['id']}) may {scope}{where}{until}.", err=True)
    click.echo("It is not shown again. Programs take it from FLASH_API_KEY.", err=True)


@key.command(name="list")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, for a script.")
@server_options
def list_(as_json: bool, server: str | None, insecure: bool) -> None:
    """List the keys of a server: whose they are, what they may do, when they were last used.

    Example: flash key list --server http://localhost:8000
    """
    found = _keys(chosen_server(server, insecure))
    if as_json:
        click.echo(json.dumps(found, indent=2))
        return
    rows = [
        (
            each["name"],
            each["id"],
            each["scope"],
            ", ".join(each["endpoints"]) or "all",
            each["masked"],
            each["lastUsedAt"] or "never",
            each["expiresAt"] or "never",
        )
        for each in found
    ]
    for index, line in enumerate(output.table([_HEADS, *rows])):
        click.echo(click.style(line, dim=True) if not index else line)


@key.command()
@click.argument("key", metavar="NAME_OR_ID")
@server_options
def revoke(key: str, server: str | None, insecure: bool) -> None:
    """End a key, at once and for good.

    Example: flash key revoke ci
    """
    client = chosen_server(server, insecure)
    found = next((k for k in _keys(client) if key in (k["id"], k["name"])), None)
    if found is None:
        raise click.ClickException(
            f"{client.origin} has no key {key!r}; `flash key list` shows all"
        )
    client.ask("DELETE", f"/v2/keys/{found['id']}")
    click.echo(f"{found['name']} ({found['id']}) is revoked.")


def _keys(client: ControlClient) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = client.ask("GET", "/v2/keys")["keys"]
    return found
