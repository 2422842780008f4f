"""A worker of this machine for an endpoint of a server elsewhere, from its start to its leave.

The worker is a process of the local engine, as those of an embedded plane are. Its link's bytes go
to the server and come from there; nothing here looks into them.
"""

from __future__ import annotations

import asyncio
import os
import random
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from runpod_flash.agent.code import Code
from runpod_flash.agent.connection import TurnedAwayError, connected
from runpod_flash.client import terminal
from runpod_flash.client.machine import local_engine
from runpod_flash.client.reaching import why_unreachable
from runpod_flash.control.app_tokens import TARGET
from runpod_flash.control.worker_tokens import worker_of
from runpod_flash.engines.base import CapacityError, StartOrder
from runpod_flash.engines.local.environments.environments import cache_directory
from runpod_flash.errors import ConfigurationError, FlashError
from runpod_flash.event_loop import stop_signal
from runpod_flash.links.relay import first, pass_on, put_in
from runpod_flash.spec import EndpointSpec

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from runpod_flash.agent.connection import ServerConnection
    from runpod_flash.engines.base import WorkerExit
    from runpod_flash.engines.local.devices.leasing import GpuFallback
    from runpod_flash.engines.local.engine import LocalEngine
    from runpod_flash.engines.local.worker import LocalWorker

_FIRST_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS = 0.2, 10.0
# A worker that has run so long did not fail at its start.
_STEADY_SECONDS = 10.0
# A worker that has closed its link is about to end.
_CLOSED_GRACE_SECONDS = 0.5


@dataclass(frozen=True)
class Options:
    """What the command line said; `grace` is in seconds."""

    origin: str
    endpoint: str
    token: str
    grace: float
    gpu_fallback: GpuFallback


def run(options: Options) -> None:
    """Serve until Ctrl-C or SIGTERM. Raises `ConfigurationError` once the server wants it no more.

    A second signal ends it at once.
    """
    asyncio.run(_run(options))


async def _run(options: Options) -> None:
    worker_id = worker_of(options.token)
    if not worker_id:
        raise ConfigurationError(
            f"that is no worker's token; `flash worker env {options.endpoint}` makes one"
        )
    engine = local_engine(gpu_fallback=options.gpu_fallback)
    code = Code(cache_directory() / "code", worker_id)
    try:
        await WorkerHost(options, engine, code).serve()
    finally:
        await engine.close()
        code.remove()


class WorkerHost:
    """Keeps one worker running and connected."""

    def __init__(self, options: Options, engine: LocalEngine, code: Code) -> None:
        self._options = options
        self._engine = engine
        self._code = code
        self._leaving = stop_signal()
        self._running = False  # whether a worker may have a job
        self._was_there = False
        self._said = ""
        self._pause = _FIRST_PAUSE_SECONDS

    async def serve(self) -> None:
        """Until it is told to leave, or the server wants no worker with this token any more."""
        while not self._leaving.is_set():
            began = asyncio.get_running_loop().time()
            await _until(self._leaving, self._turn(), lambda: not self._running)
            if asyncio.get_running_loop().time() - began > _STEADY_SECONDS:
                self._pause = _FIRST_PAUSE_SECONDS
            await self._wait()

    async def _wait(self) -> None:
        pause = self._pause * random.uniform(0.5, 1)
        self._pause = min(2 * self._pause, _LONGEST_PAUSE_SECONDS)
        await _until(self._leaving, asyncio.sleep(pause), lambda: True)

    async def _turn(self) -> None:
        """One connection, from its start to its end."""
        options = self._options
        try:
            async with connected(options.origin, options.endpoint, options.token) as server:
                await self._work(server)
        except TurnedAwayError as error:
            if error.final or (not self._was_there and 400 <= error.status < 500):
                raise ConfigurationError(f"{options.origin}: {error}") from None
            self._say(f"{options.origin}: {error}")
        except OSError as error:
            why = why_unreachable(options.origin, error, "is the server running?")
            self._say(f"trying again, for {options.origin} cannot be reached: {why}")
        except (ValueError, KeyError, TypeError) as error:
            self._say(f"{options.origin} sent what cannot be read here: {error}; trying again")

    async def _work(self, server: ServerConnection) -> None:
        """Get what is to be run, and run it until one of the two ends has left."""
        told = await server.hear("order")
        self._was_there = True
        try:
            root = await self._code.fetch(told["files"], server)
        except ConnectionError:
            raise
        except OSError as error:
            why = f"the endpoint's code cannot be kept in {cache_directory()}: {error}"
            await self._cannot_start(server, why)
            return
        spec = EndpointSpec.from_wire(told["spec"])
        spec = replace(spec, entry=replace(spec.entry, root=str(root)))
        events = _Events()
        try:
            identity = self._identity(told["identity"])
            order = StartOrder(str(told["worker"]), spec, dict(told["env"]), identity=identity)
            worker = await self._engine.start(order, events)
        except (FlashError, CapacityError, OSError) as error:
            await self._cannot_start(server, str(error))
            return
        self._running = True
        try:
            await self._relay(server, worker, events)
        finally:
            self._running = False
            await self._engine.stop(worker.worker_id)
            await events.exited
            worker.stream.close()

    async def _cannot_start(self, server: ServerConnection, why: str) -> None:
        self._say(f"no worker can start: {why}")
        await server.say("failed", why=why)

    def _identity(self, told: dict[str, str]) -> dict[str, str]:
        """What the worker is known by; the server is where this machine reaches it."""
        return {**told, TARGET: self._options.origin} if TARGET in told else dict(told)

    async def _relay(self, server: ServerConnection, worker: LocalWorker, events: _Events) -> None:
        root = worker.order.spec.entry.root
        devices, node = worker.devices, os.uname().nodename
        await server.say("started", token=worker.token, root=root, node=node, devices=devices)
        self._say(f"serves {self._options.origin} as {worker.worker_id}")
        worker.stream.setblocking(False)
        await first(
            self._outward(server, worker, events),
            self._inward(server, worker),
            events.tell(server),
            self._leave(server, worker),
        )

    async def _inward(self, server: ServerConnection, worker: LocalWorker) -> None:
        while True:
            message = await server.next()
            if isinstance(message, bytes):
                await put_in(worker.stream, message)
            elif message["t"] == "imported":
                self._engine.learn(worker, [str(name) for name in message["modules"]])

    async def _outward(
        self, server: ServerConnection, worker: LocalWorker, events: _Events
    ) -> None:
        await pass_on(worker.stream, server.pass_on)
        await asyncio.wait({events.exited}, timeout=_CLOSED_GRACE_SECONDS)
        await self._engine.stop(worker.worker_id)
        ended = await events.exited
        await events.tell_rest(server)
        await server.say("exited", reason=ended.reason)
        if not self._leaving.is_set():
            self._say(f"the worker {ended.reason}")

    async def _leave(self, server: ServerConnection, worker: LocalWorker) -> None:
        """Say so, and wait for the end of the worker, which comes after that of its jobs."""
        await self._leaving.wait()
        self._say(f"leaves; running jobs get {self._options.grace:g} s")
        await server.say("leave")
        await asyncio.sleep(self._options.grace)
        await self._engine.stop(worker.worker_id)
        await asyncio.Event().wait()

    def _say(self, text: str) -> None:
        if text != self._said:  # a server that is away is news once
            self._said = text
            terminal.say(text, self._options.endpoint)


class _Events:
    """`EngineEvents` of one worker."""

    def __init__(self) -> None:
        self.exited: asyncio.Future[WorkerExit] = asyncio.get_running_loop().create_future()
        self._lines: asyncio.Queue[str] = asyncio.Queue()

    def worker_exited(self, exit: WorkerExit) -> None:
        self.exited.set_result(exit)

    def worker_output(self, worker_id: str, text: str) -> None:
        self._lines.put_nowait(text)

    def notice(self, endpoint: str, text: str) -> None:
        terminal.say(text, endpoint)

    async def tell(self, server: ServerConnection) -> None:
        """Tell the server what the worker's process writes by itself, as it comes."""
        while True:
            await server.say("output", text=await self._lines.get())

    async def tell_rest(self, server: ServerConnection) -> None:
        while not self._lines.empty():
            await server.say("output", text=self._lines.get_nowait())


async def _until(event: asyncio.Event, work: Coroutine[Any, Any, None], may_stop: Any) -> None:
    """Do the work to its end; if the event comes first, it is cancelled where it may be."""
    task, told = asyncio.ensure_future(work), asyncio.ensure_future(event.wait())
    await asyncio.wait({task, told}, return_when=asyncio.FIRST_COMPLETED)
    told.cancel()
    if not task.done() and may_stop():
        task.cancel()
    try:
        await task
    except asyncio.CancelledError:
        if not event.is_set():
            raise
