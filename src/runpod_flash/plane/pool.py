"""One endpoint inside a plane: its spec and its workers, for the dispatcher and reconciler."""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING

from runpod_flash.plane.faults import Faults
from runpod_flash.plane.keep_alive import Learned
from runpod_flash.plane.start_pace import StartPace

if TYPE_CHECKING:
    from collections.abc import Mapping

    from runpod_flash.engines.base import StartOrder
    from runpod_flash.links.base import WorkerLink
    from runpod_flash.plane.exchange import Exchange
    from runpod_flash.plane.store.base import Job, Lease
    from runpod_flash.spec import EndpointSpec


class WorkerState(Enum):
    STARTING = "starting"
    READY = "ready"
    DRAINING = "draining"  # takes no more jobs, and ends when its last one has


@dataclass(frozen=True)
class Elsewhere:
    """A worker that another machine has started: by `order`, and with `spec` as it is there.

    `caller_env` is what its modules may read while they are imported; it has these `devices`.
    """

    order: StartOrder | None
    spec: EndpointSpec
    caller_env: Mapping[str, str] = field(default_factory=dict)
    node: str = ""
    devices: tuple[str, ...] = ()


@dataclass(slots=True, eq=False)
class Worker:
    """A worker and the jobs or requests that it holds.

    `ghosts` are ended ones whose code still runs there. In `exchanges`, None stands for a request
    that is about to come.

    `order` is what it was started by, at `ordered_at`; from `started_at` on it has its `devices`.
    `failed` says that the user's code did not load; `stopping` that its end was asked for; `gone`
    that its link has closed by itself, so that only its exit is still to come; `yields` that it
    ends to make room for another endpoint, and is not to be replaced meanwhile.

    `attached` is one that somebody else has started and ends (`Plane.attach`). One that asks for
    its jobs has `offered` as the number that it would take now; None for those that are given them.
    """

    id: str
    pool: Pool
    state: WorkerState = WorkerState.STARTING
    link: WorkerLink | None = None
    jobs: dict[str, Job] = field(default_factory=dict)
    exchanges: dict[str, Exchange | None] = field(default_factory=dict)
    ghosts: set[str] = field(default_factory=set)
    order: StartOrder | None = None
    node: str = ""
    devices: tuple[str, ...] = ()
    ordered_at: float = 0.0
    started_at: float | None = None
    idle_since: float = 0.0
    ready_at: float | None = None
    failed: bool = False
    stopping: bool = False
    gone: bool = False
    yields: bool = False
    attached: bool = False
    offered: int | None = None

    @property
    def free_slots(self) -> int:
        if self.state is not WorkerState.READY:
            return 0
        if self.offered is not None:
            return self.offered
        limit = self.pool.spec.placement.max_concurrency
        return limit - len(self.jobs) - len(self.ghosts)

    @property
    def idle(self) -> bool:
        return self.state is WorkerState.READY and not self.busy and not self.ghosts

    @property
    def busy(self) -> bool:
        """Whether it has something to finish."""
        return bool(self.jobs or self.exchanges)

    @property
    def stale(self) -> bool:
        """Whether new workers would be started otherwise than this one was."""
        order, spec = self.order, self.pool.spec
        return order is not None and (
            order.spec.build != spec.build
            or order.spec.placement != spec.placement
            or order.env != self.pool.env
        )

    def gpu_seconds(self, clock: float) -> float:
        """How long it has had its devices, times how many."""
        return 0.0 if self.started_at is None else (clock - self.started_at) * len(self.devices)


@dataclass(slots=True, eq=False)
class Pool:
    """An endpoint's workers. `env` holds the values that go to new workers.

    `caller_env` is what their modules may read while they are imported; None for what the plane's
    own process has. A `staged` pool has workers that no job can reach: they show whether such a
    worker would start.
    """

    spec: EndpointSpec
    env: Mapping[str, str]
    lease: Lease
    caller_env: Mapping[str, str] | None = None
    workers: dict[str, Worker] = field(default_factory=dict)
    # Ready workers with a free slot by their ids, the most recently used last: it is taken first,
    # so that the others can idle out.
    free: dict[str, Worker] = field(default_factory=dict)
    scaled_up_at: float = float("-inf")
    pace: StartPace = field(default_factory=StartPace)
    faults: Faults = field(default_factory=Faults)
    # What a start was refused for, and the workers that hold it.
    waits_for: str = ""
    held_by: tuple[str, ...] = ()
    # Whether the endpoint is served no more: what it holds comes to its end.
    withdrawn: bool = False
    # Set when a worker is ready or gone, for those who wait for that. On the loop only.
    change: asyncio.Event = field(default_factory=asyncio.Event)
    said: set[str] = field(default_factory=set)
    # Requests that wait for a worker: since when, and what they wait on. On the loop only.
    waiting: deque[tuple[float, asyncio.Future[Worker]]] = field(default_factory=deque)
    # Whether jobs may wait in the store: spares a look there after every job.
    backlog: bool = True
    staged: bool = False
    learned: Learned = field(default_factory=Learned)
    key: str = field(init=False)

    def __post_init__(self) -> None:
        self.key = f"{self.spec.key}:staged" if self.staged else self.spec.key

    def differs(self, spec: EndpointSpec, env: Mapping[str, str]) -> bool:
        """Whether these would have other workers."""
        return (
            self.spec.build_digest != spec.build_digest
            or self.spec.placement_digest != spec.placement_digest
            or self.env != env
        )

    def live(self) -> list[Worker]:
        """Workers that run jobs now or will."""
        return [w for w in self.workers.values() if w.state is not WorkerState.DRAINING]

    def work_came(self, now: float) -> None:
        """Count how long the endpoint was idle, where its workers are kept by that."""
        if self.spec.scaling.learned:
            self.learned.work(now, self.spec.scaling.idle_timeout)

    def went_quiet(self, now: float) -> None:
        """Note that a worker has nothing to do any more; perhaps none has."""
        if self.spec.scaling.learned and not any(w.busy for w in self.workers.values()):
            self.learned.quiet(now)

    def requests(self) -> int:
        """How many requests of routes are with workers that go on."""
        return sum(len(w.exchanges) for w in self.live())

    def next_free(self) -> Worker | None:
        return next(reversed(self.free.values()), None)

    def refresh(self, worker: Worker) -> None:
        """Put the worker into `free`, or take it out, as its slots say."""
        if worker.free_slots > 0 and worker.id in self.workers:
            self.free.setdefault(worker.id, worker)
        else:
            self.free.pop(worker.id, None)
