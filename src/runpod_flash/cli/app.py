"""`flash app`: the apps of a server."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from runpod_flash.cli import output
from runpod_flash.cli.json_output import json_option, print_json
from runpod_flash.cli.servers import chosen_server, server_options
from runpod_flash.cli.undeploy import require_consent

if TYPE_CHECKING:
    from collections.abc import Sequence


@click.group()
def app() -> None:
    """List, show and delete the apps of a server.

    Example: flash app list
    """


@app.command(name="list")
@json_option
@server_options
def list_(as_json: bool, server: str | None, insecure: bool) -> None:
    """List the apps of a server, and their environments.

    Example: flash app list
    """
    found = chosen_server(server, insecure).ask("GET", "/v2/apps")["apps"]
    if as_json:
        print_json(found)
        return
    rows = [(each["name"], ", ".join(each["environments"])) for each in found]
    _print(("APP", "ENVIRONMENTS"), rows, "No app is deployed here; `flash deploy` deploys one.")


@app.command()
@click.argument("name")
@json_option
@server_options
def get(name: str, as_json: bool, server: str | None, insecure: bool) -> None:
    """Show an app: its environments, and what is served in each.

    Example: flash app get shop
    """
    found = chosen_server(server, insecure).ask("GET", f"/v2/apps/{name}")
    if as_json:
        print_json(found)
        return
    show_environments(found["environments"])


@app.command()
@click.argument("name")
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
@server_options
def delete(name: str, yes: bool, server: str | None, insecure: bool) -> None:
    """End an app: all of its environments, with their jobs and workers. Volumes stay.

    Example: flash app delete shop
    """
    client = chosen_server(server, insecure)
    found = client.ask("GET", f"/v2/apps/{name}")
    there = ", ".join(each["name"] for each in found["environments"])
    require_consent(f"End {name} ({there})?", yes)
    client.ask("DELETE", f"/v2/apps/{name}")
    click.echo(f"{name} ({there}) has ended.")


def show_environments(found: Sequence[dict[str, Any]]) -> None:
    """A line for each endpoint of each environment."""
    nothing = {"name": "", "id": "", "image": None}
    rows = [
        (
            each["name"],
            str(each["activeRelease"] or "none"),
            endpoint["name"],
            endpoint["id"],
            output.image(endpoint["image"]),
        )
        for each in found
        for endpoint in each["endpoints"] or [nothing]
    ]
    heads = ("ENVIRONMENT", "RELEASE", "ENDPOINT", "ID", "IMAGE")
    _print(*output.without_empty("IMAGE", heads, rows), "It has no environment.")


def _print(heads: Sequence[str], rows: Sequence[Sequence[str]], otherwise: str) -> None:
    for line in output.headed(heads, rows) if rows else [otherwise]:
        click.echo(line)
