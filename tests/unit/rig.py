"""A plane on a scripted engine and a clock that jumps: what the plane's tests stand on."""

from __future__ import annotations

import asyncio
import itertools
import time
from typing import TYPE_CHECKING, Any

from runpod_flash.plane.events import ChunkAdded, JobEnded, Notice
from runpod_flash.plane.plane import Plane
from runpod_flash.plane.store.base import Call, JobState, NewJob, Policy
from runpod_flash.plane.store.memory import MemoryStore, now
from runpod_flash.plane.views import JobViews
from runpod_flash.spec import Build, EndpointSpec, Entry, Placement, Scaling
from runpod_flash.testing import ManualClock, ScriptedEngine, run
from runpod_flash.wire.codec import decode, encode

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from runpod_flash.plane.debugging import Console
    from runpod_flash.plane.events import Event
    from runpod_flash.plane.pool import Pool
    from runpod_flash.plane.store.base import Job
    from runpod_flash.testing import ScriptedLink, ScriptedWorker
    from runpod_flash.wire.failures import Failure


def spec(
    name: str = "a",
    workers: tuple[int, int] = (0, 1),
    *,
    idle_timeout: int = 60,
    scaler: str = "QUEUE_DELAY",
    scaler_value: float = 4,
    code: str = "code",
    learned: bool = False,
    **placement: Any,
) -> EndpointSpec:
    return EndpointSpec(
        name,
        Entry("module", name, file="module.py"),
        Build(code),
        Placement(**placement),
        Scaling(*workers, idle_timeout, scaler, scaler_value, learned),  # type: ignore[arg-type]
    )


class Rig:
    """A plane, what it said, and short words for what tests do to it."""

    def __init__(
        self, engine: ScriptedEngine, clock: Callable[[], float], console: Console | None = None
    ) -> None:
        self.clock = clock
        self.engine = engine
        self.store = MemoryStore(clock)
        self.plane = Plane(self.store, engine, {"CALLER": "1"}, clock, console)
        self.views = JobViews(self.plane)
        self.ended: list[Job] = []
        self.chunks: list[ChunkAdded] = []
        self.notices: list[str] = []
        self.plane.events.subscribe(self._note)
        self._ids = map(str, itertools.count(1))

    def _note(self, event: Event) -> None:
        if isinstance(event, JobEnded):
            self.ended.append(event.job)
        elif isinstance(event, ChunkAdded):
            self.chunks.append(event)
        elif isinstance(event, Notice):
            self.notices.append(event.text)

    def declare(self, spec: EndpointSpec, env: Mapping[str, str] | None = None) -> Pool:
        return self.plane.declare(spec, env or {})

    def submit(self, pool: Pool, *args: Any, parent: str = "", **policy: Any) -> str:
        """Queue a job; its id is also its only argument where none is given."""
        id_ = next(self._ids)
        credits_ = policy.pop("credits", 0)
        call = Call(encode({"args": list(args) or [id_], "kwargs": {}}))
        self.plane.submit(pool, NewJob(id_, pool.key, call, Policy(**policy), parent, credits_))
        return id_

    def job(self, id_: str) -> Job:
        found = now(self.store.get(id_))
        assert found is not None
        return found

    def state(self, id_: str) -> JobState:
        return self.job(id_).state

    def states(self, ids: list[str]) -> list[str]:
        return [self.state(id_).value for id_ in ids]

    def value(self, id_: str) -> Any:
        outcome = self.job(id_).outcome
        assert outcome is not None
        assert outcome.payload is not None, outcome.failure
        return decode(outcome.payload, trusted=True)

    def failure(self, id_: str) -> Failure:
        outcome = self.job(id_).outcome
        assert outcome is not None
        assert outcome.failure is not None
        return outcome.failure

    def worker(self, endpoint: str = "a") -> ScriptedWorker:
        """The endpoint's only worker."""
        (found,) = self.engine.of(endpoint)
        return found

    def holder(self, id_: str) -> ScriptedLink:
        """The link of the worker that has the job's code."""
        (found,) = [w.link for w in self.engine.workers.values() if id_ in w.link.jobs]
        return found

    async def settle(self) -> None:
        """Let everything happen that needs no time."""
        for _ in range(50):
            await asyncio.sleep(0)

    async def after(self, seconds: float) -> None:
        await asyncio.sleep(seconds)
        await self.settle()

    async def busy(self, pool: Pool, **policy: Any) -> str:
        """A job that runs."""
        id_ = self.submit(pool, **policy)
        await self.settle()
        assert self.state(id_) is JobState.IN_PROGRESS
        return id_


def real(engine: ScriptedEngine) -> Rig:
    """A rig on the running loop's real time, for tests with threads."""
    return Rig(engine, time.monotonic)


def play(
    scenario: Callable[[Rig], Awaitable[None]],
    console: Console | None = None,
    faulty: bool = False,
    **engine: Any,
) -> Rig:
    """Run a scenario on a rig whose engine has these settings; the rig, closed.

    A `faulty` one reports faults of the plane to the loop.
    """
    clock = ManualClock()
    rigs: list[Rig] = []

    async def whole() -> None:
        rig = Rig(ScriptedEngine(**engine), clock, console)
        rigs.append(rig)
        errors: list[dict[str, Any]] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: errors.append(context))
        try:
            await scenario(rig)
        finally:
            await rig.plane.close()
        await rig.settle()
        assert bool(errors) == faulty, errors

    run(whole(), clock)
    return rigs[0]
