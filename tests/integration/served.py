"""A gateway over a real plane with real workers, on a free port, for tests to ask."""

from __future__ import annotations

import asyncio
import os
import textwrap
import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import httpx

from runpod_flash.client.machine import machine_plane
from runpod_flash.control.blobs import Blobs
from runpod_flash.control.data_dir import DataDirectory
from runpod_flash.control.kept_apps import KeptApps
from runpod_flash.control.key import owners_ring
from runpod_flash.control.releases import Releases
from runpod_flash.control.shelf import Shelf
from runpod_flash.control.vault import Vault
from runpod_flash.control.volumes.registry import Volumes
from runpod_flash.control.worker_tokens import WorkerTokens
from runpod_flash.engines.local.node import made_up_node
from runpod_flash.gateway.access import Keyless
from runpod_flash.gateway.app import Gateway
from runpod_flash.gateway.jobs import Jobs
from runpod_flash.gateway.management import Records
from runpod_flash.gateway.server import GatewayServer
from runpod_flash.gateway.sessions import Place
from runpod_flash.gateway.webhooks import open_webhooks
from runpod_flash.plane.logs.worker_logs import WorkerLogs
from runpod_flash.plane.request_ids import RequestIds
from runpod_flash.plane.store.database import prepare
from runpod_flash.plane.store.memory import MemoryStore
from runpod_flash.project.catalog import Catalog
from runpod_flash.project.discovery import discover

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
    from pathlib import Path

    from runpod_flash.control.keys import Keys
    from runpod_flash.engines.local.devices.gpus import Gpu
    from runpod_flash.engines.local.devices.leasing import GpuFallback
    from runpod_flash.gateway.access import Access
    from runpod_flash.gateway.rate_limit import RateLimiter
    from runpod_flash.gateway.settings import Settings
    from runpod_flash.plane.plane import Plane
    from runpod_flash.plane.store.base import Store

KEY = "the-owners-key"


class Served:
    """What tests need of a running server. `get` and `post` give httpx responses."""

    def __init__(self, root: Path, plane: Plane, gateway: Gateway, address: str) -> None:
        self.root = root
        self.plane = plane
        self.gateway = gateway
        self.address = address
        self.http = httpx.AsyncClient(base_url=address, timeout=30)

    async def get(self, path: str, **options: Any) -> httpx.Response:
        return await self.http.get(path, **options)

    async def post(self, path: str, json: Any = None, **options: Any) -> httpx.Response:
        return await self.http.post(path, json=json, **options)

    async def call(self, path: str, **given: Any) -> Any:
        """The output of a function by its address."""
        answer = await self.post(f"{path}/runsync", {"input": given})
        assert answer.status_code == 200, answer.text
        return answer.json()["output"]

    async def rewrite(self, files: Mapping[str, str]) -> Catalog:
        """Change files and serve what is there then."""
        write(self.root, files)
        catalog = await discover(self.root)
        self.gateway.serve(catalog)
        return catalog


def write(root: Path, files: Mapping[str, str]) -> None:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text))


@asynccontextmanager
async def serving(
    root: Path,
    files: Mapping[str, str],
    access: Access | None = None,
    keys: Keys | None = None,
    settings: Settings | None = None,
    store: Store | None = None,
    gpus: Sequence[Gpu] = (),
    fallback: GpuFallback = "cpu",
    limiter: RateLimiter | None = None,
    volumes: Volumes | None = None,
    control: bool = False,
    **log_options: Any,
) -> AsyncIterator[Served]:
    """A server that has `KEY` as its owner's, if not told otherwise.

    Without files it serves nothing; with `control`, there is the control API of a server. `gpus`
    are devices of the node; `fallback` is what its engine does where one is missing. Other options
    are those of the workers' logs.
    """
    write(root, files)
    # (As on a machine with cores for several workers, whatever this one has.)
    node = made_up_node(gpus, root / ".locks", 8)
    records = _records(root / ".server") if control else {}
    volumes = records.pop("volumes", volumes)
    store = store or MemoryStore(time.monotonic)
    plane = machine_plane(
        store, dict(os.environ), node=node, gpu_fallback=fallback, volumes=volumes
    )
    logs = WorkerLogs(root / ".logs", plane.events, RequestIds(plane.events).of, **log_options)
    access = access or Keyless(owners_ring(KEY, time.time))
    jobs = Jobs(plane, settings)
    webhooks = open_webhooks(plane, jobs)
    tokens = WorkerTokens(time.time)
    gateway = Gateway(
        plane,
        access=access,
        records=Records(keys=keys, tokens=tokens, volumes=volumes, **records),
        jobs=jobs,
        logs=logs,
        limiter=limiter,
    )
    gateway.serve(await discover(root) if files else Catalog(""))
    server = GatewayServer(gateway, "localhost", 0)
    jobs.targets.own_ports.add(server.port)
    await server.start()
    served = Served(root, plane, gateway, server.address)
    try:
        yield served
    finally:
        await served.http.aclose()
        await server.stop(1)
        await webhooks.close()
        await plane.close()
        logs.close()


def _records(folder: Path) -> dict[str, Any]:
    """What a gateway needs for deployments, templates and the like."""
    directory, database = DataDirectory(folder), folder / "flash.db"
    prepare(database)
    vault = Vault(directory.vault_key)
    return {
        "place": Place(directory.apps(), Blobs(folder / "blobs"), KeptApps(folder / "kept-apps")),
        "releases": Releases(database, time.time, vault),
        "shelf": Shelf(database, time.time, vault),
        "volumes": Volumes(directory.volumes, database, time.time),
    }


def serve(
    root: Path,
    files: Mapping[str, str],
    scenario: Callable[[Served], Awaitable[None]],
    **options: Any,
) -> None:
    """Run a scenario against a project's server."""

    async def whole() -> None:
        async with serving(root, files, **options) as served:
            await scenario(served)

    asyncio.run(whole())
