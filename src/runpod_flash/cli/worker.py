"""`flash worker`: workers that are started elsewhere than on the server."""

from __future__ import annotations

import json
import shlex
from typing import TYPE_CHECKING
from urllib.parse import quote

import click

from runpod_flash.cli.json_output import json_option
from runpod_flash.cli.numbers import Number
from runpod_flash.cli.servers import chosen_address, chosen_server, server_options

if TYPE_CHECKING:
    from runpod_flash.engines.local.devices.leasing import GpuFallback

_TOKEN, _ENDPOINT, _SERVER = "FLASH_WORKER_TOKEN", "FLASH_WORKER_ENDPOINT", "FLASH_WORKER_SERVER"


@click.group()
def worker() -> None:
    """Let workers that you start yourself serve an endpoint of a server.

    Example: eval "$(flash worker env transcribe)" && flash worker run
    """


@worker.command()
@click.argument("endpoint")
@click.option("--new", is_flag=True, help="Make the endpoint if there is none of that name.")
@click.option("--gpu", default="unknown", help="The GPU's name, for the server's lists.")
@json_option
@server_options
def env(
    endpoint: str, new: bool, gpu: str, as_json: bool, server: str | None, insecure: bool
) -> None:
    """Print the variables of one new worker, for `flash worker run` on another machine.

    A program of `runpod.serverless.start` finds what it needs among them as well. They hold a token
    that is good for this worker of this endpoint only, and ends with it.

    Example: flash worker env transcribe > worker.env
    """
    from runpod_flash.links.runpod_variables import runpod_variables

    chosen = chosen_server(server, insecure)
    path = f"/v2/serverless/{quote(endpoint, safe='')}/workers"
    made = chosen.ask("POST", path, {"external": new})
    found = {
        _SERVER: chosen.origin,
        _ENDPOINT: endpoint,
        _TOKEN: made["token"],
        **runpod_variables(chosen.origin, endpoint, made["id"], made["token"], gpu),
    }
    if as_json:
        click.echo(json.dumps(found))
        return
    for name, value in found.items():
        click.echo(f"export {name}={shlex.quote(value)}")


@worker.command()
@click.argument("endpoint", envvar=_ENDPOINT)
@click.option(
    "--token",
    envvar=_TOKEN,
    help=f"The worker's own token; {_TOKEN} keeps it out of the list of processes.",
)
@click.option(
    "--grace",
    type=Number(min=0),
    default=30.0,
    show_default=True,
    help="Seconds that running jobs get after Ctrl-C.",
)
@click.option(
    "--gpu-fallback",
    type=click.Choice(["none", "cpu"]),
    default="none",
    show_default=True,
    help="Where no such GPU is here: run nothing, or run on the CPU.",
)
@server_options
def run(
    endpoint: str,
    token: str | None,
    grace: float,
    gpu_fallback: GpuFallback,
    server: str | None,
    insecure: bool,
) -> None:
    """Run a worker on this machine for an endpoint of a server.

    It gets the endpoint's code from there, builds its environment here, and connects again whenever
    the server is away or has other code. Each needs a token of its own: `flash worker env ENDPOINT`
    prints one, in the variables that this command reads.

    Example: flash worker run transcribe --server https://gpu.example.org
    """
    from runpod_flash.agent import host
    from runpod_flash.client.credentials import check_kept_secret, origin_of

    if not token:
        raise click.UsageError(
            f"No token: set {_TOKEN} to one; `flash worker env {endpoint}` makes it.",
            click.get_current_context(),
        )
    origin = origin_of(chosen_address(server, _SERVER))
    check_kept_secret(origin, "token", insecure=insecure)
    host.run(host.Options(origin, endpoint, token, grace, gpu_fallback))


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
