"""`flash build`: make what `flash deploy` sends, and stop."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from runpod_flash.cli.build_options import build_options, read_options
from runpod_flash.cli.json_output import json_option

if TYPE_CHECKING:
    from pathlib import Path


def _file(_context: click.Context, _option: click.Parameter, value: str) -> Path:
    """Refused before anything is built: a folder, no name, and a device, which it would replace."""
    from pathlib import Path

    path = Path(value)
    if not path.name or (path.exists() and not path.is_file()):
        raise click.BadParameter(f"{value!r} is no file that can be written.")
    return path


@click.command()
@build_options
@click.option(
    "-o",
    "--output",
    metavar="FILE",
    default=".flash/artifact.tar.gz",
    show_default=True,
    callback=_file,
    help="Where the archive is written.",
)
@json_option
@click.option("--server", metavar="URL", help="Build for the workers of this server.")
@click.option(
    "--insecure", is_flag=True, help="Send the key over plain http, which others may read."
)
def build(output: Path, as_json: bool, server: str | None, insecure: bool, **options: Any) -> None:
    """Lock this project's packages, check its files, and write both into an archive.

    Images that endpoints name are pulled to this machine, unless the build is for a server: that
    pulls them itself when it is deployed to.

    The archive has what `flash deploy` would send: nothing is prepared on a server. The same
    project gives the same bytes.

    Example: flash build --bundle
    """
    from dataclasses import replace
    from pathlib import Path

    from runpod_flash.cli.build_session import Wanted, run

    wanted = Wanted(output, as_json, server, insecure)
    raise SystemExit(run(Path.cwd(), replace(read_options(options), archive=output), wanted))
