"""What waits for workers of an endpoint, and which workers there are for it."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from runpod_flash.plane.autoscaler import Counters
from runpod_flash.plane.nesting import held_up, nested_jobs
from runpod_flash.plane.pool import WorkerState
from runpod_flash.plane.store.memory import now

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from runpod_flash.plane.pool import Pool, Worker
    from runpod_flash.plane.store.base import Counts, Job, Store


class Demand:
    """Looks into the store and the `pools`; `ancestors` are the workers a job was called by."""

    def __init__(
        self,
        store: Store,
        ancestors: Callable[[Job], Sequence[Worker]],
        pools: Mapping[str, Pool],
    ) -> None:
        self._store = store
        self._ancestors = ancestors
        self._pools = pools

    def counts(self, pool: Pool) -> Counts:
        """Jobs and requests that wait, those aside that are content to wait."""
        counts = now(self._store.counts(pool.key))
        counts = counts._replace(queued=counts.queued - counts.patient)
        if not pool.waiting:
            return counts
        since = pool.waiting[0][0]
        oldest = since if counts.oldest_queued_at is None else min(since, counts.oldest_queued_at)
        return counts._replace(queued=counts.queued + len(pool.waiting), oldest_queued_at=oldest)

    def waiting_since(self, pool: Pool) -> float:
        """Since when the oldest one waits; infinite where none does."""
        oldest = self.counts(pool).oldest_queued_at
        return math.inf if oldest is None else oldest

    def counters(self, pool: Pool, counts: Counts, clock: float) -> Counters:
        """What the autoscaler goes by."""
        live = [w for w in pool.workers.values() if w.yields or w.state is not WorkerState.DRAINING]
        nested = 0
        if counts.nested:
            nested = held_up(pool, self._pools.values(), self._store, self._ancestors)
        return Counters(
            now=clock,
            queued=counts.queued,
            running=counts.running,
            workers=len(live),
            starting=sum(w.state is WorkerState.STARTING for w in live),
            oldest_queued_at=counts.oldest_queued_at,
            scaled_up_at=pool.scaled_up_at,
            idle_since=tuple(w.idle_since for w in live if w.idle and not w.attached),
            nested=nested,
            requests=pool.requests(),
            quiet_since=pool.learned.quiet_since,
            keep_alive=pool.learned.keep_alive if pool.spec.scaling.learned else None,
        )

    def callers(self, pool: Pool) -> tuple[str, ...]:
        """The ids of the workers whose own jobs the pool's waiting ones are."""
        queued = nested_jobs(self._store, pool)
        return tuple({w.id: w for job in queued for w in self._ancestors(job)})


def note_wait(pool: Pool, counts: Counts) -> None:
    """Have what waits say for what, where that is known before a start is tried."""
    if not counts.queued:
        pool.waits_for, pool.held_by = "", ()
    elif pool.spec.external and not pool.workers:
        hint = f"`flash worker env {pool.spec.name}` says how to start one"
        pool.waits_for = f"a worker from elsewhere: {hint}"
    elif pool.spec.scaling.workers_max == 0 and not pool.workers:
        pool.waits_for = f"a worker, of which workers=0 allows {pool.spec.name} none"
