"""Starts workers where there is room, and says so to those who wait where none can start."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING

from runpod_flash.engines.base import CapacityError
from runpod_flash.errors import FlashError, WorkerStartError
from runpod_flash.plane.events import WorkerStarted
from runpod_flash.plane.pool import Worker, WorkerState
from runpod_flash.plane.start_pace import CAPACITY_RETRY_SECONDS, KEEP_RETRY_SECONDS
from runpod_flash.wire.failures import capture

if TYPE_CHECKING:
    from collections.abc import Callable

    from runpod_flash.engines.base import Refusal, StartOrder, WorkerHandle
    from runpod_flash.plane.autoscaler import Counters
    from runpod_flash.plane.demand import Demand
    from runpod_flash.plane.pool import Pool
    from runpod_flash.plane.stopper import Stopper
    from runpod_flash.plane.surroundings import Surroundings
    from runpod_flash.wire.failures import Failure


class Starter:
    """`look_again(pool)` is called where a start that failed changes what is to be done."""

    def __init__(
        self,
        around: Surroundings,
        demand: Demand,
        stopper: Stopper,
        look_again: Callable[[Pool], None],
    ) -> None:
        self._around = around
        self._demand = demand
        self._stopper = stopper
        self._look_again = look_again

    def grow(self, pool: Pool, missing: int, counters: Counters) -> float | None:
        """Start workers; when to look again if it is too early or there is no room."""
        if pool.spec.external:
            return None
        served = any(w.state is WorkerState.READY for w in pool.live())
        # Where nobody waits for this worker alone, one that fails again and again is no hot loop.
        not_before = pool.pace.not_before(awaited=bool(counters.queued) and not served)
        if counters.now < not_before:
            return not_before
        limit, why = self._around.engine.limit(pool.spec)
        room = limit + counters.nested - counters.workers
        most = pool.spec.scaling.workers_max
        if room < missing and most > limit:
            self._around.say(pool, f"at most {limit} of {most} workers: {why}")
        if room > 0:
            self._start(pool, min(missing, room))
            return None
        if counters.queued and not counters.workers:
            pool.waits_for = why
        return counters.now + (CAPACITY_RETRY_SECONDS if counters.queued else KEEP_RETRY_SECONDS)

    def _start(self, pool: Pool, count: int) -> None:
        near = self._demand.callers(pool)
        for _ in range(count):
            worker = Worker(f"{pool.spec.name}-{secrets.token_hex(4)}", pool)
            with self._around.dispatcher.lock:
                pool.workers[worker.id] = worker
            pool.scaled_up_at = self._around.clock()
            order = self._around.order(worker.id, pool, near)
            worker.order, worker.ordered_at = order, pool.scaled_up_at
            self._around.tasks.spawn(self._bring_up(worker, order))

    async def _bring_up(self, worker: Worker, order: StartOrder) -> None:
        engine = self._around.engine
        try:
            handle = await engine.start(order, self._around.engine_events(worker.pool))
        except Exception as error:
            self._stopper.remove(worker)
            if worker.stopping:  # nobody waits for a worker of an earlier spec
                self._look_again(worker.pool)
            else:
                self._not_started(worker.pool, error)
            return
        try:
            self._started(worker, order, handle)
        except Exception as error:
            self._stopper.remove(worker)
            await engine.stop(worker.id)
            self._not_started(worker.pool, error)

    def _started(self, worker: Worker, order: StartOrder, handle: WorkerHandle) -> None:
        pool, link = worker.pool, handle.link
        if pool.workers.get(worker.id) is not worker:  # it has died already
            link.close()
            return
        pool.waits_for, pool.held_by = "", ()
        worker.link, worker.node, worker.devices = link, handle.node, handle.devices
        worker.started_at = self._around.clock()
        self._around.events.publish(WorkerStarted(pool.spec.name, worker.id))
        link.open(self._around.link_events(worker), order.spec, self._around.caller_env(pool))
        if worker.stopping:
            self._stopper.force(worker)

    # What a start may come to

    def _not_started(self, pool: Pool, error: Exception) -> None:
        if isinstance(error, CapacityError):
            self._refused(pool, error.refusal)
        elif isinstance(error, FlashError):
            self.cannot_start(pool, capture(error, origin="system"))
        else:
            reason = f"could not be started: {error or type(error).__name__}"
            if not isinstance(error, OSError):
                text = f"a worker of {pool.spec.name!r} could not be started"
                context = {"message": text, "exception": error}
                self._around.tasks.loop.call_exception_handler(context)
                reason = f"met an internal error in Flash's plane: {error!r}; please report it"
            self.died_early(pool, reason, "")

    def _refused(self, pool: Pool, refusal: Refusal) -> None:
        """No room: take it from an idle worker of another endpoint, or wait."""
        if refusal.permanent:
            text = f"no worker of {pool.spec.name!r} can start: {refusal.reason}"
            self.cannot_start(pool, capture(WorkerStartError(text), origin="system"))
            return
        pool.waits_for, pool.held_by = refusal.reason, refusal.holders
        pool.pace.refused(self._around.clock())
        self._look_again(pool)

    def died_early(self, pool: Pool, reason: str, output: str) -> None:
        """A worker ended before it was ready: try again, more and more slowly, then give up."""
        if pool.pace.died_early(self._around.clock()):
            self._look_again(pool)
            return
        text = (
            f"no worker of {pool.spec.name!r} can start: {pool.pace.failed_starts} in a row "
            f"failed, the last one {reason}"
        )
        if output:
            text += f"; its last output:\n{output}"
        self.cannot_start(pool, capture(WorkerStartError(text), origin="system"))

    def cannot_start(self, pool: Pool, failure: Failure) -> None:
        """Tell those who wait, unless others serve them."""
        pool.waits_for, pool.held_by = "", ()
        pool.pace.gave_up(self._around.clock())
        if not self._demand.counts(pool).queued:  # nobody else would hear of it
            self._around.say(pool, failure.message)
        if not any(w.state is WorkerState.READY for w in pool.workers.values()):
            self._around.fail_waiting(pool, failure)
        self._look_again(pool)
