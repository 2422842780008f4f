"""One run of `flash deploy`: what changes, the upload, and the release."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from runpod_flash.cli import build_screen, deploy_screen, dev_screen, output
from runpod_flash.cli.build_session import built, found
from runpod_flash.cli.place import chosen_place, environments_of, path_of
from runpod_flash.cli.progress import Progress
from runpod_flash.cli.servers import chosen_address
from runpod_flash.client.connection import Connection
from runpod_flash.client.control import ControlClient
from runpod_flash.client.deploying import Deploying, ReleaseFailedError, changes, package_changes

if TYPE_CHECKING:
    from pathlib import Path

    from runpod_flash.control.releases import AppEnv
    from runpod_flash.packing.artifact import Artifact
    from runpod_flash.packing.building import BuildOptions


@dataclass(frozen=True)
class Options:
    """What the command line said."""

    app: str | None
    environment: str | None
    preview: bool
    take_over: bool
    yes: bool
    server: str | None
    insecure: bool


def run(root: Path, options: Options, building: BuildOptions) -> int:
    """Deploy; the exit code."""
    began = time.monotonic()
    catalog = found(root, "deployed")
    if catalog is None:
        return 1
    address = chosen_address(options.server)
    client = ControlClient(address, insecure=options.insecure)
    place = chosen_place(client, options.app, options.environment)
    there = _there(client, place)
    present = {each["name"]: each["packages"] for each in there.get("endpoints", ())}
    artifact = built(catalog, client, building, present)
    planned = list(changes(artifact.catalog, there))
    active = there.get("activeRelease")
    declared = {name for each in catalog.endpoints for name in each.env}
    secret = sorted(declared.intersection(there.get("secrets", ())))
    deploy_screen.plan(place, client.origin, planned, active, secret)
    deploy_screen.packages(package_changes(artifact, there))
    if options.preview:
        build_screen.parts(artifact)
        return 0
    removed = [change.endpoint for change in planned if change.removes]
    if removed and not options.yes and not _agreed(removed):
        return 1
    return asyncio.run(_deploy(options, artifact, place, client, active, began))


def _there(client: ControlClient, place: AppEnv) -> dict[str, Any]:
    """What the environment has."""
    if place.environment not in environments_of(client, place.app):
        return {}
    found: dict[str, Any] = client.ask("GET", path_of(place))
    return found


def _agreed(removed: list[str]) -> bool:
    names = ", ".join(removed)
    if not output.can_ask():
        output.error(f"{names} would be removed; add --yes if that is meant.")
        return False
    return output.confirmed(f"Remove {names}?")


async def _deploy(
    options: Options,
    artifact: Artifact,
    place: AppEnv,
    client: ControlClient,
    active: int | None,
    began: float,
) -> int:
    connection = Connection(client.origin, insecure=options.insecure, named_by="")
    deploying = Deploying(connection, place.app, place.environment)

    async def work() -> dict[str, Any]:
        sending = Progress("upload")
        told = await deploying.begin(artifact, sending, take_over=options.take_over)
        if not told.get("unchanged"):
            told["release"] = await deploying.follow(told["release"]["number"])
        return told

    try:
        told = await asyncio.wrap_future(connection.spawn(work()))
    except ReleaseFailedError as error:
        output.error(str(error))
        dev_screen.say(f"release {active} is served as before" if active else "nothing is served")
        return 1
    number = told["release"]["number"]
    if told.get("unchanged"):
        dev_screen.say(f"nothing has changed: release {number} is served")
    if any(each.spec.build.container for each in artifact.catalog.endpoints):
        deploy_screen.images(_there(client, place)["endpoints"])
    deploy_screen.served(artifact.catalog, client, place, number, time.monotonic() - began)
    return 0
