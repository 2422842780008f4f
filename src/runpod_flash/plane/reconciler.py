"""Brings the workers that exist to the number that the autoscaler wants, when something changed."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from runpod_flash.errors import WorkerStartError
from runpod_flash.plane.autoscaler import desired
from runpod_flash.plane.demand import Demand, note_wait
from runpod_flash.plane.events import WorkerEnded, WorkerReady, WorkerStarted
from runpod_flash.plane.making_room import who_makes_room
from runpod_flash.plane.pool import WorkerState
from runpod_flash.plane.starter import Starter
from runpod_flash.plane.stopper import Stopper
from runpod_flash.plane.surroundings import Surroundings
from runpod_flash.wire.failures import capture

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from runpod_flash.engines.base import Engine, EngineEvents, StartOrder, WorkerExit
    from runpod_flash.links.base import LinkEvents
    from runpod_flash.plane.dispatcher import Dispatcher
    from runpod_flash.plane.events import EventStream
    from runpod_flash.plane.identities import Identities
    from runpod_flash.plane.pool import Elsewhere, Pool, Worker
    from runpod_flash.plane.requests import Requests
    from runpod_flash.plane.store.base import Store
    from runpod_flash.wire.failures import Failure

# A worker that has lived so long did not end because it cannot start.
_STEADY_SECONDS = 60.0


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
        self._dispatcher = dispatcher
        self._requests = requests
        self._events = events
        self._clock = clock
        self._empty = empty
        self._loop = asyncio.get_running_loop()
        self._pools: dict[str, Pool] = {}
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._around = Surroundings(
            engine, dispatcher, requests, events, clock, caller_env, link_events, engine_events
        )
        self._demand = Demand(store, dispatcher.ancestors, self._pools)
        self.stopper = Stopper(self._around)
        self._starter = Starter(self._around, self._demand, self.stopper, self.reconcile)
        # Whether nothing is to be started any more.
        self.draining = False

    def add(self, pool: Pool) -> None:
        self._pools[pool.key] = pool
        self.reconcile(pool)

    def reconcile(self, pool: Pool) -> None:
        """Compare and act; asks for its next look by itself where time alone changes the answer."""
        if self._around.tasks.closed:
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
            self._around.fail_waiting(pool, pool.faults.failure(pool.spec.name, error))

    def _look_after(self, pool: Pool) -> None:
        self._dispatcher.pump(pool)
        self._requests.pump(pool)
        self.stopper.stop_drained(pool)
        if pool.withdrawn and not pool.workers:
            self._pools.pop(pool.key, None)
            self._empty(pool)
        if pool.withdrawn or self.draining:
            return
        clock, counts = self._clock(), self._demand.counts(pool)
        note_wait(pool, counts)
        counters = self._demand.counters(pool, counts, clock)
        wanted = desired(pool.spec.scaling, counters)
        missing = wanted.workers - counters.workers
        times = [wanted.again_at]
        if missing > 0:
            times.append(self._starter.grow(pool, missing, counters))
        elif missing < 0:
            self.stopper.stop_idle(pool, -missing)
        self._make_room()
        again_at = min((at for at in times if at is not None), default=None)
        if again_at is not None:
            delay = max(again_at - clock, 0.0)
            self._timers[pool.key] = self._loop.call_later(delay, self.reconcile, pool)

    def _make_room(self) -> None:
        """Have a worker end for each endpoint that waits for what it holds."""
        for pool in self._pools.values():
            if pool.held_by:
                holders = self._found(pool.held_by)
                waiting_since = self._demand.waiting_since
                worker = who_makes_room(pool, holders, waiting_since, self._clock())
                if worker is not None:
                    worker.yields = True
                    self.stopper.retire(worker)

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

    # What workers are started by

    @property
    def identities(self) -> Identities:
        return self._around.identities

    @identities.setter
    def identities(self, identities: Identities) -> None:
        self._around.identities = identities

    def order(self, worker_id: str, pool: Pool) -> StartOrder:
        """What a worker of the pool is to be started by now."""
        return self._around.order(worker_id, pool)

    def caller_env(self, pool: Pool) -> Mapping[str, str]:
        return self._around.caller_env(pool)

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
        worker.link.open(self._around.link_events(worker), started.spec, started.caller_env)

    def agree(self, worker_id: str) -> None:
        """The end of this worker, which is about to come, was asked for."""
        for worker in self._found([worker_id]):
            worker.stopping = True

    def retire(self, worker: Worker) -> None:
        """Let one worker end after what it does."""
        self.stopper.retire(worker)

    def ready(self, worker: Worker) -> None:
        pool = worker.pool
        pool.pace.started()
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
        self.stopper.drain(worker)
        if worker.attached:  # what is amiss there says nothing of the others
            self._around.say(worker.pool, failure.message)
            self.stopper.stop(worker)
            return
        self._starter.cannot_start(worker.pool, failure)

    def link_closed(self, worker: Worker) -> None:
        """No word will come from this worker any more; the engine says what became of it."""
        self.stopper.link_closed(worker)

    def exited(self, worker_id: str, exit_: WorkerExit) -> None:
        for worker in self._found([worker_id]):
            if worker.link is not None:
                worker.link.drain()  # a result, or the reason, may have come with its last breath
            self.stopper.remove(worker)
            # (A server that ends closes the connections of others' workers before its plane.)
            ends = self._around.tasks.closed or (worker.attached and self.draining)
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
        for other in sorted(waiting, key=self._demand.waiting_since):
            other.pace.hurry()
            self.reconcile(other)
        if pool not in waiting:
            self.reconcile(pool)

    def _learn(self, worker: Worker, exit_: WorkerExit, by_itself: bool) -> None:
        """What the end of a worker tells about the next one of its pool."""
        pool = worker.pool
        if worker.ready_at is not None:
            if by_itself and self._clock() - worker.ready_at < _STEADY_SECONDS:
                pool.pace.set_back(self._clock())
            else:
                pool.pace.lasted()
        elif by_itself and not worker.failed:
            self._starter.died_early(pool, exit_.reason, exit_.output)

    def _found(self, ids: Sequence[str]) -> list[Worker]:
        found = (pool.workers.get(id_) for id_ in ids for pool in self._pools.values())
        return [worker for worker in found if worker is not None]

    # What happens to endpoints

    def replace_all(self, pool: Pool) -> None:
        """Let retired workers end after their jobs; new ones get the present spec and env."""
        pool.pace.begin_anew()
        pool.said.clear()
        self._requests.retire(pool)
        self.reconcile(pool)

    def withdraw(self, pool: Pool) -> None:
        """Let a retired pool come to its end; what waits fails."""
        text = f"the endpoint {pool.spec.name!r} is not served any more"
        self._around.fail_waiting(pool, capture(WorkerStartError(text), origin="system"))
        self._requests.retire(pool)
        self.reconcile(pool)

    async def end(self, pool: Pool) -> None:
        """End the workers of a withdrawn pool, whatever they do; returns when all are gone."""
        await self.stopper.end(pool)

    async def close(self) -> None:
        for timer in self._timers.values():
            timer.cancel()
        await self._around.tasks.close()

    def let_go(self) -> None:
        """After the engine's end: give back the jobs of workers whose exit nobody has reported."""
        for pool in self._pools.values():
            for worker in list(pool.workers.values()):
                self.stopper.remove(worker)
                self._dispatcher.lost(worker)
                self._requests.lost(worker)
