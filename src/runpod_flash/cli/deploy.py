"""`flash deploy`: serve this directory's endpoints from a server."""

from __future__ import annotations

from typing import Any

import click

from runpod_flash.cli.build_options import build_options, read_options
from runpod_flash.cli.place import place_options
from runpod_flash.cli.servers import server_options


@click.command()
@place_options
@click.option("--preview", is_flag=True, help="Show what would change, and stop.")
@click.option("--take-over", is_flag=True, help="Deploy although another project has this app.")
@click.option("-y", "--yes", is_flag=True, help="Remove endpoints that are gone without asking.")
@build_options
@server_options
def deploy(
    app: str | None,
    environment: str | None,
    preview: bool,
    take_over: bool,
    yes: bool,
    server: str | None,
    insecure: bool,
    **building: Any,
) -> None:
    """Serve this directory's endpoints from a server.

    Only what the server lacks is uploaded. A worker of each endpoint that changes is started before
    the release takes over: where one does not start, its reason is shown, and what was there is
    served as before.

    Example: flash deploy --env staging
    """
    from pathlib import Path

    from runpod_flash.cli.deploy_session import Options, run

    options = Options(app, environment, preview, take_over, yes, server, insecure)
    raise SystemExit(run(Path.cwd(), options, read_options(building)))
