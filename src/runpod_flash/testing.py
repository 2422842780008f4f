"""For tests: `use_node` makes up a machine with GPUs, on which workers are real processes.

The others are doubles without processes and without waiting: a clock, an event loop, an engine.

clock = ManualClock()

async def scenario() -> None:
    engine = ScriptedEngine(lambda endpoint, args, kwargs: sum(args))
    plane = Plane(MemoryStore(clock), engine, {}, clock)
    ...
    await asyncio.sleep(3600)  # takes no time, and every timer on the way fires in order

run(scenario(), clock)
"""

from __future__ import annotations

import asyncio
import selectors
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

from runpod_flash.client.node import use_node
from runpod_flash.engines.base import Platform, WorkerExit
from runpod_flash.engines.local.devices.gpus import Gpu
from runpod_flash.links.base import WorkerCall
from runpod_flash.wire.codec import Payload, decode, encode
from runpod_flash.wire.failures import capture

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Mapping, Sequence

    from runpod_flash.engines.base import Device, EngineEvents, StartOrder
    from runpod_flash.links.base import JobRef, LinkEvents, Part
    from runpod_flash.plane.store.base import Job
    from runpod_flash.spec import EndpointSpec

__all__ = [
    "Gpu",
    "ManualClock",
    "ScriptedEngine",
    "ScriptedLink",
    "ScriptedWorker",
    "run",
    "use_node",
]

T = TypeVar("T")


class ManualClock:
    """A clock that stands still until it is moved: call it for the seconds."""

    def __init__(self, now: float = 1000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now

    def advance(self, seconds: float) -> None:
        if seconds < 0:
            raise ValueError(f"a clock cannot go back by {-seconds} s")
        self.now += seconds


def run(work: Coroutine[Any, Any, T], clock: ManualClock) -> T:
    """`asyncio.run` on a loop whose time is the clock's.

    While all tasks wait for time to pass, the clock jumps to the next timer. Waiting for sockets
    or threads while timers are set is not for this loop: it would jump ahead of them.
    """
    loop = _ManualLoop(clock)
    try:
        asyncio.set_event_loop(loop)
        return loop.run_until_complete(work)
    finally:
        _finish(loop)


def _finish(loop: asyncio.AbstractEventLoop) -> None:
    left = asyncio.all_tasks(loop)
    for task in left:
        task.cancel()
    loop.run_until_complete(asyncio.gather(*left, return_exceptions=True))
    loop.run_until_complete(loop.shutdown_asyncgens())
    asyncio.set_event_loop(None)
    loop.close()


class _JumpingSelector(selectors.DefaultSelector):
    def __init__(self, clock: ManualClock) -> None:
        super().__init__()
        self._clock = clock

    def select(self, timeout: float | None = None) -> Any:
        if timeout is None or timeout <= 0:
            return super().select(timeout)
        found = super().select(0)
        if not found:
            self._clock.advance(timeout)
        return found


class _ManualLoop(asyncio.SelectorEventLoop):
    def __init__(self, clock: ManualClock) -> None:
        super().__init__(_JumpingSelector(clock))
        self._manual_clock = clock

    def time(self) -> float:
        return self._manual_clock.now


@dataclass
class ScriptedLink:
    """A `WorkerLink` that keeps what it is told; `events` is how its worker answers.

    With a `handler`, jobs are run in this process as soon as the loop gets to it, and what the
    handler raises fails them. Without, the test answers: `link.finish(job_id, 42)`.
    """

    worker: ScriptedWorker
    handler: Callable[[str, tuple[Any, ...], dict[str, Any]], Any] | None = None
    jobs: dict[str, Job] = field(default_factory=dict)
    cancelled: list[JobRef] = field(default_factory=list)
    granted: list[tuple[str, int]] = field(default_factory=list)
    lent_to: list[asyncio.AbstractEventLoop] = field(default_factory=list)
    parts: list[Part] = field(default_factory=list)
    answers: dict[int, tuple[Mapping[str, Any], Payload | None]] = field(default_factory=dict)
    spec: EndpointSpec | None = None
    caller_env: Mapping[str, str] = field(default_factory=dict)
    stopping: bool = False
    closed: bool = False
    _events: LinkEvents | None = None
    _unread: list[Callable[[], None]] = field(default_factory=list)
    _calls: int = 0

    @property
    def events(self) -> LinkEvents:
        if self._events is None:
            raise RuntimeError(f"the link of {self.worker.worker_id} is not open yet")
        return self._events

    # What the plane calls

    def open(self, events: LinkEvents, spec: EndpointSpec, caller_env: Mapping[str, str]) -> None:
        self._events, self.spec, self.caller_env = events, spec, caller_env
        if self.worker.engine.ready_at_once:
            asyncio.get_running_loop().call_soon(self.become_ready)

    def run(self, job: Job, *, trusted: bool) -> None:
        if self.closed:
            return
        self.jobs[job.id] = job
        if self.handler is not None:
            self.worker.loop.call_soon_threadsafe(self._handle, job)

    def lend(self, loop: asyncio.AbstractEventLoop) -> None:
        self.lent_to.append(loop)

    def cancel(self, ref: JobRef) -> None:
        self.cancelled.append(ref)
        if self.worker.engine.stops_when_cancelled and ref.job_id in self.jobs:
            self.worker.loop.call_soon_threadsafe(self.leave, ref.job_id)

    def grant(self, ref: JobRef, chunks: int) -> None:
        self.granted.append((ref.job_id, chunks))

    def exchange(self, part: Part) -> None:
        self.parts.append(part)

    def answer(self, call_id: int, fields: Mapping[str, Any], payload: Payload | None) -> None:
        self.answers[call_id] = (fields, payload)

    def stop(self) -> None:
        self.stopping = True
        if self.worker.engine.exits_when_stopped:
            self.worker.loop.call_soon_threadsafe(self.worker.exit, "ended with code 0")

    def drain(self) -> None:
        unread, self._unread = self._unread, []
        for deliver in unread:
            deliver()

    def close(self) -> None:
        self.closed = True

    # What the worker does

    def become_ready(self) -> None:
        if not self.closed:
            self.events.ready()

    def finish(self, job_id: str, value: Any = None) -> None:
        self.events.finished(self.jobs.pop(job_id).ref, encode(value))

    def fail(self, job_id: str, error: Exception) -> None:
        self.events.failed(self.jobs.pop(job_id).ref, capture(error))

    def chunk(self, job_id: str, index: int, value: Any) -> None:
        self.events.chunk(self.jobs[job_id].ref, index, encode(value))

    def leave(self, job_id: str) -> None:
        """The code of a cancelled job has come to its end."""
        job = self.jobs.pop(job_id, None)
        if job is not None and not self.closed:
            self.events.stopped(job.ref)

    def call(self, operation: str, payload: Payload | None = None, **fields: Any) -> int:
        """Ask the plane something on behalf of code in this worker; the call's number."""
        self._calls += 1
        self.events.call(WorkerCall(self._calls, operation, fields, payload))
        return self._calls

    def leave_unread(self, deliver: Callable[[], None]) -> None:
        """Keep a word on the way: the plane hears it only if it drains the link."""
        self._unread.append(deliver)

    def _handle(self, job: Job) -> None:
        if self.closed or job.id not in self.jobs or self.handler is None:
            return
        given = decode(job.call.payload, trusted=True)
        try:
            value = self.handler(self.worker.endpoint, tuple(given["args"]), given["kwargs"])
        except Exception as error:
            self.fail(job.id, error)
        else:
            self.finish(job.id, value)


@dataclass
class ScriptedWorker:
    """A worker of `ScriptedEngine` (a `WorkerHandle`): it has no process, and ends when told to."""

    engine: ScriptedEngine
    order: StartOrder
    engine_events: EngineEvents
    loop: asyncio.AbstractEventLoop
    node: str = "scripted"
    devices: tuple[str, ...] = ()
    link: ScriptedLink = field(init=False)

    def __post_init__(self) -> None:
        self.link = ScriptedLink(self, self.engine.handler)

    @property
    def worker_id(self) -> str:
        return self.order.worker_id

    @property
    def endpoint(self) -> str:
        return self.order.spec.name

    @property
    def env(self) -> Mapping[str, str]:
        return self.order.env

    def exit(self, reason: str = "was killed by SIGKILL", output: str = "") -> None:
        """End, and have the engine report it."""
        if self.engine.workers.pop(self.worker_id, None) is not None:
            self.engine.ended.append(self)
            self.engine_events.worker_exited(WorkerExit(self.worker_id, reason, output))


class ScriptedEngine:
    """An `Engine` without processes: its workers run `handler` in this process, or wait for a hand.

    `refusals` holds errors that the next starts and preparations raise, one each (`CapacityError`,
    `FlashError`, `OSError`); `prepared` are the orders to prepare. `capacity` is how many workers
    fit in all. With `ready_at_once` off, a worker is ready when the test calls
    `worker.link.become_ready()`; with `starts_at_once` off, `start` and `prepare` return when the
    test calls `engine.let_start()`.
    """

    def __init__(
        self,
        handler: Callable[[str, tuple[Any, ...], dict[str, Any]], Any] | None = None,
        *,
        capacity: int = 1000,
        ready_at_once: bool = True,
        starts_at_once: bool = True,
        exits_when_stopped: bool = True,
        stops_when_cancelled: bool = True,
    ) -> None:
        self.handler = handler
        self.capacity = capacity
        self.ready_at_once = ready_at_once
        self.exits_when_stopped = exits_when_stopped
        self.stops_when_cancelled = stops_when_cancelled
        self.refusals: list[Exception] = []
        self.gpus: list[Device] = []
        self.bytes_each = 0
        self.place: Callable[[StartOrder, ScriptedEngine], None] = lambda order, engine: None
        self.orders: list[StartOrder] = []
        self.prepared: list[StartOrder] = []
        self.workers: dict[str, ScriptedWorker] = {}
        self.ended: list[ScriptedWorker] = []
        self.killed: list[str] = []
        self.closed = False
        self._may_start = asyncio.Event()
        if starts_at_once:
            self._may_start.set()

    def let_start(self) -> None:
        self._may_start.set()

    def of(self, endpoint: str) -> list[ScriptedWorker]:
        """The endpoint's workers, in the order in which they started."""
        return [w for w in self.workers.values() if w.endpoint == endpoint]

    async def start(self, order: StartOrder, events: EngineEvents) -> ScriptedWorker:
        self.orders.append(order)
        await self._may_start.wait()
        if self.refusals:
            raise self.refusals.pop(0)
        self.place(order, self)
        worker = ScriptedWorker(self, order, events, asyncio.get_running_loop())
        self.workers[order.worker_id] = worker
        return worker

    async def prepare(self, order: StartOrder, events: EngineEvents) -> None:
        self.prepared.append(order)
        await self._may_start.wait()
        if self.refusals:
            raise self.refusals.pop(0)

    async def stop(self, worker_id: str) -> None:
        self.killed.append(worker_id)
        worker = self.workers.get(worker_id)
        if worker is not None:
            worker.exit()

    def limit(self, spec: EndpointSpec) -> tuple[int, str]:
        return self.capacity, f"room for {self.capacity} workers"

    def advice(self, worker_id: str) -> str:
        return ""

    def devices(self) -> Sequence[Device]:
        return self.gpus

    def platform(self) -> Platform:
        return Platform("3.12", "x86_64-manylinux_2_28")

    async def pin(
        self, spec: EndpointSpec, env: Mapping[str, str], report: Callable[[str], None] | None
    ) -> str:
        return ""  # (it has no images)

    def memory(self, worker_id: str) -> int:
        return self.bytes_each if worker_id in self.workers else 0

    def forget_endpoint(self, key: str) -> None:
        """Nothing is kept for endpoints."""

    async def forget_app(self, app: str) -> None:
        """Nothing is kept for apps."""

    async def close(self) -> None:
        self.closed = True
        for worker in list(self.workers.values()):
            worker.exit()

    def close_in_child(self) -> None:
        self.workers.clear()
