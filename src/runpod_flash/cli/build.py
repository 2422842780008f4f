"""`flash build`: make what `flash deploy` sends, and stop."""

from __future__ import annotations

from typing import Any

import click

from runpod_flash.cli.build_options import build_options, read_options
from runpod_flash.cli.json_output import json_option


@click.command()
@build_options
@click.option(
    "-o",
    "--output",
    metavar="FILE",
    default=".flash/artifact.tar.gz",
    show_default=True,
    help="Where the archive is written.",
)
@json_option
@click.option("--server", metavar="URL", help="Build for the workers of this server.")
@click.option(
    "--insecure", is_flag=True, help="Send the key over plain http, which others may read."
)
def build(output: str, as_json: bool, server: str | None, insecure: bool, **options: Any) -> None:
    """Lock this project's packages, check its files, and write both into an archive.

    Images that endpoints name are pulled to this machine, unless the build is for a server: that
    pulls them itself when it is deployed to.

    The archive has what `flash deploy` would send: nothing is prepared on a server. The same
    project gives the same bytes.

    Example: flash build --bundle
    """
    from pathlib import Path

    from runpod_flash.cli.build_session import Wanted, run

    wanted = Wanted(Path(output), as_json, server, insecure)
    raise SystemExit(run(Path.cwd(), read_options(options), wanted))
