"""Brings the workers that exist to the number that the autoscaler wants, when something changed."""

from __future__ import annotations

import asyncio
import secrets
from typing import TYPE_CHECKING

from runpod_flash.engines.base import CapacityError, StartOrder
from runpod_flash.errors import FlashError, WorkerLostError, WorkerStartError
from runpod_flash.plane.autoscaler import Counters, desired
from runpod_flash.plane.pool import Worker, WorkerState
from runpod_flash.plane.store.memory import now
from runpod_flash.wire.failures import capture

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Mapping, Sequence

    from runpod_flash.engines.base import Engine, EngineEvents, Refusal, WorkerExit
    from runpod_flash.links.base import LinkEvents
    from runpod_flash.plane.dispatcher import Dispatcher
    from runpod_flash.plane.pool import Pool
    from runpod_flash.plane.store.base import Job, Store
    from runpod_flash.wire.failures import Failure

# A worker process that dies before it is ready is tried so often before its jobs fail.
START_ATTEMPTS = 3
_BACKOFF_SECONDS = 0.2
# Another program may free a device without this plane hearing of it.
_CAPACITY_RETRY_SECONDS = 1.0
_STOP_GRACE_SECONDS = 5.0
# A process that has closed its link is about to end; one that is not is of no use.
_CLOSED_GRACE_SECONDS = 0.5


class Reconciler:
    """Starts and stops workers through an engine; every method runs on the plane's loop."""

    def __init__(
        self,
        store: Store,
        engine: Engine,
        dispatcher: Dispatcher,
        clock: Callable[[], float],
        caller_env: Mapping[str, str],
        link_events: Callable[[Worker], LinkEvents],
        engine_events: EngineEvents,
    ) -> None:
        self._store = store
        self._engine = engine
        self._dispatcher = dispatcher
        self._clock = clock
        self._caller_env = caller_env
        self._link_events = link_events
        self._engine_events = engine_events
        self._loop = asyncio.get_running_loop()
        self._pools: dict[str, Pool] = {}
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._closed = False

    def add(self, pool: Pool) -> None:
        self._pools[pool.key] = pool
        self.reconcile(pool)

    def reconcile(self, pool: Pool) -> None:
        """Compare and act; asks for its next look by itself where time alone changes the answer."""
        if self._closed:
            return
        timer = self._timers.pop(pool.key, None)
        if timer is not None:
            timer.cancel()
        self._dispatcher.pump(pool)
        self._stop_drained(pool)
        clock = self._clock()
        queued = now(self._store.waiting(pool.key))
        wanted = desired(pool.spec.scaling, self._counters(pool, queued, clock))
        missing = wanted.workers - len(pool.live())
        again_at = wanted.again_at
        if missing > 0:
            if clock >= pool.retry_at:
                self._start(pool, missing, queued)
            else:
                again_at = pool.retry_at
        elif missing < 0:
            self._stop_idle(pool, -missing)
        self._yield_devices(pool)
        if again_at is not None:
            delay = max(again_at - clock, 0.0)
            self._timers[pool.key] = self._loop.call_later(delay, self.reconcile, pool)

    def went_idle(self, pool: Pool) -> None:
        """Look at a pool one of whose workers has become idle, unless it is looked at in time.

        This is on the way of every warm call: a timer that is set fires no later than this idle
        time ends, and looks then.
        """
        others_wait = any(p.waits_for for p in self._pools.values())
        draining = any(w.state is WorkerState.DRAINING for w in pool.workers.values())
        if others_wait or draining or pool.key not in self._timers:
            self.reconcile(pool)

    def _counters(self, pool: Pool, queued: Sequence[Job], clock: float) -> Counters:
        counts = now(self._store.counts(pool.key))
        live = pool.live()
        return Counters(
            now=clock,
            queued=counts.queued,
            running=counts.running,
            workers=len(live),
            oldest_queued_at=counts.oldest_queued_at,
            scaled_up_at=pool.scaled_up_at,
            idle_since=tuple(w.idle_since for w in live if w.idle),
            nested=self._nested(pool, queued),
        )

    def _nested(self, pool: Pool, queued: Sequence[Job]) -> int:
        """How many of the pool's workers wait for a job of its own queue."""
        blocked = {
            worker.id
            for job in queued
            if job.parent
            for worker in self._dispatcher.ancestors(job)
            if worker.pool is pool
        }
        return len(blocked)

    # Starting

    def _start(self, pool: Pool, missing: int, queued: Sequence[Job]) -> None:
        nested = self._nested(pool, queued)
        limit, why = self._engine.limit(pool.spec)
        room = limit + nested - len(pool.live())
        if room < missing and pool.spec.scaling.workers_max > limit:
            self._say(pool, f"at most {limit} of {pool.spec.scaling.workers_max} workers: {why}")
        near = tuple({w.id for job in queued for w in self._dispatcher.ancestors(job)})
        for _ in range(min(missing, room)):
            worker = Worker(f"{pool.spec.name}-{secrets.token_hex(4)}", pool)
            pool.workers[worker.id] = worker
            pool.scaled_up_at = self._clock()
            order = StartOrder(worker.id, pool.spec, pool.env, near)
            self._spawn(self._bring_up(worker, order))

    async def _bring_up(self, worker: Worker, order: StartOrder) -> None:
        pool = worker.pool
        try:
            handle = await self._engine.start(order, self._engine_events)
        except CapacityError as error:
            self._remove(worker)
            self._refused(pool, error.refusal)
        except FlashError as error:
            self._remove(worker)
            self._cannot_start(pool, capture(error, origin="system"))
        except OSError as error:
            self._remove(worker)
            self._died_early(pool, f"could not be started: {error}", "")
        else:
            pool.waits_for = ""
            worker.link = handle.link
            handle.link.open(self._link_events(worker), pool.spec, self._caller_env)
            if worker.stopping:
                await self._engine.stop(worker.id)

    def _refused(self, pool: Pool, refusal: Refusal) -> None:
        """No room: take it from an idle worker of another endpoint, or wait."""
        if refusal.permanent:
            text = f"no worker of {pool.spec.name!r} can start: {refusal.reason}"
            self._cannot_start(pool, capture(WorkerStartError(text), origin="system"))
            return
        if not now(self._store.counts(pool.key)).queued and not pool.spec.scaling.workers_min:
            return
        pool.waits_for = refusal.reason
        pool.retry_at = self._clock() + _CAPACITY_RETRY_SECONDS
        for holder in self._holders(refusal.holders):
            if holder.pool is not pool and holder.idle:
                pool.retry_at = 0.0
                self.stop(holder)
                return
        self.reconcile(pool)

    def _holders(self, ids: Sequence[str]) -> list[Worker]:
        every = {w.id: w for pool in self._pools.values() for w in pool.workers.values()}
        return [every[worker_id] for worker_id in ids if worker_id in every]

    def _yield_devices(self, pool: Pool) -> None:
        """Let a waiting endpoint have this one's device, unless older jobs wait for it here."""
        if not pool.spec.uses_gpu:
            return
        waiting = [p for p in self._pools.values() if p.waits_for and p is not pool]
        own = now(self._store.counts(pool.key)).oldest_queued_at
        for other in waiting:
            oldest = now(self._store.counts(other.key)).oldest_queued_at
            if oldest is None or (own is not None and own <= oldest):
                continue
            for worker in pool.live():
                if worker.idle:
                    other.retry_at = 0.0
                    self.stop(worker)
                    return

    def _died_early(self, pool: Pool, reason: str, output: str) -> None:
        """A worker ended before it was ready: try again, more and more slowly, then give up."""
        pool.failed_starts += 1
        pool.retry_at = self._clock() + _BACKOFF_SECONDS * 2**pool.failed_starts
        if pool.failed_starts >= START_ATTEMPTS:
            text = (
                f"no worker of {pool.spec.name!r} can start: {pool.failed_starts} in a row failed, "
                f"the last one {reason}"
            )
            if output:
                text += f"; its last output:\n{output}"
            self._cannot_start(pool, capture(WorkerStartError(text), origin="system"))
        self.reconcile(pool)

    def _cannot_start(self, pool: Pool, failure: Failure) -> None:
        pool.failed_starts = 0
        pool.waits_for = ""
        if not any(w.state is WorkerState.READY for w in pool.workers.values()):
            self._dispatcher.fail_waiting(pool, failure)
        pool.retry_at = self._clock() + _BACKOFF_SECONDS
        self.reconcile(pool)

    # What happens to workers

    def ready(self, worker: Worker) -> None:
        pool = worker.pool
        pool.failed_starts = 0
        with self._dispatcher.lock:
            if worker.state is WorkerState.STARTING:
                worker.state, worker.was_ready = WorkerState.READY, True
            worker.idle_since = self._clock()
            pool.refresh(worker)
        self.reconcile(pool)

    def start_failed(self, worker: Worker, failure: Failure) -> None:
        """The user's module does not import: that will not change by trying again."""
        worker.state, worker.failed = WorkerState.DRAINING, True
        self._cannot_start(worker.pool, failure)

    def exited(self, worker_id: str, exit_: WorkerExit) -> None:
        found = self._holders([worker_id])
        if not found:
            return
        (worker,) = found
        was_starting = not worker.was_ready and not worker.failed and not worker.stopping
        self._remove(worker)
        lost = None
        if not worker.stopping:
            text = f"the worker {worker_id} {exit_.reason} while it ran the job"
            lost = capture(WorkerLostError(text), origin="system")
        self._dispatcher.lost(worker, lost)
        if was_starting:
            self._died_early(worker.pool, exit_.reason, exit_.output)
        for pool in self._pools.values():
            if pool.waits_for:
                pool.retry_at = 0.0
            if pool.waits_for or pool is worker.pool:
                self.reconcile(pool)

    def link_closed(self, worker: Worker) -> None:
        """No word will come from this worker any more; the engine says what became of it."""
        with self._dispatcher.lock:
            worker.state = WorkerState.DRAINING if worker.link else worker.state
            worker.pool.refresh(worker)
        self._loop.call_later(_CLOSED_GRACE_SECONDS, self._force, worker)

    def _remove(self, worker: Worker) -> None:
        with self._dispatcher.lock:
            worker.pool.workers.pop(worker.id, None)
            worker.pool.refresh(worker)
        if worker.link is not None:
            worker.link.close()

    # Stopping

    def _stop_idle(self, pool: Pool, count: int) -> None:
        idle = sorted((w for w in pool.live() if w.idle), key=lambda w: w.idle_since)
        for worker in idle[:count]:
            self.stop(worker)

    def _stop_drained(self, pool: Pool) -> None:
        for worker in list(pool.workers.values()):
            if worker.state is WorkerState.DRAINING and not worker.jobs and not worker.stopping:
                self.stop(worker)

    def stop(self, worker: Worker) -> None:
        """End a worker that has no jobs: by itself within a grace time, else by force."""
        with self._dispatcher.lock:
            if worker.jobs:
                return
            worker.state = WorkerState.DRAINING
            worker.pool.refresh(worker)
        if worker.stopping:
            return
        worker.stopping = True
        if worker.link is None:
            return  # still being started: _bring_up sees the mark
        if worker.ghosts:
            self._spawn(self._engine.stop(worker.id))
            return
        worker.link.stop()
        self._loop.call_later(_STOP_GRACE_SECONDS, self._force, worker)

    def _force(self, worker: Worker) -> None:
        if worker.id in worker.pool.workers:
            self._spawn(self._engine.stop(worker.id))

    def replace_all(self, pool: Pool) -> None:
        """Let every worker end after its jobs; new ones get the pool's present spec and env."""
        with self._dispatcher.lock:
            for worker in pool.workers.values():
                worker.state = WorkerState.DRAINING
                pool.refresh(worker)
        self.reconcile(pool)

    async def close(self) -> None:
        self._closed = True
        for timer in self._timers.values():
            timer.cancel()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _say(self, pool: Pool, text: str) -> None:
        if text not in pool.said:
            pool.said.add(text)
            self._engine_events.notice(pool.spec.name, text)

    def _spawn(self, work: Coroutine[None, None, None]) -> None:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            self._loop.call_exception_handler(
                {"message": "a plane task failed", "exception": task.exception()}
            )
