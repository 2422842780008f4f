"""One endpoint inside a plane: its spec and its workers, as the dispatcher and reconciler see them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from runpod_flash.links.base import WorkerLink
    from runpod_flash.plane.store.base import Job, Lease
    from runpod_flash.spec import EndpointSpec


class WorkerState(Enum):
    STARTING = "starting"
    READY = "ready"
    DRAINING = "draining"  # takes no more jobs, and ends when its last one has


@dataclass(slots=True, eq=False)
class Worker:
    """A worker and the jobs that it holds. `ghosts` are ended jobs whose code still runs there.

    `failed` says that the user's code did not load; `stopping` that its end was asked for.
    """

    id: str
    pool: Pool
    state: WorkerState = WorkerState.STARTING
    link: WorkerLink | None = None
    jobs: dict[str, Job] = field(default_factory=dict)
    ghosts: set[str] = field(default_factory=set)
    idle_since: float = 0.0
    was_ready: bool = False
    failed: bool = False
    stopping: bool = False

    @property
    def free_slots(self) -> int:
        if self.state is not WorkerState.READY:
            return 0
        limit = self.pool.spec.placement.max_concurrency
        return limit - len(self.jobs) - len(self.ghosts)

    @property
    def idle(self) -> bool:
        return self.state is WorkerState.READY and not self.jobs and not self.ghosts


@dataclass(slots=True, eq=False)
class Pool:
    """An endpoint's workers. `env` holds the values that go to new workers."""

    spec: EndpointSpec
    env: Mapping[str, str]
    lease: Lease
    workers: dict[str, Worker] = field(default_factory=dict)
    # Ready workers with a free slot, the most recently used last: it is taken first, so that the
    # others can idle out.
    free: list[Worker] = field(default_factory=list)
    scaled_up_at: float = float("-inf")
    failed_starts: int = 0
    retry_at: float = 0.0
    waits_for: str = ""
    said: set[str] = field(default_factory=set)

    @property
    def key(self) -> str:
        return self.spec.key

    def live(self) -> list[Worker]:
        """Workers that run jobs now or will."""
        return [w for w in self.workers.values() if w.state is not WorkerState.DRAINING]

    def refresh(self, worker: Worker) -> None:
        """Put the worker into `free`, or take it out, as its slots say."""
        listed = worker in self.free
        if worker.free_slots > 0 and worker.id in self.workers:
            if not listed:
                self.free.append(worker)
        elif listed:
            self.free.remove(worker)
