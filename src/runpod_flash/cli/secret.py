"""`flash secret`: values of environment variables that are in no file and no release."""

from __future__ import annotations

import click

from runpod_flash.cli import output
from runpod_flash.cli.json_output import json_option, print_json
from runpod_flash.cli.place import chosen_place, path_of, place_options
from runpod_flash.cli.servers import chosen_server, server_options
from runpod_flash.cli.standard_input import read_input


@click.group()
def secret() -> None:
    """Set, list and unset secrets of an environment: variables that all of its workers have.

    A change needs no deploy: workers are replaced one by one. Values are encrypted on the server,
    and never shown again.

    Example: flash secret set HF_TOKEN
    """


@secret.command(name="set")
@click.argument("name")
@place_options
@server_options
def set_(
    name: str, app: str | None, environment: str | None, server: str | None, insecure: bool
) -> None:
    """Set NAME to a value that is asked for, or comes from standard input.

    It counts instead of what endpoints declare under that name, and stays over deploys and
    rollbacks.

    Example: flash secret set HF_TOKEN < token.txt
    """
    piped = None if output.can_ask() else read_input().removesuffix("\n")
    client = chosen_server(server, insecure)
    place = chosen_place(client, app, environment)
    value = piped
    if value is None:
        value = click.prompt(f"Value of {name}", hide_input=True, err=True)
    told = client.ask("PUT", f"{path_of(place)}/secrets/{name}", {"value": value})
    click.echo(f"{name} is set.{_replaced(told['replaced'])}")


@secret.command(name="list")
@place_options
@json_option
@server_options
def list_(
    app: str | None, environment: str | None, as_json: bool, server: str | None, insecure: bool
) -> None:
    """List the secrets of an environment: their names, never their values.

    Example: flash secret list --env staging
    """
    client = chosen_server(server, insecure)
    place = chosen_place(client, app, environment)
    found = client.ask("GET", f"{path_of(place)}/secrets")["secrets"]
    if as_json:
        print_json(found)
    elif not found:
        click.echo(f"{place.app} {place.environment} has no secrets.")
    else:
        for line in output.headed(("NAME", "SET"), [(e["name"], e["setAt"]) for e in found]):
            click.echo(line)


@secret.command()
@click.argument("name")
@place_options
@server_options
def unset(
    name: str, app: str | None, environment: str | None, server: str | None, insecure: bool
) -> None:
    """End a secret: workers have what their endpoints declare under that name, if they do.

    Example: flash secret unset HF_TOKEN
    """
    client = chosen_server(server, insecure)
    place = chosen_place(client, app, environment)
    told = client.ask("DELETE", f"{path_of(place)}/secrets/{name}")
    click.echo(f"{name} is unset.{_replaced(told['replaced'])}")


def _replaced(names: list[str]) -> str:
    return f" The workers of {', '.join(names)} are replaced one by one." if names else ""
