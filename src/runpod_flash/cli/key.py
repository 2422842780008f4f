"""`flash key`: who may use a server. An admin makes, lists and revokes its keys."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import click

from runpod_flash.cli import output
from runpod_flash.cli.json_output import json_option, print_json
from runpod_flash.cli.servers import F, chosen_server, server_options

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


def _what_it_may(command: F) -> F:
    """Adds the options that say what a new key may do."""
    scope = click.option(
        "--scope",
        type=click.Choice(["invoke", "deploy", "admin"]),
        default="invoke",
        show_default=True,
        help="What the key may do.",
    )
    endpoint = click.option(
        "--endpoint",
        "endpoints",
        multiple=True,
        metavar="NAME",
        help="Only for this endpoint; may be given several times.",
    )
    expires = click.option(
        "--expires", callback=_span, metavar="TIME", help="End it after a time such as 30d or 12h."
    )
    return scope(endpoint(expires(command)))


def _fields(
    name: str, scope: str, endpoints: tuple[str, ...], expires: int | None
) -> dict[str, Any]:
    return {"name": name, "scope": scope, "endpoints": list(endpoints), "expiresIn": expires}


@click.group()
def key() -> None:
    """Make, list and revoke the keys of a server, and invite others to it.

    Scopes: `invoke` calls functions and routes; `deploy` may also send Python objects, which is as
    much as a shell on the server; `admin` may also manage keys.

    Example: flash key create ci --expires 30d
    """


@key.command()
@click.argument("name")
@_what_it_may
@json_option
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
    fields = _fields(name, scope, endpoints, expires)
    made = chosen_server(server, insecure).ask("POST", "/v2/keys", fields)
    if as_json:
        print_json(made)
        return
    click.echo(made["key"])
    until = f" until {made['expiresAt']}" if made["expiresAt"] else ""
    where = f" for {', '.join(made['endpoints'])}" if made["endpoints"] else ""
    # (Not to standard output, so that a script gets the key alone.)
    click.echo(f"{made['name']} ({made['id']}) may {scope}{where}{until}.", err=True)
    click.echo("It is not shown again. Programs take it from FLASH_API_KEY.", err=True)


@key.command()
@click.argument("name")
@_what_it_may
@click.option(
    "--within",
    callback=_span,
    default="7d",
    show_default=True,
    metavar="TIME",
    help="How long the link works.",
)
@json_option
@server_options
def invite(
    name: str,
    scope: str,
    endpoints: tuple[str, ...],
    expires: int | None,
    within: int,
    as_json: bool,
    server: str | None,
    insecure: bool,
) -> None:
    """Print a link that makes a key for somebody, once: they open it in a browser.

    `flash key list` shows links that were not used yet, and `flash key revoke` ends them.

    Example: flash key invite ada --scope deploy
    """
    from runpod_flash.loopback import is_loopback

    client = chosen_server(server, insecure)
    fields = _fields(name, scope, endpoints, expires)
    made = client.ask("POST", "/v2/invitations", {**fields, "validFor": within})
    made["link"] = f"{client.origin}/setup?{urlsplit(made['link']).query}"
    if as_json:
        print_json(made)
        return
    click.echo(made["link"])
    where = f" for {', '.join(made['endpoints'])}" if made["endpoints"] else ""
    click.echo(
        f"Whoever opens it first gets the key {name}, which may {scope}{where}. It works once, "
        f"until {made['expiresAt']}: send it as you would send a key.",
        err=True,
    )
    if is_loopback(urlsplit(client.origin).hostname or ""):
        click.echo("On other machines, this server has another name than in the link.", err=True)


@key.command(name="list")
@json_option
@server_options
def list_(as_json: bool, server: str | None, insecure: bool) -> None:
    """List the keys of a server: whose they are, what they may do, when they were last used.

    Example: flash key list --server http://localhost:8000
    """
    client = chosen_server(server, insecure)
    found, invited = _keys(client), _invitations(client)
    if as_json:
        print_json(found)
        return
    rows = [_row(each, each["masked"], each["lastUsedAt"] or "never") for each in found]
    rows += [_row(each, "invited", "") for each in invited]
    for line in output.headed(_HEADS, rows):
        click.echo(line)


@key.command()
@click.argument("key", metavar="NAME_OR_ID")
@server_options
def revoke(key: str, server: str | None, insecure: bool) -> None:
    """End a key, or the link of an invitation, at once and for good.

    Example: flash key revoke ci
    """
    client = chosen_server(server, insecure)
    folders = {"keys": _keys(client), "invitations": _invitations(client)}
    for folder, there in folders.items():
        found = next((each for each in there if key in (each["id"], each["name"])), None)
        if found is not None:
            client.ask("DELETE", f"/v2/{folder}/{found['id']}")
            click.echo(f"{found['name']} ({found['id']}) is revoked.")
            return
    raise click.ClickException(f"{client.origin} has no key {key!r}; `flash key list` shows all")


def _row(each: dict[str, Any], key: str, used: str) -> tuple[str, ...]:
    endpoints = ", ".join(each["endpoints"]) or "all"
    until = each["expiresAt"] or "never"
    return each["name"], each["id"], each["scope"], endpoints, key, used, until


def _keys(client: ControlClient) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = client.ask("GET", "/v2/keys")["keys"]
    return found


def _invitations(client: ControlClient) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = client.ask("GET", "/v2/invitations")["invitations"]
    return found
