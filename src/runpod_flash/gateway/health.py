"""How an endpoint is: the counters of the queue API's health and metrics."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from runpod_flash.plane.pool import WorkerState
from runpod_flash.plane.store.memory import now

if TYPE_CHECKING:
    from runpod_flash.plane.pool import Pool
    from runpod_flash.plane.store.base import Store


def health(store: Store, pool: Pool) -> dict[str, Any]:
    """Jobs and workers; known clients need all of these integers."""
    counts, tally = now(store.counts(pool.key)), now(store.tally(pool.key))
    jobs = {
        "completed": tally.completed,
        "failed": tally.failed,
        "inProgress": counts.running + pool.requests(),
        "inQueue": counts.queued + len(pool.waiting),
        "retried": tally.retried,
    }
    return {"jobs": jobs, "workers": workers(pool)}


def metrics(pool: Pool) -> dict[str, Any]:
    """Who can take a job, and the counters of workers."""
    ready = [each.id for each in pool.live() if each.state is WorkerState.READY]
    return {"readyWorkers": ready, "workers": workers(pool)}


def workers(pool: Pool) -> dict[str, int]:
    """Each worker counts once, but for those that are ready: they are idle as well."""
    counted = dict.fromkeys(
        ("idle", "initializing", "ready", "running", "throttled", "unhealthy"), 0
    )
    for worker in list(pool.workers.values()):
        if worker.failed or worker.gone:
            counted["unhealthy"] += 1
        elif worker.busy:
            counted["running"] += 1
        elif worker.state is WorkerState.STARTING:
            counted["initializing"] += 1
        elif worker.state is WorkerState.READY:
            counted["ready"] += 1
            counted["idle"] += 1
    if pool.waits_for:
        counted["throttled"] = 1  # the one that has no room; more are not tried
    if pool.pace.failed_starts:
        counted["unhealthy"] = max(counted["unhealthy"], 1)
    return counted
