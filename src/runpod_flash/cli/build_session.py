"""One run of `flash build`, and the part of `flash deploy` that is the same."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from runpod_flash.cli import build_screen, dev_screen, output
from runpod_flash.client.chosen import chosen_target
from runpod_flash.client.control import ControlClient
from runpod_flash.engines.base import Platform
from runpod_flash.packing.building import build
from runpod_flash.packing.pulling import pull
from runpod_flash.project.discovery import discover

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from runpod_flash.packing.artifact import Artifact
    from runpod_flash.packing.building import BuildOptions
    from runpod_flash.project.catalog import Catalog


@dataclass(frozen=True)
class Wanted:
    """What the command line said, besides options of the build itself."""

    archive: Path
    as_json: bool
    server: str | None
    insecure: bool


def run(root: Path, options: BuildOptions, wanted: Wanted) -> int:
    """Build into a file; the exit code."""
    began = time.monotonic()
    catalog = found(root, "built")
    if catalog is None:
        return 1
    target = chosen_target()
    address = wanted.server or (target.address if target is not None else "")
    client = ControlClient(address, insecure=wanted.insecure) if address else None
    artifact = built(catalog, client, options)
    _ignore(wanted.archive)
    artifact.write(wanted.archive)
    if wanted.as_json:
        build_screen.as_json(artifact, wanted.archive)
    else:
        build_screen.parts(artifact)
        build_screen.written(artifact, wanted.archive, time.monotonic() - began)
    # (A server pulls images itself, when it is deployed to.)
    problems = pull(catalog.endpoints, dev_screen.say) if client is None else []
    for problem in problems:
        output.error(problem)
    return 1 if problems else 0


def found(root: Path, done: str) -> Catalog | None:
    """What the project declares; None where that is nothing, or amiss, which is said."""
    catalog = asyncio.run(discover(root))
    if catalog.problems:
        dev_screen.problems(catalog.problems)
        output.error(f"nothing was {done}: mend this first.")
        return None
    if not catalog.endpoints:
        dev_screen.nothing_found(root, catalog)
        return None
    return catalog


def built(
    catalog: Catalog,
    client: ControlClient | None,
    options: BuildOptions,
    present: Mapping[str, Mapping[str, str]] | None = None,
) -> Artifact:
    """The artifact for that server's workers, or for those of none in particular."""
    platform = None if client is None else _platform(client)
    return asyncio.run(build(catalog, platform, options, dev_screen.say, present))


def _platform(client: ControlClient) -> Platform:
    told = client.ask("GET", "/v2/platform")
    return Platform(told["python"], told["system"], told["cuda"], tuple(told["wheels"]))


def _ignore(archive: Path) -> None:
    """Keep Git from what lies in a folder of our own."""
    if archive.parent.name == ".flash":
        archive.parent.mkdir(parents=True, exist_ok=True)
        mark = archive.parent / ".gitignore"
        if not mark.exists():
            mark.write_text("*\n", encoding="utf-8")
