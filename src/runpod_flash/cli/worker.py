"""`flash worker`: workers that are started elsewhere, such as images built on RunPod's package."""

from __future__ import annotations

import json
import shlex
from urllib.parse import quote

import click

from runpod_flash.cli.servers import chosen_server, server_options


@click.group()
def worker() -> None:
    """Let workers that you start yourself serve an endpoint of a server.

    Example: eval "$(flash worker env transcribe --new)" && python handler.py
    """


@worker.command()
@click.argument("endpoint")
@click.option("--new", is_flag=True, help="Make the endpoint if there is none of that name.")
@click.option("--gpu", default="unknown", help="The GPU's name, for the server's lists.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, for a script.")
@server_options
def env(
    endpoint: str, new: bool, gpu: str, as_json: bool, server: str | None, insecure: bool
) -> None:
    """Print the variables of one new worker, for a program of `runpod.serverless.start`.

    They hold a token that is good for this worker of this endpoint only, and ends with it.

    Example: flash worker env transcribe --new > worker.env
    """
    from runpod_flash.links.runpod_variables import runpod_variables

    chosen = chosen_server(server, insecure)
    path = f"/v2/serverless/{quote(endpoint, safe='')}/workers"
    made = chosen.ask("POST", path, {"external": new})
    found = runpod_variables(chosen.origin, endpoint, made["id"], made["token"], gpu)
    if as_json:
        click.echo(json.dumps(found))
        return
    for name, value in found.items():
        click.echo(f"export {name}={shlex.quote(value)}")


@worker.command()
@click.argument("endpoint")
@click.argument("worker_id", metavar="WORKER")
@server_options
def revoke(endpoint: str, worker_id: str, server: str | None, insecure: bool) -> None:
    """End the token of a worker, at once; its jobs go to others.

    Example: flash worker revoke transcribe transcribe-1f0c7a52
    """
    place = f"{quote(endpoint, safe='')}/workers/{quote(worker_id, safe='')}"
    chosen_server(server, insecure).ask("DELETE", f"/v2/serverless/{place}")
    click.echo(f"{worker_id} may work no more")
