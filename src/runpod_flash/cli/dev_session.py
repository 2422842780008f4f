"""One run of `flash dev`: discover, serve, watch, discover again, until Ctrl-C."""

from __future__ import annotations

import asyncio
import os
import secrets
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from platformdirs import user_data_path

from runpod_flash import dotenv, event_loop
from runpod_flash.cli import dev_screen, output
from runpod_flash.cli.dev_changes import serve_changes
from runpod_flash.cli.dev_front import Front
from runpod_flash.client.console import TerminalConsole
from runpod_flash.client.credentials import keep_key
from runpod_flash.client.machine import machine_plane
from runpod_flash.client.terminal import Printer
from runpod_flash.control.key import owners_ring
from runpod_flash.errors import ConnectionClosedError, FlashError
from runpod_flash.gateway.access import Keyless
from runpod_flash.gateway.app import Gateway
from runpod_flash.gateway.jobs import Jobs
from runpod_flash.gateway.settings import Settings
from runpod_flash.gateway.webhook_secret import kept_secret
from runpod_flash.gateway.webhooks import open_webhooks
from runpod_flash.plane.events import JobEnded, Logged, Notice
from runpod_flash.plane.store.memory import MemoryStore
from runpod_flash.project.catalog import Catalog
from runpod_flash.project.discovery import discover
from runpod_flash.project.watching import discover_settled, stamps
from runpod_flash.wire.failures import capture

if TYPE_CHECKING:
    from runpod_flash.cli.dev_front import Options
    from runpod_flash.plane.pool import Pool
    from runpod_flash.project.watching import Stamps

# So many environments are built at once.
_AT_ONCE = 3


def run(options: Options) -> int:
    """Serve until Ctrl-C; the exit code."""
    return event_loop.run(_serve(options))


async def _serve(options: Options) -> int:
    began = time.monotonic()
    root = Path.cwd()
    stop = event_loop.stop_signal()
    known = stamps(root)
    discovering = asyncio.create_task(discover(root))
    session: Session = _Session(root, options)
    if options.target:
        from runpod_flash.cli.dev_remote import RemoteSession

        session = RemoteSession(root, options, options.target)
    try:
        catalog = await _unless_stopped(discovering, stop)
        if catalog is None:
            return 0
        dev_screen.problems(catalog.problems)
        if not catalog.endpoints and not (catalog.problems and options.reload):
            dev_screen.nothing_found(root, catalog)
            return 1
        await session.start(catalog)
        dev_screen.ready(catalog, session.address, options.port, time.monotonic() - began)
        session.follow(known)
        await stop.wait()
    except FlashError as error:
        output.error(str(error))
        return 1
    finally:
        await session.close(stopped=stop.is_set())
    return 0


async def _unless_stopped(
    discovering: asyncio.Task[Catalog], stop: asyncio.Event
) -> Catalog | None:
    stopping = asyncio.create_task(stop.wait())
    await asyncio.wait((discovering, stopping), return_when=asyncio.FIRST_COMPLETED)
    stopping.cancel()
    if discovering.done():
        return discovering.result()
    discovering.cancel()
    return None


def _settings() -> Settings:
    """Webhooks may go to what the developer runs beside it."""
    secret = kept_secret(user_data_path("flash", appauthor=False) / "server")
    return Settings(webhook_secret=secret, webhook_private=True, webhook_loopback=True)


class Session(Protocol):
    """Serves a catalog, here or at a target, and keeps it up to date."""

    @property
    def address(self) -> str: ...

    async def start(self, catalog: Catalog) -> None: ...

    def follow(self, known: Stamps) -> None:
        """Watch the files, and have workers ready, as the options say.

        `known` are the files' stamps from before the catalog.
        """

    async def close(self, *, stopped: bool) -> None: ...


class _Session:
    """The plane, the gateway in front of it, and what keeps them up to date."""

    def __init__(self, root: Path, options: Options) -> None:
        self._root = root
        self._options = options
        self._caller_env = {**dotenv.values(), **os.environ}
        console = TerminalConsole()
        store = MemoryStore(time.monotonic)
        self._plane = machine_plane(store, self._caller_env, console=console)
        self._plane.events.subscribe(Printer(console.line), Logged, Notice)
        failures = dev_screen.Failures(console.line, self._plane.name_of)
        self._plane.events.subscribe(failures, JobEnded)
        self._key = secrets.token_urlsafe(32)
        self._key_file: Path | None = None
        self._jobs = Jobs(self._plane, _settings())
        self._webhooks = open_webhooks(self._plane, self._jobs)
        self._gateway = Gateway(
            self._plane,
            allowed_hosts=(options.host,),
            access=Keyless(owners_ring(self._key, time.time)),
            jobs=self._jobs,
            on_request=lambda told: console.line(dev_screen.request_line(told)),
        )
        self._front = Front(self._gateway, options)
        self._shown = dev_screen.Changes(Catalog(""))

    @property
    def address(self) -> str:
        return self._front.server.address

    async def start(self, catalog: Catalog) -> None:
        self._gateway.serve(catalog)
        self._shown = dev_screen.Changes(catalog)
        server = self._front.open()
        self._jobs.targets.own_ports.add(server.port)
        await server.start()
        # For this user's programs that are run with FLASH_TARGET.
        self._key_file = keep_key(server.address, self._key)

    def follow(self, known: Stamps) -> None:
        """Watch the files, and have workers ready, as the options say."""
        if self._options.auto_provision:
            self._front.tasks.spawn(self._provision())
        if self._options.reload:
            self._front.tasks.spawn(serve_changes(self._root, known, self._reload))

    # Workers before the first request

    async def _provision(self) -> None:
        slots = asyncio.Semaphore(_AT_ONCE)
        pools = self._gateway.declare_all()
        dev_screen.say(f"preparing {len(pools)} endpoint{'s' if len(pools) != 1 else ''}")
        began = time.monotonic()
        ready = await asyncio.gather(*(self._warm(pool, slots) for pool in pools))
        dev_screen.provisioned(sum(ready), len(pools), time.monotonic() - began)

    async def _warm(self, pool: Pool, slots: asyncio.Semaphore) -> bool:
        async with slots:
            began = time.monotonic()
            try:
                await self._plane.warm(pool)
            except Exception as error:  # the user's own, from a module that does not import
                output.error(f"{pool.spec.name}: {error}")
                return False
            dev_screen.say(f"{pool.spec.name}: ready in {time.monotonic() - began:.1f} s")
            return True

    # Changes

    async def _reload(self, changed: tuple[str, ...]) -> None:
        began = time.monotonic()
        self._caller_env.update({**dotenv.values(), **os.environ})
        catalog = await discover_settled(self._root)
        running = {pool.key for pool in self._gateway.pools() if pool.live()}
        replaced = self._gateway.serve(catalog)
        if any(name == "requirements.txt" for name in changed):
            replaced = self._restart_all()
        dev_screen.problems(catalog.problems)
        names = [pool.spec.name for pool in replaced]
        self._shown.reloaded(changed, catalog, names, time.monotonic() - began)
        for pool in replaced:
            if pool.key in running:
                self._front.tasks.spawn(self._rewarm(pool))

    def _restart_all(self) -> list[Pool]:
        pools = self._gateway.pools()
        for pool in pools:
            self._plane.restart(pool)
        return pools

    async def _rewarm(self, pool: Pool) -> None:
        """Where workers ran before a change, the next request finds one again."""
        try:
            await self._plane.warm(pool)
        except Exception as error:
            output.error(f"{pool.spec.name}: {error}")

    # The end

    async def close(self, *, stopped: bool) -> None:
        if self._key_file is not None:
            self._key_file.unlink(missing_ok=True)
        self._plane.debugging.close()
        failure = capture(ConnectionClosedError("the server was stopped"), origin="system")
        await self._front.close(partial(self._plane.fail_all, failure), stopped=stopped)
        await self._webhooks.close()
        await self._plane.close(failure)
