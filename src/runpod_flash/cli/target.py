"""`flash target`: where programs and commands run."""

from __future__ import annotations

import shlex

import click

from runpod_flash.cli import output
from runpod_flash.cli.servers import chosen_address


@click.group()
def target() -> None:
    """List servers, and choose where programs run.

    FLASH_TARGET counts before the choice that is made here.

    Example: flash target use http://localhost:8000
    """


@target.command(name="list")
def list_() -> None:
    """List the servers that a key is kept for; the chosen one is marked.

    Example: flash target list
    """
    from runpod_flash.client.chosen import chosen_target
    from runpod_flash.client.credentials import known_servers, origin_of

    chosen = chosen_target()
    here = "" if chosen is None else origin_of(chosen.address)
    servers = sorted({*known_servers(), *([here] if here else [])})
    rows = [("this machine", "" if chosen else "chosen")]
    by = "" if chosen is None else f"chosen by {chosen.by}"
    rows += [(each, by if each == here else "") for each in servers]
    for line in output.headed(("TARGET", ""), rows):
        click.echo(line)


@target.command()
@click.argument("address", metavar="URL")
def use(address: str) -> None:
    """Have programs and commands run at a server from now on; `none`: on this machine.

    Example: flash target use none
    """
    from runpod_flash.client.chosen import VARIABLE, chosen_target, keep_choice
    from runpod_flash.client.credentials import kept_key, origin_of

    origin = "" if address == "none" else origin_of(address)
    keep_choice(origin)
    chosen = chosen_target()
    if chosen is not None and chosen.by == VARIABLE:
        click.echo(f"Chosen, but {VARIABLE} is set to {chosen.address} and counts before it.")
    elif not origin:
        click.echo("Programs run on this machine.")
    else:
        hint = "" if kept_key(origin) else " (no key is kept for it: `flash login` keeps one)"
        click.echo(f"Programs and commands run at {origin}{hint}.")


@target.command()
@click.option("--server", metavar="URL", help="The server (default: the chosen target).")
def env(server: str | None) -> None:
    """Print the variables with which programs and clients of the hosted service run at a server.

    The key is shown: it is for a shell, not for a screen that others see.

    Example: eval "$(flash target env)"
    """
    from runpod_flash.client.credentials import key_for, origin_of

    origin = origin_of(chosen_address(server))
    key = key_for(origin)
    variables = {
        "FLASH_TARGET": origin,
        "RUNPOD_API_BASE_URL": origin,
        "RUNPOD_ENDPOINT_BASE_URL": f"{origin}/v2",
        "RUNPOD_REST_API_URL": f"{origin}/v1",
        "RUNPOD_HAPI_URL": origin,
        "RUNPOD_CONSOLE_URL": origin,
    }
    if key is not None:
        variables |= {"FLASH_API_KEY": key, "RUNPOD_API_KEY": key}
    for name, value in variables.items():
        click.echo(f"export {name}={shlex.quote(value)}")
