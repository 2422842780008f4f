"""`flash releases`: what was deployed, and when."""

from __future__ import annotations

import click

from runpod_flash.cli import output
from runpod_flash.cli.json_output import json_option, print_json
from runpod_flash.cli.place import chosen_place, path_of, place_options
from runpod_flash.cli.servers import chosen_server, server_options

_HEADS = ("RELEASE", "STATE", "DEPLOYED", "BY", "IMAGES", "CAUSE")


@click.command()
@place_options
@json_option
@server_options
def releases(
    app: str | None, environment: str | None, as_json: bool, server: str | None, insecure: bool
) -> None:
    """List what was deployed to an environment, the newest first.

    Example: flash releases --env production
    """
    client = chosen_server(server, insecure)
    place = chosen_place(client, app, environment)
    told = client.ask("GET", f"{path_of(place)}/releases")
    found = told["releases"]
    if as_json:
        print_json(found)
        return
    rows = [
        (
            str(each["number"]),
            each["state"],
            each["createdAt"],
            each["createdBy"],
            ", ".join(dict.fromkeys(map(output.image, each["images"]))),
            each["cause"].partition("\n")[0],
        )
        for each in found
    ]
    for line in output.headed(*output.without_empty("IMAGES", _HEADS, rows)):
        click.echo(line)
    click.echo(f"The last {told['kept']} that were served are kept to go back to.")
