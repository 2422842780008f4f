"""One run of `flash server`: a durable store, a plane and a gateway, from start to drained end."""

from __future__ import annotations

import asyncio
import gc
import os
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from runpod_flash import dotenv, event_loop
from runpod_flash.cli import dev_screen, output
from runpod_flash.cli.server_isolation import open_isolation, unreadable
from runpod_flash.cli.server_keys import ServerKeys
from runpod_flash.cli.server_log import ServerLog, default_format
from runpod_flash.cli.server_records import open_records
from runpod_flash.client.machine import machine_plane
from runpod_flash.client.session import app_name, environment_name
from runpod_flash.control.app_tokens import AppTokens
from runpod_flash.control.data_dir import DataDirectory
from runpod_flash.control.releases import AppEnv
from runpod_flash.engines.local.node import Node
from runpod_flash.errors import ConfigurationError, FlashError
from runpod_flash.gateway.app import Gateway
from runpod_flash.gateway.jobs import Jobs
from runpod_flash.gateway.rate_limit import RateLimiter
from runpod_flash.gateway.server import GatewayServer
from runpod_flash.gateway.webhook_secret import kept_secret
from runpod_flash.gateway.webhooks import open_webhooks
from runpod_flash.loopback import is_loopback
from runpod_flash.plane.clock import steady_clock
from runpod_flash.plane.logs.worker_logs import WorkerLogs
from runpod_flash.plane.preparing import prepare_all
from runpod_flash.plane.request_ids import RequestIds
from runpod_flash.plane.store.sqlite import Bounds, SqliteStore
from runpod_flash.plane.tasks import Tasks
from runpod_flash.project.catalog import Catalog
from runpod_flash.project.discovery import discover

if TYPE_CHECKING:
    from runpod_flash.cli.server_options import Options
    from runpod_flash.engines.local.isolation import Isolation
    from runpod_flash.gateway.management import Records
    from runpod_flash.gateway.rate_limit import RateLimit
    from runpod_flash.plane.plane import Plane

# Connections get so long once nothing runs any more.
_CLOSE_SECONDS = 2.0
# An endpoint that is called a few times a day starts fast as well.
_KEPT_SECONDS = 86_400.0
# How often what clients have left in volumes is looked for.
_SWEPT_SECONDS = 86_400.0
# So many new objects, net. (A request leaves few cycles, and Python's 700 took 8% of its time.)
_COLLECTED_AFTER = 20_000


def run(options: Options) -> int:
    """Serve until Ctrl-C or SIGTERM; the exit code."""
    return event_loop.run(_serve(options))


async def _serve(options: Options) -> int:
    stop = event_loop.stop_signal()
    log = ServerLog(options.log_format or default_format(), options.log_level)
    try:
        with DataDirectory(options.database.parent):
            session = await _Session.start(options, log)
            try:
                await stop.wait()
            finally:
                await session.close()
    except FlashError as error:
        output.error(str(error))
        return 1
    finally:
        log.close()
    return 0


class _Session:
    def __init__(
        self,
        options: Options,
        plane: Plane,
        isolation: Isolation | None,
        keys: ServerKeys,
        records: Records,
        log: ServerLog,
    ) -> None:
        self._options = options
        self._plane = plane
        self._isolation = isolation
        self._keys = keys
        self._records = records
        self._log = log
        directory = DataDirectory(options.database.parent)
        requests = RequestIds(plane.events)
        log.follow(plane, requests.of)
        jobs = Jobs(plane, options.settings(kept_secret(directory.path)))
        self._logs = WorkerLogs(directory.logs, plane.events, requests.of)
        self._gateway = self._open_gateway(jobs)
        self._webhooks = open_webhooks(plane, jobs)
        self._server = GatewayServer(
            self._gateway, options.host, options.port, tries=1, tls=options.tls
        )
        # Where workers of this machine ask: no certificate is in their way.
        local = options.tls is None and is_loopback(options.host)
        self._local = self._server if local else GatewayServer(self._gateway, "127.0.0.1", 0)
        jobs.targets.own_ports.update((self._server.port, self._local.port))
        plane.identities = AppTokens(keys.keys.ring, self._local.address, self._gateway.deployed)
        self._tasks = Tasks()

    def _open_gateway(self, jobs: Jobs) -> Gateway:
        return Gateway(
            self._plane,
            allowed_hosts=self._keys.hosts,
            access=self._keys.access,
            records=self._records,
            jobs=jobs,
            on_request=self._log.answered,
            logs=self._logs,
            deployed_as=_served_as() if self._options.app else None,
            limiter=_limiter(self._options.rate_limit),
        )

    @classmethod
    async def start(cls, options: Options, log: ServerLog) -> _Session:
        """Open the store, take up its jobs, and accept requests."""
        catalog = await _catalog(options, log)
        clock = steady_clock()
        store = SqliteStore(options.database, clock, Bounds(int(options.max_gb * 1e9)))
        directory = DataDirectory(options.database.parent)
        isolation, refusal = open_isolation(options.isolation, options.worker_user, directory)
        keys = await ServerKeys.open(options.database, time.time, options.host, options.require_key)
        records = await open_records(options, directory, keys.keys, isolation)
        plane = machine_plane(
            store, {**dotenv.values(), **os.environ}, node=Node(datacenter=options.datacenter),
            gpu_fallback=options.gpu_fallback, isolation=isolation, volumes=records.volumes,
            clock=clock, kept_seconds=_KEPT_SECONDS,
        )  # fmt: skip
        session = cls(options, plane, isolation, keys, records, log)
        await session._accept(catalog)
        if refusal:
            log.not_apart(refusal)
        for why in unreadable(isolation, catalog):
            log.unreadable(why)
        await keys.start(session._server.address)
        session._tasks.spawn(prepare_all(plane, plane.pools()))
        if records.volumes is not None:
            session._tasks.spawn(records.volumes.sweep_every(_SWEPT_SECONDS))
        _spare_collections()
        return session

    async def _accept(self, catalog: Catalog) -> None:
        """Serve what was deployed before and the app of the command line."""
        served = _of_app(catalog)
        await self._forget_homes(served)
        self._gateway.serve(served)
        self._gateway.declare_all()
        await self._gateway.restore()
        for server in {self._server, self._local}:
            await server.start()
        self._log.serving(catalog, self._server.address)

    async def _forget_homes(self, served: Catalog) -> None:
        """Remove what apps have kept that are not here any more."""
        records = self._records
        if self._isolation is None or records.releases is None or records.place is None:
            return
        apps = {each.spec.app for each in served.endpoints}
        apps.update(map(str, await records.releases.environments()))
        apps.update(app for app, _ in records.place.kept.all())
        self._isolation.keep_only(apps)

    async def close(self) -> None:
        """Let what runs finish, keep the rest for the next start."""
        self._gateway.ready = False
        self._log.draining(self._options.grace)
        await self._tasks.close()
        await self._gateway.stop()
        await self._plane.drain(self._options.grace)
        await asyncio.gather(*(each.stop(_CLOSE_SECONDS) for each in {self._server, self._local}))
        await self._webhooks.close()
        await self._keys.close(forget=not self._options.port)
        await self._plane.close()
        await self._plane.store.close()
        self._logs.close()


def _spare_collections() -> None:
    """Look for cycles among what requests leave behind, more rarely, and not in what stays."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(_COLLECTED_AFTER)


def _limiter(limit: RateLimit | None) -> RateLimiter | None:
    return None if limit is None else RateLimiter(limit, time.monotonic)


def _served_as() -> AppEnv:
    return AppEnv(app_name(Path.cwd()), environment_name())


def _of_app(catalog: Catalog) -> Catalog:
    """Under names that stay when the directory moves: jobs in the store go by them."""
    app = f"{app_name(Path(catalog.root))}-{environment_name()}"
    endpoints = (replace(e, spec=replace(e.spec, app=app)) for e in catalog.endpoints)
    return replace(catalog, endpoints=tuple(endpoints))


async def _catalog(options: Options, log: ServerLog) -> Catalog:
    if options.app is None:
        return Catalog("")
    os.chdir(options.app)
    catalog = await discover(Path.cwd())
    log.problems(catalog.problems)
    if not catalog.endpoints:
        dev_screen.nothing_found(Path.cwd(), catalog)
        raise ConfigurationError(f"--app {options.app}: nothing to serve")
    return catalog
