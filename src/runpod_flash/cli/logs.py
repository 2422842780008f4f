"""`flash logs`: what a server's workers print, and what becomes of them."""

from __future__ import annotations

import json
from urllib.parse import quote

import click

from runpod_flash.cli.log_screen import dated
from runpod_flash.cli.servers import chosen_server, server_options


@click.command()
@click.argument("endpoint", required=False)
@click.option("-f", "--follow", is_flag=True, help="Go on with the lines that come, until Ctrl-C.")
@click.option("--worker", metavar="ID", help="Only of this worker; it may have ended.")
@click.option(
    "--tail",
    type=click.IntRange(0, 5000),
    default=100,
    show_default=True,
    help="So many lines that there are already.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a line.")
@server_options
def logs(
    endpoint: str | None,
    follow: bool,
    worker: str | None,
    tail: int,
    as_json: bool,
    server: str | None,
    insecure: bool,
) -> None:
    """Show the lines of an endpoint's workers, or of all that a server has.

    Example: flash logs resize -f
    """
    target = chosen_server(server, insecure)
    from runpod_flash.client.log_reader import LogReader
    from runpod_flash.client.terminal import say

    reader = LogReader(target, _path(endpoint, worker), tail=str(tail))

    def away() -> None:
        say(f"{target.origin} is away; its lines come when it is back")

    for line in reader.follow(away=away) if follow else reader.kept():
        click.echo(json.dumps(line) if as_json else dated(line))


def _path(endpoint: str | None, worker: str | None) -> str:
    if endpoint is None:
        if worker is None:
            return "/v2/flash/logs"
        endpoint = worker.rpartition("-")[0]
    base = f"/v2/serverless/{quote(endpoint, safe='')}"
    return f"{base}/workers/{quote(worker, safe='')}/logs" if worker else f"{base}/logs"
