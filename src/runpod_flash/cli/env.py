"""`flash env`: the environments of an app."""

from __future__ import annotations

import click

from runpod_flash.cli.app import show_environments
from runpod_flash.cli.json_output import json_option, print_json
from runpod_flash.cli.place import chosen_app, path_of
from runpod_flash.cli.servers import chosen_server, server_options
from runpod_flash.cli.undeploy import require_consent
from runpod_flash.control.releases import AppEnv

_APP = click.option(
    "-a", "--app", metavar="NAME", help="The app (default: FLASH_APP, else this directory's name)."
)


@click.group()
def env() -> None:
    """List, show and delete the environments of an app. `flash deploy --env NAME` makes one.

    Example: flash env list
    """


@env.command(name="list")
@_APP
@json_option
@server_options
def list_(app: str | None, as_json: bool, server: str | None, insecure: bool) -> None:
    """List the environments of an app, and what is served in each.

    Example: flash env list --app shop
    """
    found = chosen_server(server, insecure).ask("GET", f"/v2/apps/{chosen_app(app)}")
    if as_json:
        print_json(found["environments"])
        return
    show_environments(found["environments"])


@env.command()
@click.argument("name")
@_APP
@json_option
@server_options
def get(name: str, app: str | None, as_json: bool, server: str | None, insecure: bool) -> None:
    """Show one environment: its endpoints, and the volumes that they have.

    Example: flash env get production
    """
    found = chosen_server(server, insecure).ask("GET", path_of(AppEnv(chosen_app(app), name)))
    if as_json:
        print_json(found)
        return
    show_environments([found])
    if found["networkVolumes"]:
        names = ", ".join(f"{each['name']} ({each['id']})" for each in found["networkVolumes"])
        click.echo(f"\nvolumes: {names}")


@env.command()
@click.argument("name")
@_APP
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
@server_options
def delete(name: str, app: str | None, yes: bool, server: str | None, insecure: bool) -> None:
    """End an environment, with its jobs and workers. Volumes stay.

    Example: flash env delete staging
    """
    client, place = chosen_server(server, insecure), AppEnv(chosen_app(app), name)
    if not yes:  # nobody is asked about one that there is not
        client.ask("GET", path_of(place))
    require_consent(f"End {place.app} {name}?", yes)
    client.ask("DELETE", path_of(place))
    click.echo(f"{place.app} {name} has ended.")
