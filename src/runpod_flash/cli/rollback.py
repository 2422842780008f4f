"""`flash rollback`: serve an earlier release again."""

from __future__ import annotations

from typing import Any

import click

from runpod_flash.cli.place import chosen_place, path_of, place_options
from runpod_flash.cli.servers import chosen_server, server_options


@click.command()
@click.argument("number", type=int, required=False)
@place_options
@server_options
def rollback(
    number: int | None,
    app: str | None,
    environment: str | None,
    server: str | None,
    insecure: bool,
) -> None:
    """Serve release NUMBER again: by default the one that was served before the present one.

    Its workers are started before it takes over. Values of environment variables stay as they are.

    Example: flash rollback
    """
    import asyncio

    from runpod_flash.cli.dev_screen import say
    from runpod_flash.client.connection import Connection
    from runpod_flash.client.deploying import Deploying

    client = chosen_server(server, insecure)
    place = chosen_place(client, app, environment)
    if number is None:
        number = _before(client.ask("GET", f"{path_of(place)}/releases")["releases"])
    connection = Connection(client.origin, insecure=insecure, named_by="")
    deploying = Deploying(connection, place.app, place.environment)

    async def work(wanted: int) -> None:
        await deploying.activate(wanted)
        await deploying.follow(wanted)

    asyncio.run(_there(connection.spawn(work(number))))
    say(f"release {number} of {place.app} {place.environment} is served")


async def _there(work: Any) -> None:
    import asyncio

    await asyncio.wrap_future(work)


def _before(releases: list[dict[str, Any]]) -> int:
    """The latest that was served before the one that is."""
    active = next((each["number"] for each in releases if each["state"] == "active"), None)
    for each in releases:
        if each["state"] == "replaced" and (active is None or each["number"] < active):
            return int(each["number"])
    raise click.ClickException(
        "There is no earlier release to go back to; `flash releases` lists all."
    )
