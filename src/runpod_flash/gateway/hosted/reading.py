"""What an uploaded project declares, found out by a worker: its code never runs in the server."""

from __future__ import annotations

import asyncio
import json
import secrets
from hashlib import sha256
from typing import TYPE_CHECKING, Any

from runpod_flash.control.trees import AppTree, StoredFile
from runpod_flash.errors import ConfigurationError
from runpod_flash.gateway.brought import read_catalog
from runpod_flash.gateway.results import to_json
from runpod_flash.plane.store.base import JobState
from runpod_flash.spec import Build, EndpointSpec, Entry, Placement, Scaling

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from runpod_flash.control.blobs import Blobs
    from runpod_flash.control.releases import AppEnv
    from runpod_flash.gateway.jobs import Jobs
    from runpod_flash.plane.plane import Plane
    from runpod_flash.plane.store.base import Job
    from runpod_flash.project.catalog import Catalog

_FILE = "flash_reads_declarations.py"
_NAME = "flash-reads-declarations"
# The module that the worker runs, beside the project's own: as `flash deploy` does at home.
_PROGRAM = b"""\
import os, sys
from pathlib import Path

async def catalog(variables):
    from runpod_flash.project.discovery import discover

    for name in [name for name in os.environ if name.startswith(("FLASH_", "RUNPOD_"))]:
        del os.environ[name]
    os.environ.update(variables)
    here = os.getcwd()
    os.environ["PYTHONPATH"] = os.pathsep.join(p for p in sys.path if p and p != here)
    return (await discover(Path(here))).to_wire()
"""


class DeclarationReader:
    """`folder` is where trees are put."""

    def __init__(self, plane: Plane, jobs: Jobs, folder: Path, blobs: Blobs) -> None:
        self._plane = plane
        self._jobs = jobs
        self._folder = folder
        self._blobs = blobs
        self._reading: dict[AppEnv, asyncio.Lock] = {}

    async def read(
        self, place: AppEnv, files: Sequence[StoredFile], variables: dict[str, str]
    ) -> Catalog:
        """The catalog of these files, whose modules may read the variables while they are imported.

        Raises `ConfigurationError` for what cannot be read, and for problems of the project's.
        """
        async with self._reading.setdefault(place, asyncio.Lock()):
            job = await self._run(place, files, variables)
        outcome = job.outcome
        if job.state is not JobState.COMPLETED or outcome is None or outcome.payload is None:
            why = outcome.failure.message if outcome and outcome.failure else job.state.value
            raise ConfigurationError(f"the project's declarations cannot be read: {why}")
        return _checked(json.loads(to_json(outcome.payload)))

    async def _run(
        self, place: AppEnv, files: Sequence[StoredFile], variables: dict[str, str]
    ) -> Job:
        digest = sha256(_PROGRAM).hexdigest()
        self._blobs.put(digest, _PROGRAM)
        # (Each in a place of its own: what is kept of a worker would look into the last one.)
        tree = AppTree(self._folder / f"reading-{secrets.token_hex(12)}", self._blobs)
        root = await asyncio.to_thread(tree.show, [*files, StoredFile(_FILE, digest)])
        pool = self._plane.declare(_spec(place, root, digest), {}, {})
        try:
            _, ended = self._jobs.run(pool, {"variables": variables})
            return await ended
        finally:
            await self._plane.unstage(pool)  # (the next one has another root)
            await asyncio.to_thread(tree.remove)


def _spec(place: AppEnv, root: Path, digest: str) -> EndpointSpec:
    return EndpointSpec(
        _NAME,
        Entry(_FILE.removesuffix(".py"), "catalog", file=_FILE, root=str(root)),
        Build(digest, dependencies=("packaging", "pathspec")),
        Placement(max_attempts=1, execution_timeout_ms=120_000),
        Scaling(workers_max=1, idle_timeout=1),
        app=str(place),
    )


def _checked(wire: dict[str, Any]) -> Catalog:
    wire["root"] = ""
    for each in wire["endpoints"]:
        each["spec"]["entry"]["root"] = ""
    catalog = read_catalog({"catalog": wire})
    if catalog.problems:
        raise ConfigurationError("; ".join(problem.message for problem in catalog.problems))
    if not catalog.endpoints:
        raise ConfigurationError("the archive declares no endpoint")
    return catalog
