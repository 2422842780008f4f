"""A discrete-event simulator of one endpoint: the plane's own autoscaler, on a clock of its own."""

from __future__ import annotations

import heapq
import math
from collections import deque
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from runpod_flash.plane.autoscaler import Counters, desired
from runpod_flash.plane.keep_alive import Learned

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from runpod_flash.simulation.traces import Arrival, Trace
    from runpod_flash.spec import Scaling


@dataclass(frozen=True)
class Outcome:
    """What became of a trace's calls.

    `waits` are the seconds until each call ran; `cold` of them waited for a worker to start.
    `worker_seconds` count from a worker's start to its end, up to one `idle_timeout` after the
    end of the trace's last call.
    """

    waits: tuple[float, ...]
    cold: int
    worker_seconds: float

    @property
    def calls(self) -> int:
        return len(self.waits)

    @property
    def cold_share(self) -> float:
        return self.cold / self.calls if self.waits else 0.0

    def wait(self, share: float) -> float:
        """The wait that this share of the calls had at most."""
        return sorted(self.waits)[max(math.ceil(share * self.calls) - 1, 0)] if self.waits else 0.0

    def __add__(self, other: Outcome) -> Outcome:
        seconds = self.worker_seconds + other.worker_seconds
        return Outcome(self.waits + other.waits, self.cold + other.cold, seconds)


NOTHING = Outcome((), 0, 0.0)


def simulate(trace: Trace, scaling: Scaling, *, start_seconds: float) -> Outcome:
    """The outcome of all endpoints of a trace together, each scaled alone.

    A worker takes `start_seconds` to be ready, and runs one call at a time.
    """
    endpoints = [_Endpoint(scaling, start_seconds) for _ in trace]
    ends = [each.run(calls) for each, calls in zip(endpoints, trace.values(), strict=True)]
    # Workers that are never to end cost all endpoints as long.
    until = max(ends, default=0.0) + scaling.idle_timeout
    total = NOTHING
    for each in endpoints:
        total += each.finish(until)
    return total


@dataclass(eq=False)
class _Endpoint:
    scaling: Scaling
    start_seconds: float
    now: float = 0.0
    queue: deque[Arrival] = field(default_factory=deque)
    starting: int = 0
    running: int = 0
    # When each idle worker became ready, and when it became idle; the most recent is used first.
    idle: list[tuple[float, float]] = field(default_factory=list)
    scaled_up_at: float = -math.inf
    learned: Learned = field(default_factory=Learned)
    waits: list[float] = field(default_factory=list)
    cold: int = 0
    worker_seconds: float = 0.0
    _events: list[tuple[float, int, Callable[[], None]]] = field(default_factory=list)
    _count: int = 0
    _look_at: float = math.inf

    def run(self, calls: Sequence[Arrival]) -> float:
        """Run all calls, and say when the last of them ended."""
        self._look()
        for call in calls:
            self._until(call.at)
            self._arrive(call)
            self._look()
        while self.queue or self.running:
            self._step(self._next())
        return self.now

    def finish(self, until: float) -> Outcome:
        self._until(until)
        return Outcome(tuple(self.waits), self.cold, self.worker_seconds)

    def _until(self, end: float) -> None:
        """Let all happen that comes before, and then the time."""
        while (at := self._next()) <= end:
            self._step(at)
        self._pass(end)

    def _next(self) -> float:
        return min(self._look_at, self._events[0][0] if self._events else math.inf)

    def _step(self, at: float) -> None:
        self._pass(at)
        if self._events and self._events[0][0] <= at:
            heapq.heappop(self._events)[2]()
        self._look()

    def _pass(self, at: float) -> None:
        """Let time pass, which all workers cost."""
        self.worker_seconds += (at - self.now) * self._workers()
        self.now = at

    def _workers(self) -> int:
        return self.starting + self.running + len(self.idle)

    def _at(self, at: float, happen: Callable[[], None]) -> None:
        self._count += 1
        heapq.heappush(self._events, (at, self._count, happen))

    # What happens

    def _arrive(self, call: Arrival) -> None:
        if self.scaling.learned:
            self.learned.work(self.now, self.scaling.idle_timeout)
        self.queue.append(call)
        self._assign()

    def _assign(self) -> None:
        while self.queue and self.idle:
            call, (ready_at, _) = self.queue.popleft(), self.idle.pop()
            self.waits.append(self.now - call.at)
            self.cold += ready_at > call.at
            self.running += 1
            self._at(self.now + call.seconds, lambda ready=ready_at: self._end(ready))  # type: ignore[misc]

    def _end(self, ready_at: float) -> None:
        self.running -= 1
        self.idle.append((ready_at, self.now))
        self._assign()
        if not self.running:
            self.learned.quiet(self.now)

    def _ready(self) -> None:
        self.starting -= 1
        self.idle.append((self.now, self.now))
        self.learned.start_seconds = self.start_seconds
        self._assign()

    def _look(self) -> None:
        wanted = desired(self.scaling, self._counters())
        missing = wanted.workers - self._workers()
        if missing > 0:
            self.scaled_up_at = self.now
            self.starting += missing
            for _ in range(missing):
                self._at(self.now + self.start_seconds, self._ready)
        for _ in range(min(-missing, len(self.idle))):
            self.idle.remove(min(self.idle, key=lambda worker: worker[1]))
        self._look_at = math.inf if wanted.again_at is None else max(wanted.again_at, self.now)

    def _counters(self) -> Counters:
        return Counters(
            now=self.now,
            queued=len(self.queue),
            running=self.running,
            workers=self._workers(),
            starting=self.starting,
            oldest_queued_at=self.queue[0].at if self.queue else None,
            scaled_up_at=self.scaled_up_at,
            idle_since=tuple(since for _, since in self.idle),
            quiet_since=self.learned.quiet_since,
            keep_alive=self.learned.keep_alive,
        )


def equal_fixed(
    trace: Trace, scaling: Scaling, worker_seconds: float, *, start_seconds: float
) -> tuple[float, Outcome]:
    """The fixed idle timeout that takes as many worker-seconds, and its outcome; by bisection.

    Within a part in 200, it takes rather more of them than fewer.
    """
    low, high = 0.0, 16.0  # logarithms to base 2: a second to a day
    best = (2.0**high, NOTHING)
    for _ in range(20):
        middle = (low + high) / 2
        fixed = replace(scaling, idle_timeout=2.0**middle, learned=False)
        outcome = simulate(trace, fixed, start_seconds=start_seconds)
        if outcome.worker_seconds < worker_seconds:
            low = middle
            continue
        high, best = middle, (2.0**middle, outcome)
        if outcome.worker_seconds < worker_seconds * 1.005:
            break
    return best
