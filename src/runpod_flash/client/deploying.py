"""A release of an app at a server: what it would change, its upload, and how it went.

`gateway/apps_api.py` is the other end.
"""

from __future__ import annotations

import asyncio
import getpass
import socket
from contextlib import suppress
from typing import TYPE_CHECKING, Any, NamedTuple

from runpod_flash.client.session import listen, upload
from runpod_flash.client.terminal import Printer
from runpod_flash.errors import ConnectionClosedError, FlashError
from runpod_flash.project.identity import identity

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from runpod_flash.client.connection import Connection
    from runpod_flash.packing.artifact import Artifact
    from runpod_flash.project.catalog import Catalog, Discovered


class Change(NamedTuple):
    """What a release does to one endpoint, as a phrase; `removes` that it is there no more."""

    endpoint: str
    what: str
    removes: bool = False


class ReleaseFailedError(FlashError):
    """The server could not start the release's workers; the one before it is served."""


def changes(catalog: Catalog, there: dict[str, Any]) -> Iterator[Change]:
    """From what an environment has to what the catalog has."""
    known = {each["name"]: each for each in there.get("endpoints", ())}
    for each in catalog.endpoints:
        yield Change(each.spec.name, _change(each, known.get(each.spec.name)))
    kept = {each.spec.name for each in catalog.endpoints}
    for name in known:
        if name not in kept:
            yield Change(name, "removed: its jobs end", removes=True)


def package_changes(artifact: Artifact, there: dict[str, Any]) -> Iterator[Change]:
    """What becomes of the packages of endpoints that are served."""
    for each in there.get("endpoints", ()):
        name, before = each["name"], dict(each["packages"])
        now = {package.name: package.version for package in artifact.locks.get(name, ())}
        if words := list(_differences(before, now)):
            yield Change(name, ", ".join(words))


def _differences(before: Mapping[str, str], now: Mapping[str, str]) -> Iterator[str]:
    for name in sorted({**before, **now}):
        if name not in before:
            yield f"+ {name} {now[name]}"
        elif name not in now:
            yield f"- {name} {before[name]}"
        elif before[name] != now[name]:
            yield f"{name} {before[name]} -> {now[name]}"


def _change(each: Discovered, known: dict[str, Any] | None) -> str:
    if known is None:
        return "new"
    digests = known["digests"]
    if digests["build"] != each.spec.declared.build_digest:
        return "code or packages changed: its workers are replaced after their jobs"
    if digests["placement"] != each.spec.placement_digest:
        return "hardware or limits changed: its workers are replaced after their jobs"
    if known["variables"] != sorted(each.env):
        return "variables changed: its workers are replaced after their jobs"
    if digests["scaling"] != each.spec.scaling_digest:
        return "scaling changed: no worker is touched"
    return "unchanged, unless a value of its variables is" if each.env else "unchanged"


class Deploying:
    """A release on its way to an environment of an app."""

    def __init__(self, connection: Connection, app: str, environment: str) -> None:
        self._connection = connection
        self._path = f"/v2/apps/{app}/environments/{environment}/releases"

    async def begin(
        self,
        artifact: Artifact,
        sending: Callable[[int, int], None],
        *,
        take_over: bool,
    ) -> dict[str, Any]:
        """Upload what the server lacks, then have it prepare the release; what it has answered.

        `sending` is told how many bytes of how many are there.
        """
        with suppress(KeyError, OSError):
            user = getpass.getuser()
        wanted = {
            "project": identity(artifact.root),
            "files": [[file.path, file.digest, file.executable] for file in artifact.files],
            "catalog": artifact.catalog.to_wire(),
            "takeOver": take_over,
            "by": f"{user}@{socket.gethostname()}",
        }
        while True:
            told = await self._connection.ask_json("POST", self._path, wanted)
            missing = set(told["missing"])
            if not missing:
                return told
            lacking = {f.digest: f for f in artifact.files if f.digest in missing}.values()
            size, there = sum(file.size for file in lacking), 0

            def sent(more: int, of: int = size) -> None:
                nonlocal there
                there += more
                sending(there, of)

            await upload(self._connection, list(lacking), artifact.content, sent)

    async def activate(self, number: int) -> dict[str, Any]:
        """Have an earlier release prepared again."""
        told = await self._connection.ask_json("POST", f"{self._path}/{number}/activate", {})
        return dict(told["release"])

    async def follow(self, number: int) -> dict[str, Any]:
        """Print what its workers write until it is served. Raises `ReleaseFailedError`."""
        path, printer = f"{self._path}/{number}", Printer()
        while True:
            with suppress(ConnectionClosedError):
                await listen(self._connection, f"{path}/events", printer)
            release = await self._connection.ask_json("GET", path)
            if release["state"] == "failed":
                raise ReleaseFailedError(str(release["cause"]))
            if release["state"] != "preparing":
                return release
            await asyncio.sleep(0.05)
