"""The link to an unmodified worker of RunPod's package: it asks over HTTP, and this end answers.

Such a worker takes jobs by a request that is held until there is one, and hears of cancelled jobs
by another. It tells which jobs it has in heartbeats, which come from a process of their own: they
prove neither that the worker lives nor that it still runs a job. All here is on the plane's loop,
but for `run` and `cancel`.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from runpod_flash.links.signs_of_life import SignsOfLife

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from runpod_flash.links.base import JobRef, LinkEvents, Part
    from runpod_flash.plane.store.base import Job
    from runpod_flash.spec import EndpointSpec
    from runpod_flash.wire.codec import Payload
    from runpod_flash.wire.failures import Failure

# A word to stop a job is said again after so long, until the job is gone: one that comes before
# the worker has begun with the job is not heeded.
_STOP_AGAIN_SECONDS = 2.0
# A job that the worker does not name so often in a row is not there.
_MISSES = 2


class Ending(NamedTuple):
    """How a worker says that a job has ended: by `output`, or by `failure` (and both, at times)."""

    output: Payload | None = None
    failure: Failure | None = None


class Poll:
    """A request of the worker that is held for an answer: it would take `room` jobs.

    `broken` says that nobody waits for it any more, `replaced` that a newer one is held instead.
    """

    def __init__(self, room: int = 1) -> None:
        self.room = room
        self.broken = False
        self.replaced = False
        self.released: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def release(self) -> None:
        """Have it answered now."""
        if not self.released.done():
            self.released.set_result(None)

    def broke(self) -> None:
        """The worker has closed the connection."""
        self.broken = True
        self.release()


@dataclass(slots=True, eq=False)
class _Given:
    """A job that the worker has. `named` says that a heartbeat has told of it."""

    ref: JobRef
    chunks: int = 0
    named: bool = False
    missed: int = 0


class RunPodLink:
    """`WorkerLink` over the five addresses of a worker; `life` tells whether it still is there."""

    def __init__(self, worker_id: str) -> None:
        self.worker_id = worker_id
        self._loop = asyncio.get_running_loop()
        self._home_thread = threading.get_ident()
        self.life = SignsOfLife(self._loop.time)
        self._polls: dict[str, Poll] = {}
        self._waiting: deque[Job] = deque()  # the plane's, but not yet taken
        self._given: dict[str, _Given] = {}
        self._stops: dict[str, float] = {}  # jobs that are to stop, and when to say so
        self._named: frozenset[str] = frozenset()
        self.stopping = False
        self.closed = False

    # For the plane

    def open(self, events: LinkEvents, spec: EndpointSpec, caller_env: Mapping[str, str]) -> None:
        self._events = events
        events.asks(0)
        events.ready()

    def run(self, job: Job, *, trusted: bool) -> None:
        self._waiting.append(job)
        self._at_home(self._release, "take")

    def cancel(self, ref: JobRef) -> None:
        self._at_home(self._cancel, ref)

    def stop(self) -> None:
        self.stopping = True
        for kind in tuple(self._polls):
            self._release(kind)

    def close(self) -> None:
        self.closed = True
        self.stop()
        self.life.end()

    def drain(self) -> None:
        """Nothing is on its way but in requests."""

    def lend(self, loop: asyncio.AbstractEventLoop) -> None:
        """There is nothing to read."""

    def grant(self, ref: JobRef, chunks: int) -> None:
        """These generators are not held back."""

    def exchange(self, part: Part) -> None:
        raise NotImplementedError("RunPod's workers answer no requests of routes")

    def answer(self, call_id: int, fields: Mapping[str, Any], payload: Payload | None) -> None:
        """They ask nothing of the plane."""

    def _at_home(self, work: Any, *args: Any) -> None:
        if threading.get_ident() == self._home_thread:
            work(*args)
        else:
            self._loop.call_soon_threadsafe(work, *args)

    def _cancel(self, ref: JobRef) -> None:
        untaken = next((job for job in self._waiting if job.ref == ref), None)
        if untaken is not None:
            self._waiting.remove(untaken)
            self._events.stopped(ref)
        elif self._has(ref):
            self._stops[ref.job_id] = 0.0
            self._release("stop")

    def _has(self, ref: JobRef) -> bool:
        given = self._given.get(ref.job_id)
        return given is not None and given.ref == ref

    # For the worker: jobs

    async def take(self, poll: Poll, seconds: float, *, idle: bool) -> list[Job]:
        """Jobs for a worker that asks; none after so many seconds.

        `idle` says that it has none: what it was given before is not there.
        """
        self.life.seen()
        if idle:
            self._miss(self._given)
        if not self._waiting and not self.stopping:
            self._hold("take", poll)
            self._events.asks(poll.room)
            if not self._waiting:
                await self._wait(poll, seconds)
            self._let_go("take", poll)
            if poll.replaced:
                return []
            if not self.closed:
                self._events.asks(0)
        return [] if self._lost(poll) else self._give(poll.room)

    def _give(self, room: int) -> list[Job]:
        jobs: list[Job] = []
        while self._waiting and len(jobs) < room:
            job = self._waiting.popleft()
            self._given[job.id] = _Given(job.ref)
            if job.id not in self._named:  # else it runs there, from before it was given up
                jobs.append(job)
        return jobs

    async def stops(self, poll: Poll, seconds: float) -> list[str]:
        """The jobs that the worker is to stop; none after so many seconds."""
        self.life.seen()
        clock = self._loop.time
        seconds = min([seconds, *(at - clock() for at in self._stops.values())])
        if seconds > 0 and not self.stopping:
            self._hold("stop", poll)
            await self._wait(poll, seconds)
            self._let_go("stop", poll)
        if self._lost(poll):
            return []
        due = [job_id for job_id, at in self._stops.items() if at <= clock()]
        self._stops |= dict.fromkeys(due, clock() + _STOP_AGAIN_SECONDS)
        return due

    # For the worker: what it says

    def heartbeat(self, running: Collection[str], interval: float) -> None:
        """The worker's helper lives, and says that the worker has these jobs."""
        self.life.beat(interval)
        self._named = frozenset(running)
        for job_id in self._named & self._given.keys():
            self._given[job_id].named, self._given[job_id].missed = True, 0
        # (One that was never named may be on its way to a worker whose loop is blocked.)
        self._miss(
            job_id
            for job_id, given in self._given.items()
            if job_id not in self._named and (given.named or given.missed)
        )

    def _miss(self, job_ids: Any) -> None:
        for job_id in list(job_ids):
            given = self._given[job_id]
            given.missed += 1
            if job_id in self._stops or given.missed >= _MISSES:
                self._gone(given)

    def _gone(self, given: _Given) -> None:
        del self._given[given.ref.job_id]
        if self._stops.pop(given.ref.job_id, None) is not None:
            self._events.stopped(given.ref)
        else:
            why = f"the worker {self.worker_id} went on without a result (was it no JSON value?)"
            self._events.dropped(given.ref, why)

    def chunk(self, job_id: str, payload: Payload) -> None:
        """A generator's next value."""
        self.life.seen()
        given = self._given.get(job_id)
        if given is not None:
            given.chunks += 1
            self._events.chunk(given.ref, given.chunks - 1, payload)

    def progress(self, job_id: str, payload: Payload) -> None:
        self.life.seen()
        given = self._given.get(job_id)
        if given is not None:
            self._events.progress(given.ref, payload)

    def ended(self, job_id: str, ending: Ending) -> bool:
        """Whether this end was one of a job that the worker has."""
        self.life.seen()
        given = self._given.pop(job_id, None)
        self._stops.pop(job_id, None)
        self._named -= {job_id}
        if given is None:
            return False
        if ending.failure is not None:
            self._events.failed(given.ref, ending.failure, ending.output)
        else:
            assert ending.output is not None
            self._events.finished(given.ref, ending.output)
        return True

    # Polls

    def _hold(self, kind: str, poll: Poll) -> None:
        former = self._polls.get(kind)
        if former is not None:
            former.replaced = True
            former.release()
        self._polls[kind] = poll

    def _release(self, kind: str) -> None:
        poll = self._polls.pop(kind, None)
        if poll is not None:
            poll.release()

    async def _wait(self, poll: Poll, seconds: float) -> None:
        self.life.polls += 1
        timer = self._loop.call_later(seconds, poll.release)
        try:
            await poll.released
        finally:
            timer.cancel()
            self.life.polls -= 1

    def _let_go(self, kind: str, poll: Poll) -> None:
        if self._polls.get(kind) is poll:
            del self._polls[kind]

    def _lost(self, poll: Poll) -> bool:
        if poll.broken:
            self.life.broke()
        return poll.broken
