"""`flash undeploy`: end what is deployed in an environment."""

from __future__ import annotations

import click

from runpod_flash.cli import output
from runpod_flash.cli.place import chosen_place, path_of, place_options
from runpod_flash.cli.servers import chosen_server, server_options


@click.command()
@place_options
@click.option("-y", "--yes", "--force", is_flag=True, help="Do not ask.")
@server_options
def undeploy(
    app: str | None, environment: str | None, yes: bool, server: str | None, insecure: bool
) -> None:
    """End an environment of an app: its endpoints, its jobs, its workers and its releases.

    Volumes stay.

    Example: flash undeploy --env staging
    """
    client = chosen_server(server, insecure)
    place = chosen_place(client, app, environment)
    endpoints = client.ask("GET", path_of(place))["endpoints"]
    names = ", ".join(each["name"] for each in endpoints) or "nothing"
    what = f"{place.app} {place.environment} ({names})"
    require_consent(f"End {what}?", yes)
    client.ask("DELETE", path_of(place))
    click.echo(f"{what} has ended.")


def require_consent(question: str, yes: bool) -> None:
    """Ask, unless it was said; raises where the answer is no, or nobody can give one."""
    if yes:
        return
    if not output.can_ask():
        raise click.ClickException(f"{question} Add --yes if that is meant.")
    if not output.confirmed(question):
        raise click.Abort
