"""What a person sees of a build: its parts by size, and where it is."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import click

from runpod_flash.cli import output
from runpod_flash.cli.json_output import print_json
from runpod_flash.packing.artifact import shown

if TYPE_CHECKING:
    from pathlib import Path

    from runpod_flash.packing.artifact import Artifact


def parts(artifact: Artifact) -> None:
    """What it is made of, the largest first, and what a server fetches besides."""
    rows = [(each.name, each.what, _size(each.size)) for each in shown(artifact.parts())]
    click.echo()
    for line in output.headed(("PART", "", "SIZE"), rows, right=[2]):
        click.echo(f"  {line}")
    click.echo()
    fetched = artifact.fetched()
    if fetched:
        size = sum(package.size for package in fetched)
        more = "" if all(package.size for package in fetched) else " and more"
        known = f" ({_size(size)}{more})" if size else ""
        click.echo(f"  the server fetches {output.counted(len(fetched), 'package')}{known}")


def written(artifact: Artifact, archive: Path, seconds: float) -> None:
    """What was built, and where it lies."""
    size, number = archive.stat().st_size, len(artifact.files)
    click.echo(
        f"  {archive}: {output.counted(number, 'file')}, {_size(size)} ({seconds:.1f} s); "
        "`flash deploy` serves it"
    )
    click.echo()


def as_json(artifact: Artifact, archive: Path) -> None:
    """The same for a script, with the packages of each endpoint."""
    told = {
        "archive": str(archive),
        "sha256": hashlib.sha256(archive.read_bytes()).hexdigest(),
        "size": artifact.size,
        "files": [file.path for file in artifact.files],
        "endpoints": [
            {
                "name": each.spec.name,
                "python": each.spec.build.python,
                "packages": {p.name: p.version for p in artifact.locks[each.spec.name]},
            }
            for each in artifact.catalog.endpoints
        ],
    }
    print_json(told)


def _size(size: int) -> str:
    for unit, of in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if size >= of:
            return f"{size / of:.1f} {unit}"
    return f"{size} B"
