"""The plane: queue, dispatcher, reconciler and engine of a set of endpoints, wired together.

It runs on one event loop. Embedded, that loop has a thread of its own; served, it is the server's.
"""

from __future__ import annotations

import asyncio
import secrets
import threading
import time
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING

from runpod_flash.engines.base import StartOrder, WorkerExit
from runpod_flash.errors import JobCancelledError
from runpod_flash.plane.calls import NestedCalls
from runpod_flash.plane.debugging import Debugging
from runpod_flash.plane.dispatcher import Dispatcher
from runpod_flash.plane.events import EventStream
from runpod_flash.plane.pool import Elsewhere, Pool, Worker, WorkerState
from runpod_flash.plane.reconciler import Reconciler
from runpod_flash.plane.reports import PoolReports, WorkerReports
from runpod_flash.plane.requests import Requests
from runpod_flash.plane.store.base import Job, JobState, Lease, NewJob, Outcome
from runpod_flash.plane.store.memory import now
from runpod_flash.wire.failures import capture

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any

    from runpod_flash.engines.base import Engine
    from runpod_flash.links.base import WorkerLink
    from runpod_flash.plane.debugging import Console
    from runpod_flash.plane.exchange import Receive, Scope, Send
    from runpod_flash.plane.identities import Identities
    from runpod_flash.plane.store.base import Store
    from runpod_flash.spec import EndpointSpec
    from runpod_flash.wire.failures import Failure

LEASE_SECONDS = 30.0
# Ended jobs that nobody has collected are kept so long.
RETENTION_SECONDS = 1800.0
# Lapsed leases and times to live are looked for so often.
_EXPIRY_SECONDS = 1.0
_NO_LEASE = Lease("", 0, 0.0)
_RENEWAL_SECONDS = LEASE_SECONDS / 3


class Plane:
    """Endpoints, their jobs and their workers. Create it on the loop that it will run on."""

    def __init__(
        self,
        store: Store,
        engine: Engine,
        caller_env: Mapping[str, str],
        clock: Callable[[], float] = time.monotonic,
        console: Console | None = None,
        retention_seconds: float = RETENTION_SECONDS,
    ) -> None:
        self._retention_seconds = retention_seconds
        self.id = secrets.token_hex(8)
        self.store = store
        self.events = EventStream()
        self.engine = engine
        self.clock = clock
        self._loop = asyncio.get_running_loop()
        self._thread = threading.get_ident()
        self._pools: dict[str, Pool] = {}
        self._dirty: set[str] = set()
        self._someone_idle = asyncio.Event()
        self._closing = False
        self.dispatcher = Dispatcher(
            store, self.events, self._loop, clock, self._changed, self._went_idle
        )
        self.requests = Requests(self.dispatcher, clock, self._changed)
        self.reconciler = Reconciler(
            store, engine, self.dispatcher, self.requests, self.events, clock, caller_env,
            self._link_events, self._engine_events, self._empty,
        )  # fmt: skip
        self.debugging = Debugging(self.dispatcher.limits, self.events, self._loop, console)
        self.calls = NestedCalls(self)
        self._keeping_up = self._loop.create_task(self._keep_up())

    # For clients

    def declare(
        self,
        spec: EndpointSpec,
        env: Mapping[str, str],
        caller_env: Mapping[str, str] | None = None,
        *,
        rolling: bool = False,
    ) -> Pool:
        """The pool of an endpoint, made or updated. Each layer's change does its least work.

        Any thread; `caller_env` is what modules see while they are imported, where that is not what
        this process has. A changed build or placement replaces workers after their jobs, a changed
        scaling touches none. `rolling`: workers go on until `roll` replaces them.
        """
        pool = self._pools.get(spec.key)
        if pool is None:
            with self.dispatcher.lock:
                pool = self._pools.get(spec.key)
                if pool is None:
                    pool = self._open(Pool(spec, env, _NO_LEASE, caller_env))
        elif pool.withdrawn or pool.spec is not spec or (pool.env is not env and pool.env != env):
            pool.caller_env = caller_env
            self._update(pool, spec, env, rolling)
        return pool

    def _open(self, pool: Pool) -> Pool:
        epoch = now(self.store.own(pool.key, self.id, LEASE_SECONDS))
        assert epoch is not None, "an embedded store has one plane"
        pool.lease = Lease(self.id, epoch, LEASE_SECONDS)
        self._pools[pool.key] = pool
        self._loop.call_soon_threadsafe(self.reconciler.add, pool)
        return pool

    async def stage(
        self,
        spec: EndpointSpec,
        env: Mapping[str, str],
        caller_env: Mapping[str, str] | None,
        count: int = 1,
    ) -> Pool:
        """Workers as these would have them, beside those that serve the endpoint; on the loop.

        They are there until `adopt` or `unstage`: as many as there is room for, `count` at most.
        Raises why none can start.
        """
        scaling = replace(spec.scaling, workers_min=count, workers_max=count)
        pool = Pool(replace(spec, scaling=scaling), env, _NO_LEASE, caller_env, staged=True)
        self._open(pool)
        try:
            await self.warm(pool)
            await asyncio.sleep(0)  # (who has waited counts as a request until then)
            while any(w.state is WorkerState.STARTING for w in pool.workers.values()):
                pool.change.clear()
                await pool.change.wait()
        except BaseException:
            await self.unstage(pool)
            raise
        return pool

    def adopt(self, staged: Pool, pool: Pool, instead_of: Worker | None = None) -> None:
        """Have staged workers serve; `declare` has given the pool what they were staged for.

        A worker that they serve `instead_of` is retired before the pool is found to have too many.
        """
        with self.dispatcher.lock:
            for worker in staged.workers.values():
                worker.pool = pool
                pool.workers[worker.id] = worker
                pool.refresh(worker)
            staged.workers, staged.free = {}, {}
        if instead_of is not None:
            self.retire(instead_of)
        staged.spec = pool.spec
        self.withdraw(staged)
        self.reconciler.reconcile(pool)

    async def unstage(self, staged: Pool) -> None:
        """End staged workers, or all workers of another pool; returns when they are gone."""
        self.withdraw(staged)
        await self.reconciler.end(staged)

    async def roll(self, pool: Pool) -> None:
        """Replace the workers that would be started otherwise now, one by one; on the loop.

        Each goes on until another one can take its jobs. Raises why none can start.
        """
        while _stale(pool) is not None:
            staged = await self.stage(pool.spec, pool.env, pool.caller_env)
            self.adopt(staged, pool, instead_of=_stale(pool))

    def _update(
        self, pool: Pool, spec: EndpointSpec, env: Mapping[str, str], rolling: bool
    ) -> None:
        same = rolling or not pool.differs(spec, env)
        pool.spec, pool.env, pool.withdrawn = spec, env, False
        if not same:
            self.dispatcher.retire_all(pool)  # now: the job that brings the change must not get one
        step = self.reconciler.reconcile if same else self.reconciler.replace_all
        self._loop.call_soon_threadsafe(step, pool)

    def find(self, key: str) -> Pool | None:
        """The pool of an endpoint that is served."""
        pool = self._pools.get(key)
        return None if pool is None or pool.withdrawn else pool

    def submit(
        self, pool: Pool, job: NewJob, reader: asyncio.AbstractEventLoop | None = None
    ) -> None:
        """Accept a job, from any thread; `reader` is a running loop that awaits its result."""
        self.dispatcher.submit(pool, job, reader)

    async def serve_request(self, pool: Pool, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer an HTTP request or WebSocket of a route (an ASGI call); on the plane's loop.

        Raises `FlashError` where no response was started.
        """
        await self.requests.serve(pool, scope, receive, send)

    async def describe_routes(self, pool: Pool) -> dict[str, Any] | None:
        """The OpenAPI document of a pool's routes, where a worker runs; on the plane's loop."""
        return await self.requests.describe(pool)

    async def warm(self, pool: Pool) -> None:
        """Have a worker ready before there is work; it idles out as any other. On the loop.

        Raises why none can start.
        """
        await self.requests.worker(pool)

    async def prepare(self, pool: Pool) -> None:
        """Have ready what a worker of the pool starts from, and start none; on the loop.

        Raises why that cannot be.
        """
        # (As any worker's, but for what is each worker's own.)
        id_ = f"{pool.spec.name}-ahead"
        caller_env = self.caller_env(pool)
        order = StartOrder(id_, pool.spec, pool.env, caller_env=caller_env, pool=pool.key)
        await self.engine.prepare(order, self._engine_events(pool))

    def restart(self, pool: Pool) -> None:
        """Replace the workers after what they do: something outside of the spec has changed."""
        self.dispatcher.retire_all(pool)
        self.reconciler.replace_all(pool)

    def attach(
        self,
        pool: Pool,
        worker_id: str,
        link: WorkerLink,
        started: Elsewhere | None = None,
    ) -> Worker:
        """Take in a worker that somebody else has started, and will end; on the loop.

        It is one of the pool's workers until `detach`, or until its link has closed. `started` is
        how, where it runs the endpoint's own code.
        """
        worker = Worker(worker_id, pool, link=link, attached=True)
        # (What this process has in its environment is not for other machines.)
        self.reconciler.attach(worker, started or Elsewhere(None, pool.spec))
        return worker

    def retire(self, worker: Worker) -> None:
        """Give a worker no more jobs, and let it end after those that it has; on the loop."""
        self.reconciler.retire(worker)

    def detach(self, worker_id: str, reason: str, *, agreed: bool = False) -> None:
        """An attached worker is gone, or not to be waited for any more; `reason` is a phrase.

        `agreed`: it was to go, and its jobs are given back as those of a worker that is stopped.
        """
        if agreed:
            self.reconciler.agree(worker_id)
        self.worker_exited(WorkerExit(worker_id, reason))

    def order(self, worker_id: str, pool: Pool) -> StartOrder:
        """What a worker of the pool is to be started by now, wherever that is."""
        return self.reconciler.order(worker_id, pool)

    @property
    def identities(self) -> Identities:
        """Gives workers that start what they show to their server; nothing, unless it is set."""
        return self.reconciler.identities

    @identities.setter
    def identities(self, identities: Identities) -> None:
        self.reconciler.identities = identities

    def caller_env(self, pool: Pool) -> Mapping[str, str]:
        """What modules of the pool's workers may read while they are imported."""
        return self.reconciler.caller_env(pool)

    def withdraw(self, pool: Pool) -> None:
        """Serve an endpoint no more: running jobs and requests finish, waiting ones fail."""
        pool.withdrawn = True
        self.dispatcher.retire_all(pool, foreign=True)
        self.reconciler.withdraw(pool)

    def cancel(self, job_id: str) -> None:
        """End a job that has not ended; from any thread."""
        self._loop.call_soon_threadsafe(self.dispatcher.cancel, job_id)

    async def discard(self, app: str) -> None:
        """End an app at once: its endpoints, those that only its workers called, and their jobs.

        On the loop; returns when no worker of it is left.
        """
        while not self._closing and (found := [p for p in self.pools() if p.spec.app == app]):
            for pool in found:
                text = f"the app of {pool.spec.name!r} has ended"
                failure = capture(JobCancelledError(text), origin="system")
                self.dispatcher.end_all(pool, Outcome(JobState.CANCELLED, failure=failure))
                self.withdraw(pool)
            await asyncio.gather(*map(self.reconciler.end, found))
        await self.engine.forget_app(app)

    def unfinished(self, app: str | None = None) -> int:
        """How many accepted jobs have not ended, of one app or of all; from any thread."""
        pools = [pool for pool in self.pools() if app in (None, pool.spec.app)]
        counts = [now(self.store.counts(pool.key)) for pool in pools]
        return sum(each.queued + each.running for each in counts)

    def waits_for(self, job: Job) -> str:
        """What a waiting job waits for, as a phrase; empty where there is nothing to say."""
        pool = self._pools.get(job.endpoint)
        return pool.waits_for if pool is not None else ""

    def name_of(self, key: str) -> str:
        """The name of a pool's endpoint; empty where there is none any more."""
        return self.names_of(key)[0]

    def names_of(self, key: str) -> tuple[str, str]:
        """The names of a pool's endpoint and of its app."""
        pool = self._pools.get(key)
        return ("", "") if pool is None else (pool.spec.name, pool.spec.app)

    def pools(self) -> list[Pool]:
        """All that were declared, those that are withdrawn as well."""
        return list(self._pools.values())

    def workers(self) -> list[Worker]:
        return [worker for pool in self.pools() for worker in list(pool.workers.values())]

    @property
    def draining(self) -> bool:
        """Whether nothing is started any more, and no worker taken in."""
        return self.reconciler.draining

    async def drain(self, seconds: float) -> None:
        """Start nothing more; what runs gets so long to come to its end. Jobs still wait in line.

        Prepares for `close`: nothing starts again.
        """
        self.reconciler.draining = True
        for pool in list(self._pools.values()):
            self.dispatcher.retire_all(pool, foreign=True)
            self._changed(pool)
        with suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self._quiet(), seconds)

    async def _quiet(self) -> None:
        while any(worker.busy for worker in self.workers()):
            self._someone_idle.clear()
            await self._someone_idle.wait()

    async def close(self, failure: Failure | None = None) -> None:
        """End every worker. Jobs that have not ended stay in the store, to be run another time.

        With `failure`, they fail with it: where the store ends together with the plane, whoever
        waits for them would wait for ever.
        """
        self._closing = True
        self._keeping_up.cancel()
        self.dispatcher.close()
        self.requests.close()
        if failure is not None:
            self.fail_all(failure)
        self.debugging.close()
        await self.reconciler.close()
        await self.engine.close()
        self.reconciler.let_go()

    def fail_all(self, failure: Failure) -> None:
        """End every job that has not ended; on the loop."""
        for pool in list(self._pools.values()):
            self.dispatcher.end_all(pool, Outcome(JobState.FAILED, failure=failure))
            self.requests.fail_waiting(pool, failure)

    # Inside

    def worker_exited(self, exit: WorkerExit) -> None:
        """The engine has said so."""
        self.debugging.worker_gone(exit.worker_id)
        self.reconciler.exited(exit.worker_id, exit)
        self._someone_idle.set()

    def _engine_events(self, pool: Pool) -> PoolReports:
        return PoolReports(self, pool)

    def _empty(self, pool: Pool) -> None:
        """A withdrawn pool has no workers any more."""
        with self.dispatcher.lock:
            if not pool.withdrawn or self._pools.get(pool.key) is not pool:
                return
            del self._pools[pool.key]
        # (An endpoint may have a staged pool beside the one that is served.)
        if not any(other.spec.key == pool.spec.key for other in self.pools()):
            self.engine.forget_endpoint(pool.spec.key)

    def _link_events(self, worker: Worker) -> WorkerReports:
        return WorkerReports(self, worker)

    def _changed(self, pool: Pool) -> None:
        # One look serves all the changes of a turn: a burst of submits costs one reconciliation.
        if pool.key not in self._dirty:
            self._dirty.add(pool.key)
            self._loop.call_soon_threadsafe(self._reconcile, pool)

    def _went_idle(self, pool: Pool) -> None:
        if self.reconciler.draining:
            self._loop.call_soon_threadsafe(self._someone_idle.set)
        if threading.get_ident() == self._thread:
            self.reconciler.went_idle(pool)
        elif self.reconciler.must_look(pool):
            self._changed(pool)

    def _reconcile(self, pool: Pool) -> None:
        self._dirty.discard(pool.key)
        self.reconciler.reconcile(pool)

    async def _keep_up(self) -> None:
        renewed_at = self._loop.time()
        while True:
            await asyncio.sleep(_EXPIRY_SECONDS)
            try:
                await self.expire()
                if self._loop.time() - renewed_at >= _RENEWAL_SECONDS:
                    renewed_at = self._loop.time()
                    await self.upkeep()
            except Exception as error:
                # Without the next turns, every lease would lapse.
                self._loop.call_exception_handler({"message": "upkeep failed", "exception": error})

    async def upkeep(self) -> None:
        """Prolong leases, and forget old results."""
        for pool in list(self._pools.values()):
            epoch = await self.store.own(pool.key, self.id, LEASE_SECONDS)
            if epoch is not None and epoch != pool.lease.epoch:
                pool.lease = pool.lease._replace(epoch=epoch)
            refs = [j.ref for w in list(pool.workers.values()) for j in list(w.jobs.values())]
            await self.store.renew(refs, pool.lease)
        await self.expire()
        await self.store.retire(self._retention_seconds)

    async def expire(self) -> None:
        """Let go of lapsed leases, and of jobs whose time to live is over."""
        changed = await self.store.expire()
        for key in {job.endpoint for job in changed} & self._pools.keys():
            self.dispatcher.lapsed(self._pools[key], [j for j in changed if j.endpoint == key])


def _stale(pool: Pool) -> Worker | None:
    """A worker that is to be replaced by this plane."""
    return next((w for w in pool.live() if w.stale and not w.attached), None)
