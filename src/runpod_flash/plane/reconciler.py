"""Brings the workers that exist to the number that the autoscaler wants, when something changed."""

from __future__ import annotations

import asyncio
import math
import secrets
from typing import TYPE_CHECKING

from runpod_flash.engines.base import CapacityError, StartOrder, WorkerExit
from runpod_flash.errors import FlashError, WorkerStartError
from runpod_flash.plane.autoscaler import Counters, desired
from runpod_flash.plane.events import WorkerEnded, WorkerReady, WorkerStarted
from runpod_flash.plane.identities import Nobody
from runpod_flash.plane.nesting import held_up, nested_jobs
from runpod_flash.plane.pool import Worker, WorkerState
from runpod_flash.plane.store.memory import now
from runpod_flash.wire.failures import capture

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Mapping, Sequence

    from runpod_flash.engines.base import Engine, EngineEvents, Refusal, WorkerHandle
    from runpod_flash.links.base import LinkEvents
    from runpod_flash.plane.dispatcher import Dispatcher
    from runpod_flash.plane.events import EventStream
    from runpod_flash.plane.identities import Identities
    from runpod_flash.plane.pool import Elsewhere, Pool
    from runpod_flash.plane.requests import Requests
    from runpod_flash.plane.store.base import Counts, Store
    from runpod_flash.wire.failures import Failure

# A worker process that dies before it is ready is tried so often before its jobs fail.
START_ATTEMPTS = 3
_BACKOFF_SECONDS = 0.2
# Another program may free a device without this plane hearing of it.
_CAPACITY_RETRY_SECONDS = 1.0
# A worker that only the minimum asks for is less urgent.
_KEEP_RETRY_SECONDS = 10.0
_MAX_BACKOFF_SECONDS = 60.0
# A worker that has lived so long did not end because it cannot start.
_STEADY_SECONDS = 60.0
# A worker whose device an older job of another endpoint waits for runs younger ones so long.
TURN_SECONDS = 30.0
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
        requests: Requests,
        events: EventStream,
        clock: Callable[[], float],
        caller_env: Mapping[str, str],
        link_events: Callable[[Worker], LinkEvents],
        engine_events: Callable[[Pool], EngineEvents],
        empty: Callable[[Pool], None],
    ) -> None:
        self._store = store
        self._engine = engine
        self._dispatcher = dispatcher
        self._requests = requests
        self._events = events
        self._clock = clock
        self._caller_env = caller_env
        self._link_events = link_events
        self._engine_events = engine_events
        self._empty = empty
        self._loop = asyncio.get_running_loop()
        self._pools: dict[str, Pool] = {}
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._closed = False
        # Whether nothing is to be started any more.
        self.draining = False
        self.identities: Identities = Nobody()

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
        try:
            self._look_after(pool)
        except Exception as error:
            self._faulted(pool, error)
        else:
            pool.faults.count = 0

    def _faulted(self, pool: Pool, error: Exception) -> None:
        """Try again ever later; who waits is told why, before that would be for ever."""
        text = f"the workers of {pool.spec.name!r} could not be looked after"
        self._loop.call_exception_handler({"message": text, "exception": error})
        delay = pool.faults.met(self._clock())
        self._timers[pool.key] = self._loop.call_later(delay, self.reconcile, pool)
        if pool.faults.lasting:
            failure = pool.faults.failure(pool.spec.name, error)
            self._dispatcher.fail_waiting(pool, failure)
            self._requests.fail_waiting(pool, failure)

    def _look_after(self, pool: Pool) -> None:
        self._dispatcher.pump(pool)
        self._requests.pump(pool)
        self._stop_drained(pool)
        if pool.withdrawn and not pool.workers:
            self._pools.pop(pool.key, None)
            self._empty(pool)
        if pool.withdrawn or self.draining:
            return
        clock, counts = self._clock(), self._counts(pool)
        self._note_wait(pool, counts)
        counters = self._counters(pool, counts, clock)
        wanted = desired(pool.spec.scaling, counters)
        missing = wanted.workers - counters.workers
        times = [wanted.again_at]
        if missing > 0:
            times.append(self._grow(pool, missing, counters))
        elif missing < 0:
            self._stop_idle(pool, -missing)
        self._free_devices()
        again_at = min((at for at in times if at is not None), default=None)
        if again_at is not None:
            delay = max(again_at - clock, 0.0)
            self._timers[pool.key] = self._loop.call_later(delay, self.reconcile, pool)

    def went_idle(self, pool: Pool) -> None:
        """Look at a pool one of whose workers has become idle, unless it is looked at in time."""
        if self.must_look(pool):
            self.reconcile(pool)

    def must_look(self, pool: Pool) -> bool:
        """Whether an idle worker of the pool needs a look now; from any thread.

        This is on the way of every warm call: a timer that fires before this idle time ends looks
        then.
        """
        scaling = pool.spec.scaling
        workers = list(pool.workers.values())
        if len(workers) > scaling.workers_max:
            return True
        if len(workers) > scaling.workers_min:
            timer = self._timers.get(pool.key)
            idle_out = self._loop.time() + pool.learned.keep(scaling.idle_timeout)
            if timer is None or timer.when() > idle_out:
                return True
        # (Lists: a generator takes twice as long for the one or two that there are.)
        draining = [w for w in workers if w.state is WorkerState.DRAINING]
        return bool(draining or [p for p in list(self._pools.values()) if p.waits_for])

    def _counts(self, pool: Pool) -> Counts:
        """Jobs and requests that wait, those aside that are content to wait."""
        counts = now(self._store.counts(pool.key))
        counts = counts._replace(queued=counts.queued - counts.patient)
        if not pool.waiting:
            return counts
        since = pool.waiting[0][0]
        oldest = since if counts.oldest_queued_at is None else min(since, counts.oldest_queued_at)
        return counts._replace(queued=counts.queued + len(pool.waiting), oldest_queued_at=oldest)

    def _note_wait(self, pool: Pool, counts: Counts) -> None:
        if not counts.queued:
            pool.waits_for, pool.held_by = "", ()
        elif pool.spec.external and not pool.workers:
            hint = f"`flash worker env {pool.spec.name}` says how to start one"
            pool.waits_for = f"a worker from elsewhere: {hint}"
        elif pool.spec.scaling.workers_max == 0 and not pool.workers:
            pool.waits_for = f"a worker, of which workers=0 allows {pool.spec.name} none"

    def _counters(self, pool: Pool, counts: Counts, clock: float) -> Counters:
        live = [w for w in pool.workers.values() if w.yields or w.state is not WorkerState.DRAINING]
        nested = 0
        if counts.nested:
            nested = held_up(pool, self._pools.values(), self._store, self._dispatcher.ancestors)
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

    # Starting

    def _grow(self, pool: Pool, missing: int, counters: Counters) -> float | None:
        """Start workers; when to look again if it is too early or there is no room."""
        if pool.spec.external:
            return None
        served = any(w.state is WorkerState.READY for w in pool.live())
        not_before = pool.retry_at
        if served or not counters.queued:
            # Nobody waits for this worker alone: one that fails again and again is no hot loop.
            not_before = max(pool.retry_at, pool.keep_at)
        if counters.now < not_before:
            return not_before
        limit, why = self._engine.limit(pool.spec)
        room = limit + counters.nested - counters.workers
        if room < missing and pool.spec.scaling.workers_max > limit:
            self._say(pool, f"at most {limit} of {pool.spec.scaling.workers_max} workers: {why}")
        if room > 0:
            self._start(pool, min(missing, room))
            return None
        if counters.queued and not counters.workers:
            pool.waits_for = why
        return counters.now + (_CAPACITY_RETRY_SECONDS if counters.queued else _KEEP_RETRY_SECONDS)

    def _start(self, pool: Pool, count: int) -> None:
        queued = nested_jobs(self._store, pool)
        near = tuple({w.id: w for job in queued for w in self._dispatcher.ancestors(job)})
        for _ in range(count):
            worker = Worker(f"{pool.spec.name}-{secrets.token_hex(4)}", pool)
            pool.workers[worker.id] = worker
            pool.scaled_up_at = self._clock()
            order = self.order(worker.id, pool, near)
            worker.order, worker.ordered_at = order, pool.scaled_up_at
            self._spawn(self._bring_up(worker, order))

    def order(self, worker_id: str, pool: Pool, near: tuple[str, ...] = ()) -> StartOrder:
        """What a worker of the pool is to be started by now."""
        identity = self.identities.variables(worker_id, pool.spec, pool.env)
        return StartOrder(worker_id, pool.spec, pool.env, near, identity, self.caller_env(pool))

    async def _bring_up(self, worker: Worker, order: StartOrder) -> None:
        try:
            handle = await self._engine.start(order, self._engine_events(worker.pool))
        except Exception as error:
            self._remove(worker)
            if worker.stopping:  # nobody waits for a worker of an earlier spec
                self.reconcile(worker.pool)
            else:
                self._not_started(worker.pool, error)
            return
        try:
            self._started(worker, order, handle)
        except Exception as error:
            self._remove(worker)
            await self._engine.stop(worker.id)
            self._not_started(worker.pool, error)

    def _started(self, worker: Worker, order: StartOrder, handle: WorkerHandle) -> None:
        pool, link = worker.pool, handle.link
        if pool.workers.get(worker.id) is not worker:  # it has died already
            link.close()
            return
        pool.waits_for, pool.held_by = "", ()
        worker.link, worker.node, worker.devices = link, handle.node, handle.devices
        worker.started_at = self._clock()
        self._events.publish(WorkerStarted(pool.spec.name, worker.id))
        link.open(self._link_events(worker), order.spec, self.caller_env(pool))
        if worker.stopping:
            self._force(worker)

    def caller_env(self, pool: Pool) -> Mapping[str, str]:
        return self._caller_env if pool.caller_env is None else pool.caller_env

    def _not_started(self, pool: Pool, error: Exception) -> None:
        if isinstance(error, CapacityError):
            self._refused(pool, error.refusal)
        elif isinstance(error, FlashError):
            self._cannot_start(pool, capture(error, origin="system"))
        else:
            reason = f"could not be started: {error or type(error).__name__}"
            if not isinstance(error, OSError):
                text = f"a worker of {pool.spec.name!r} could not be started"
                self._loop.call_exception_handler({"message": text, "exception": error})
                reason = f"met an internal error in Flash's plane: {error!r}; please report it"
            self._died_early(pool, reason, "")

    def _refused(self, pool: Pool, refusal: Refusal) -> None:
        """No room: take it from an idle worker of another endpoint, or wait."""
        if refusal.permanent:
            text = f"no worker of {pool.spec.name!r} can start: {refusal.reason}"
            self._cannot_start(pool, capture(WorkerStartError(text), origin="system"))
            return
        pool.waits_for, pool.held_by = refusal.reason, refusal.holders
        pool.retry_at = self._clock() + _CAPACITY_RETRY_SECONDS
        pool.keep_at = self._clock() + _KEEP_RETRY_SECONDS
        self.reconcile(pool)

    def _died_early(self, pool: Pool, reason: str, output: str) -> None:
        """A worker ended before it was ready: try again, more and more slowly, then give up."""
        pool.failed_starts += 1
        pool.retry_at = self._clock() + _BACKOFF_SECONDS * 2**pool.failed_starts
        if pool.failed_starts < START_ATTEMPTS:
            self.reconcile(pool)
            return
        text = (
            f"no worker of {pool.spec.name!r} can start: {pool.failed_starts} in a row failed, "
            f"the last one {reason}"
        )
        if output:
            text += f"; its last output:\n{output}"
        self._cannot_start(pool, capture(WorkerStartError(text), origin="system"))

    def _cannot_start(self, pool: Pool, failure: Failure) -> None:
        pool.failed_starts = 0
        pool.waits_for, pool.held_by = "", ()
        pool.retry_at = self._clock() + _BACKOFF_SECONDS
        self._set_back(pool)
        if not self._counts(pool).queued:  # nobody else would hear of it
            self._say(pool, failure.message)
        if not any(w.state is WorkerState.READY for w in pool.workers.values()):
            self._dispatcher.fail_waiting(pool, failure)
            self._requests.fail_waiting(pool, failure)
        self.reconcile(pool)

    def _set_back(self, pool: Pool) -> None:
        """A worker that is kept for the minimum alone is tried more and more slowly."""
        pool.setbacks = min(pool.setbacks + 1, 20)
        pause = min(_BACKOFF_SECONDS * 2**pool.setbacks, _MAX_BACKOFF_SECONDS)
        pool.keep_at = self._clock() + pause

    # Devices

    def _free_devices(self) -> None:
        """Have a worker make room for each endpoint that waits for what it holds."""
        for pool in self._pools.values():
            if pool.held_by:
                self._take_from_holders(pool)

    def _take_from_holders(self, pool: Pool) -> None:
        oldest = self._counts(pool).oldest_queued_at
        holders = [w for w in self._holders(pool.held_by) if w.pool is not pool]
        if oldest is None or any(w.state is WorkerState.DRAINING for w in holders):
            return
        holders = [w for w in holders if not self._has_older(w.pool, oldest)]
        idle = [w for w in holders if w.idle]
        # (A busy one's own younger jobs would keep it busy for ever.)
        willing = idle or [w for w in holders if self._had_its_turn(w)]
        if willing:
            worker = min(willing, key=lambda w: w.idle_since)
            worker.yields = True
            self._drain(worker)
            self._stop_drained(worker.pool)

    def _had_its_turn(self, worker: Worker) -> bool:
        return worker.ready_at is not None and self._clock() - worker.ready_at >= TURN_SECONDS

    def _has_older(self, pool: Pool, than: float) -> bool:
        oldest = self._counts(pool).oldest_queued_at
        return oldest is not None and oldest <= than

    def _drain(self, worker: Worker) -> None:
        with self._dispatcher.lock:
            worker.state = WorkerState.DRAINING
            worker.pool.refresh(worker)

    def _holders(self, ids: Sequence[str]) -> list[Worker]:
        found = (pool.workers.get(id_) for id_ in ids for pool in self._pools.values())
        return [worker for worker in found if worker is not None]

    # What happens to workers

    def attach(self, worker: Worker, started: Elsewhere) -> None:
        """Take in a worker that somebody else has started."""
        assert worker.link is not None
        worker.pool.waits_for, worker.pool.held_by = "", ()
        worker.order, worker.ordered_at = started.order, self._clock()
        worker.node, worker.devices = started.node, started.devices
        if started.order is not None:
            worker.started_at = worker.ordered_at
            self._events.publish(WorkerStarted(worker.pool.spec.name, worker.id))
        with self._dispatcher.lock:
            worker.pool.workers[worker.id] = worker
        worker.link.open(self._link_events(worker), started.spec, started.caller_env)

    def agree(self, worker_id: str) -> None:
        """The end of this worker, which is about to come, was asked for."""
        for worker in self._holders([worker_id]):
            worker.stopping = True

    def retire(self, worker: Worker) -> None:
        """Let one worker end after what it does."""
        self._drain(worker)
        self._stop_drained(worker.pool)

    def ready(self, worker: Worker) -> None:
        pool = worker.pool
        pool.failed_starts = 0
        with self._dispatcher.lock:
            if worker.state is WorkerState.STARTING:
                worker.state, worker.ready_at = WorkerState.READY, self._clock()
            worker.idle_since = self._clock()
            pool.refresh(worker)
        pool.change.set()
        took = self._clock() - worker.ordered_at
        pool.learned.start_seconds = took
        self._events.publish(WorkerReady(pool.spec.name, worker.id, took, pool.spec.app))
        self.reconcile(pool)

    def start_failed(self, worker: Worker, failure: Failure) -> None:
        """The user's module does not import: that will not change by trying again."""
        worker.failed = True
        if worker.stopping:
            return
        self._drain(worker)
        if worker.attached:  # what is amiss there says nothing of the others
            self._say(worker.pool, failure.message)
            self.stop(worker)
            return
        self._cannot_start(worker.pool, failure)

    def exited(self, worker_id: str, exit_: WorkerExit) -> None:
        for worker in self._holders([worker_id]):
            if worker.link is not None:
                worker.link.drain()  # a result, or the reason, may have come with its last breath
            self._remove(worker)
            # (A server that ends closes the connections of others' workers before its plane.)
            ends = self._closed or (worker.attached and self.draining)
            by_itself = not worker.stopping and not ends
            death = f"the worker {worker.id} {exit_.reason}" if by_itself else ""
            self._ended(worker, exit_.reason, by_itself)
            self._dispatcher.lost(worker, death)
            self._requests.lost(worker, death)
            self._after_exit(worker, exit_, by_itself)

    def _ended(self, worker: Worker, reason: str, by_itself: bool) -> None:
        spec, seconds = worker.pool.spec, worker.gpu_seconds(self._clock())
        ended = WorkerEnded(spec.name, worker.id, reason, by_itself, seconds, spec.app)
        self._events.publish(ended)

    def _after_exit(self, worker: Worker, exit_: WorkerExit, by_itself: bool) -> None:
        pool = worker.pool
        if not worker.attached:
            self._learn(worker, exit_, by_itself)
        waiting = [other for other in self._pools.values() if other.waits_for]
        # What the worker held goes to whoever has waited longest.
        for other in sorted(waiting, key=self._waits_since):
            other.retry_at = other.keep_at = 0.0
            self.reconcile(other)
        if pool not in waiting:
            self.reconcile(pool)

    def _learn(self, worker: Worker, exit_: WorkerExit, by_itself: bool) -> None:
        """What the end of a worker tells about the next one of its pool."""
        pool = worker.pool
        if worker.ready_at is not None:
            if by_itself and self._clock() - worker.ready_at < _STEADY_SECONDS:
                self._set_back(pool)
            else:
                pool.setbacks = 0
        elif by_itself and not worker.failed:
            self._died_early(pool, exit_.reason, exit_.output)

    def _waits_since(self, pool: Pool) -> float:
        oldest = self._counts(pool).oldest_queued_at
        return math.inf if oldest is None else oldest

    def link_closed(self, worker: Worker) -> None:
        """No word will come from this worker any more; the engine says what became of it."""
        worker.gone = True
        if worker.state is WorkerState.READY:  # of one that starts, the exit tells the reason
            self._drain(worker)
        self._loop.call_later(_CLOSED_GRACE_SECONDS, self._force, worker)

    def _remove(self, worker: Worker) -> None:
        with self._dispatcher.lock:
            worker.pool.workers.pop(worker.id, None)
            worker.pool.refresh(worker)
        worker.pool.change.set()
        self.identities.ended(worker.id)
        if worker.link is not None:
            worker.link.close()

    # Stopping

    def _stop_idle(self, pool: Pool, count: int) -> None:
        ours = (w for w in pool.live() if w.idle and not w.attached)
        idle = sorted(ours, key=lambda w: w.idle_since)
        for worker in idle[:count]:
            self.stop(worker)

    def _stop_drained(self, pool: Pool) -> None:
        for worker in list(pool.workers.values()):
            if worker.state is WorkerState.DRAINING and not worker.busy and not worker.gone:
                self.stop(worker)

    def stop(self, worker: Worker) -> None:
        """End a worker that has no jobs: by itself within a grace time, else by force."""
        with self._dispatcher.lock:
            if worker.busy:
                return
            worker.state = WorkerState.DRAINING
            worker.pool.refresh(worker)
        if worker.stopping:
            return
        worker.stopping = True
        if worker.link is None:
            return  # still being started: _bring_up sees the mark
        if worker.ghosts:
            self._force(worker)
            return
        worker.link.stop()
        self._loop.call_later(_STOP_GRACE_SECONDS, self._force, worker)

    def _force(self, worker: Worker) -> None:
        if worker.id not in worker.pool.workers or self._closed:
            return
        if worker.attached:  # its process is not ours to end
            self._part(worker, "lost its connection" if worker.gone else "has left")
        else:
            self._spawn(self._engine.stop(worker.id))

    def _part(self, worker: Worker, reason: str) -> None:
        """Be done with a worker that somebody else ends."""
        self._engine_events(worker.pool).worker_exited(WorkerExit(worker.id, reason))

    def replace_all(self, pool: Pool) -> None:
        """Let retired workers end after their jobs; new ones get the present spec and env."""
        pool.failed_starts = pool.setbacks = 0
        pool.retry_at = pool.keep_at = 0.0
        pool.said.clear()
        self._requests.retire(pool)
        self.reconcile(pool)

    def withdraw(self, pool: Pool) -> None:
        """Let a retired pool come to its end; what waits fails."""
        text = f"the endpoint {pool.spec.name!r} is not served any more"
        failure = capture(WorkerStartError(text), origin="system")
        self._dispatcher.fail_waiting(pool, failure)
        self._requests.fail_waiting(pool, failure)
        self._requests.retire(pool)
        self.reconcile(pool)

    async def end(self, pool: Pool) -> None:
        """End the workers of a withdrawn pool, whatever they do; returns when all are gone."""
        while pool.workers:
            for worker in list(pool.workers.values()):
                worker.stopping = True
                if worker.attached:
                    self._part(worker, "has lost its endpoint")
                else:
                    await self._engine.stop(worker.id)
            if not pool.workers:
                return
            pool.change.clear()
            await pool.change.wait()

    async def close(self) -> None:
        self._closed = True
        for timer in self._timers.values():
            timer.cancel()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def let_go(self) -> None:
        """After the engine's end: give back the jobs of workers whose exit nobody has reported."""
        for pool in self._pools.values():
            for worker in list(pool.workers.values()):
                self._remove(worker)
                self._dispatcher.lost(worker)
                self._requests.lost(worker)

    def _say(self, pool: Pool, text: str) -> None:
        if text not in pool.said:
            pool.said.add(text)
            self._engine_events(pool).notice(pool.spec.name, text)

    def _spawn(self, work: Coroutine[None, None, None]) -> None:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            context = {"message": "a plane task failed", "exception": task.exception()}
            self._loop.call_exception_handler({**context, "task": task})
