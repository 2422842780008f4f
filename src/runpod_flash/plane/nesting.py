"""Which workers wait, through jobs that their code submitted, for a queue that they hold up."""

from __future__ import annotations

from typing import TYPE_CHECKING

from runpod_flash.plane.store.memory import now

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from runpod_flash.plane.pool import Pool, Worker
    from runpod_flash.plane.store.base import Job, Store


def nested_jobs(store: Store, pool: Pool) -> Sequence[Job]:
    """The pool's waiting jobs that other jobs submitted; they are first in line."""
    count = now(store.counts(pool.key)).nested
    return now(store.waiting(pool.key, count)) if count else ()


def held_up(
    pool: Pool,
    pools: Iterable[Pool],
    store: Store,
    ancestors: Callable[[Job], Sequence[Worker]],
) -> int:
    """How many workers of the pool wait, directly or through others, for its own queue.

    A worker waits for each queue that holds a nested job of its own, and with it for that pool's
    workers. While such a circle exists no declared maximum can be kept to: so many workers more
    may run.
    """
    if not nested_jobs(store, pool):
        return 0
    waiters = {each: _waiters(store, each, ancestors) for each in pools}
    reached = _queues_that_wait_for(pool, waiters)
    blocked = {w.id for queue in reached for w in waiters[queue] if w.pool is pool}
    return len(blocked)


def _waiters(
    store: Store, pool: Pool, ancestors: Callable[[Job], Sequence[Worker]]
) -> Sequence[Worker]:
    """The workers that wait for a job in this pool's queue."""
    found = {w.id: w for job in nested_jobs(store, pool) for w in ancestors(job)}
    return list(found.values())


def _queues_that_wait_for(pool: Pool, waiters: Mapping[Pool, Sequence[Worker]]) -> set[Pool]:
    """The pool itself, and those whose own workers wait for one that is in the set already."""
    reached: set[Pool] = set()
    pending = [pool]
    while pending:
        queue = pending.pop()
        if queue not in reached and queue in waiters:
            reached.add(queue)
            pending += [worker.pool for worker in waiters[queue]]
    return reached
