"""One run of `flash server`: a durable store, a plane and a gateway, from start to drained end."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import time
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal
from urllib.parse import urlsplit

from platformdirs import user_data_path

from runpod_flash import dotenv
from runpod_flash.cli import dev_screen, output
from runpod_flash.cli.server_isolation import Apart, open_isolation
from runpod_flash.cli.server_keys import ServerKeys
from runpod_flash.cli.server_log import LogFormat, ServerLog, default_format
from runpod_flash.client.machine import machine_plane
from runpod_flash.client.session import app_name, environment_name
from runpod_flash.control.app_tokens import AppTokens
from runpod_flash.control.blobs import Blobs
from runpod_flash.control.data_dir import DataDirectory
from runpod_flash.control.kept_apps import KeptApps
from runpod_flash.control.releases import KEPT, AppEnv, Releases
from runpod_flash.control.shelf import Shelf
from runpod_flash.control.vault import Vault
from runpod_flash.control.volumes.registry import Volumes
from runpod_flash.control.worker_tokens import WorkerTokens
from runpod_flash.engines.local.node import Node
from runpod_flash.errors import ConfigurationError, FlashError
from runpod_flash.gateway.app import Gateway
from runpod_flash.gateway.jobs import Jobs
from runpod_flash.gateway.management import Records
from runpod_flash.gateway.rate_limit import RateLimit, RateLimiter
from runpod_flash.gateway.server import GatewayServer
from runpod_flash.gateway.sessions import Place
from runpod_flash.gateway.settings import Settings
from runpod_flash.gateway.webhook_secret import kept_secret
from runpod_flash.gateway.webhooks import open_webhooks
from runpod_flash.hardware import DataCenter
from runpod_flash.loopback import is_loopback
from runpod_flash.plane.clock import steady_clock
from runpod_flash.plane.logs.worker_logs import WorkerLogs
from runpod_flash.plane.request_ids import RequestIds
from runpod_flash.plane.store.sqlite import Bounds, SqliteStore
from runpod_flash.project.catalog import Catalog
from runpod_flash.project.discovery import discover

if TYPE_CHECKING:
    from runpod_flash.engines.local.devices.leasing import GpuFallback
    from runpod_flash.plane.plane import Plane

# Connections get so long once nothing runs any more.
_CLOSE_SECONDS = 2.0
# So many new objects, net. (A request leaves few cycles, and Python's 700 took 8% of its time.)
_COLLECTED_AFTER = 20_000


Webhooks = Literal["public", "private", "any"]


@dataclass(frozen=True)
class Options:
    """What the command line said."""

    host: str
    port: int
    app: Path | None
    database: Path
    max_gb: float
    datacenter: str
    tls: tuple[Path, Path] | None
    grace: float
    require_key: bool = False
    log_format: LogFormat | None = None
    log_level: str = "info"
    gpu_fallback: GpuFallback = "none"
    retention_minutes: float = 30.0
    webhooks: Webhooks = "public"
    isolation: Apart = "apps"
    worker_user: str = "nobody"
    rate_limit: RateLimit | None = None
    keep_releases: int = KEPT

    def settings(self, secret: str) -> Settings:
        """The queue API's."""
        return Settings(
            run_retention_ms=int(self.retention_minutes * 60_000),
            webhook_secret=secret,
            webhook_private=self.webhooks != "public",
            webhook_loopback=self.webhooks == "any",
        )


def datacenter_id(given: str | None) -> str:
    """The id of a data center; raises `ConfigurationError` for one that is not known."""
    try:
        return DataCenter(given).value if given else ""
    except ValueError as error:
        raise ConfigurationError(f"--datacenter {given}: {error}") from None


def database_path(data_dir: Path | None, store: str | None) -> Path:
    """The file that jobs are in. Raises `ConfigurationError` for a store that is none of ours."""
    if store is not None:
        parts = urlsplit(store)
        if parts.scheme != "sqlite" or not parts.path.strip("/") or parts.netloc:
            raise ConfigurationError(
                f"--store {store!r} is not known; give one such as sqlite:///var/lib/flash/flash.db"
            )
        return Path(parts.path)
    directory = data_dir or user_data_path("flash", appauthor=False) / "server"
    return DataDirectory(directory.absolute()).database


def run(options: Options) -> int:
    """Serve until Ctrl-C or SIGTERM; the exit code."""
    with suppress(ImportError):
        import uvloop

        return int(uvloop.run(_serve(options)))
    return asyncio.run(_serve(options))


async def _serve(options: Options) -> int:
    stop = _stop_signal()
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


def _stop_signal() -> asyncio.Event:
    """Set by Ctrl-C or SIGTERM; a second one ends the server at once: its jobs are on disk."""
    stop = asyncio.Event()

    def requested() -> None:
        if stop.is_set():
            os._exit(130)
        stop.set()

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(number, requested)
    return stop


class _Session:
    def __init__(
        self,
        options: Options,
        plane: Plane,
        gateway: Gateway,
        jobs: Jobs,
        keys: ServerKeys,
        log: ServerLog,
        logs: WorkerLogs,
    ) -> None:
        self._options = options
        self._log = log
        self._logs = logs
        self._plane = plane
        self._gateway = gateway
        self._webhooks = open_webhooks(plane, jobs)
        self._server = GatewayServer(gateway, options.host, options.port, tries=1, tls=options.tls)
        # Where workers of this machine ask: no certificate is in their way.
        local = options.tls is None and is_loopback(options.host)
        self._local = self._server if local else GatewayServer(gateway, "127.0.0.1", 0)
        jobs.targets.own_ports.update((self._server.port, self._local.port))
        self._keys = keys

    @classmethod
    async def start(cls, options: Options, log: ServerLog) -> _Session:
        """Open the store, take up its jobs, and accept requests."""
        catalog = await _catalog(options, log)
        clock = steady_clock()
        store = SqliteStore(options.database, clock, Bounds(int(options.max_gb * 1e9)))
        caller_env = {**dotenv.values(), **os.environ}
        directory = DataDirectory(options.database.parent)
        isolation, refusal = open_isolation(options.isolation, options.worker_user, directory)
        node = Node(datacenter=options.datacenter)
        give = (lambda _: None) if isolation is None else isolation.give
        volumes = Volumes(directory.volumes, options.database, time.time, give)
        await volumes.load()
        plane = machine_plane(
            store, caller_env, node=node, gpu_fallback=options.gpu_fallback,
            isolation=isolation, volumes=volumes, clock=clock,
        )  # fmt: skip
        requests = RequestIds(plane.events)
        log.follow(plane, requests.of)
        keys = await ServerKeys.open(options.database, time.time, options.host, options.require_key)
        jobs = Jobs(plane, options.settings(kept_secret(directory.path)))
        tokens = WorkerTokens(time.time, options.database)
        await tokens.load()
        place = _place(directory, options.datacenter)
        vault = Vault(directory.vault_key)
        releases = Releases(options.database, time.time, vault, options.keep_releases)
        shelf = Shelf(options.database, time.time, vault)
        logs = WorkerLogs(directory.logs, plane.events, requests.of)
        gateway = Gateway(
            plane,
            allowed_hosts=keys.hosts,
            access=keys.access,
            records=Records(keys.keys, place, releases, shelf, tokens, volumes),
            jobs=jobs,
            on_request=log.answered,
            logs=logs,
            deployed_as=_served_as() if options.app else None,
            limiter=_limiter(options.rate_limit),
        )
        session = cls(options, plane, gateway, jobs, keys, log, logs)
        ring, address = keys.keys.ring, session._local.address
        plane.identities = AppTokens(ring, address, gateway.deployed)
        served = _of_app(catalog)
        if isolation is not None:
            apps = {each.spec.app for each in served.endpoints}
            apps.update(map(str, await releases.environments()))
            apps.update(app for app, _ in place.kept.all())
            isolation.keep_only(apps)
        gateway.serve(served)
        gateway.declare_all()
        await gateway.restore()
        for server in {session._server, session._local}:
            await server.start()
        log.serving(catalog, session._server.address)
        if refusal:
            log.not_apart(refusal)
        await keys.start(session._server.address)
        _spare_collections()
        return session

    async def close(self) -> None:
        """Let what runs finish, keep the rest for the next start."""
        self._gateway.ready = False
        self._log.draining(self._options.grace)
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


def _place(directory: DataDirectory, datacenter: str) -> Place:
    kept = KeptApps(directory.path / "kept-apps")
    return Place(directory.apps(), Blobs(directory.path / "blobs"), kept, datacenter)


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
