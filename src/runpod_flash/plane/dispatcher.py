"""Brings jobs to free workers and their results back.

`submit` may be called by any thread: with a worker free, that thread itself writes the job to the
worker's link, which saves the hop to the plane's loop. What arrives from workers is handled where
their link is read: on the plane's loop, or for a while on a caller's (`links/lending.py`). One lock
guards the pools; no await and no write of a large value happens under it.
"""

from __future__ import annotations

import asyncio
import threading
from functools import partial
from typing import TYPE_CHECKING

from runpod_flash.errors import (
    ConnectionClosedError,
    JobCancelledError,
    JobTimeoutError,
    WorkerLostError,
)
from runpod_flash.plane.events import ChunkAdded, JobAccepted, JobEnded, JobStarted, Notice
from runpod_flash.plane.limits import TimeLimits
from runpod_flash.plane.pool import WorkerState
from runpod_flash.plane.store.base import Chunk, JobState, NewJob, Outcome, Release
from runpod_flash.plane.store.memory import now
from runpod_flash.wire.failures import capture

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from runpod_flash.links.base import JobRef
    from runpod_flash.plane.events import EventStream
    from runpod_flash.plane.pool import Pool, Worker
    from runpod_flash.plane.store.base import Job, Store
    from runpod_flash.wire.codec import Payload
    from runpod_flash.wire.failures import Failure

# How long the code of a cancelled job may go on before its worker is replaced.
GRACE_SECONDS = 2.0


class Dispatcher:
    """See the module. `changed(pool)` is called on any thread when a pool needs the reconciler,
    and `went_idle(pool)` when one of its workers has nothing to do.
    """

    def __init__(
        self,
        store: Store,
        events: EventStream,
        loop: asyncio.AbstractEventLoop,
        clock: Callable[[], float],
        changed: Callable[[Pool], None],
        went_idle: Callable[[Pool], None],
    ) -> None:
        self._store = store
        self._events = events
        self._loop = loop
        self._clock = clock
        self._changed = changed
        self._went_idle = went_idle
        self.lock = threading.Lock()
        self._closed = False
        self._holders: dict[str, Worker] = {}
        self.limits = TimeLimits(loop)
        # How many chunks of a stream its consumers have taken; for running jobs only.
        self._consumed: dict[str, int] = {}

    # From any thread

    def submit(
        self, pool: Pool, new: NewJob, reader: asyncio.AbstractEventLoop | None = None
    ) -> None:
        """Accept a job and, with a worker free, start it at once.

        `reader` is the running loop of a caller who awaits the result: it may read the link.
        """
        with self.lock:
            if self._closed:
                raise ConnectionClosedError(f"job {new.id} was not accepted: the plane is closed")
            pool.work_came(self._clock())
            worker = pool.next_free()
            lease = pool.lease if worker is not None else None
            ((job, is_new),) = now(self._store.submit([new], lease, worker.id if worker else ""))
            if worker is not None and is_new and job.state is JobState.IN_PROGRESS:
                self._take(worker, job)
            else:
                worker = None
                pool.backlog = True
        if is_new and self._events.heard(JobAccepted):
            self._events.publish(JobAccepted(job))
        if worker is None:
            self._changed(pool)
            return
        self._run(worker, job)
        if reader is not None and worker.link is not None:
            worker.link.lend(reader)

    def _take(self, worker: Worker, job: Job) -> None:
        worker.jobs[job.id] = job
        if worker.offered is not None:
            worker.offered -= 1
        self._holders[job.id] = worker
        worker.pool.refresh(worker)

    def _run(self, worker: Worker, job: Job) -> None:
        if job.policy.execution_timeout_ms:
            self._loop.call_soon_threadsafe(self._arm, job)
        assert worker.link is not None
        if self._events.heard(JobStarted):
            self._events.publish(JobStarted(job))
        try:
            worker.link.run(job, trusted=True)
        except Exception as error:  # such as more buffers than a frame can carry
            failure = capture(error, origin="system")
            self._loop.call_soon_threadsafe(self.failed, worker, job.ref, failure)
        if job.id in worker.ghosts:
            # Cancelled meanwhile, by another thread whose word may have come before the job.
            worker.link.cancel(job.ref)

    def holder(self, job_id: str) -> Worker | None:
        """The worker that runs the job now."""
        return self._holders.get(job_id)

    def hold(self, exchange: str, worker: Worker) -> None:
        """Note who answers a request: it may submit jobs and wait for them."""
        self._holders[exchange] = worker

    def released(self, exchange: str, worker: Worker) -> None:
        """A request has left its worker."""
        self._let_go(worker, exchange)
        worker.idle_since = self._clock()
        self._settle(worker)

    def disown(self, worker: Worker, exchange: str) -> None:
        """Replace the worker if the code of a request that has ended otherwise does not stop."""
        worker.exchanges.pop(exchange, None)
        worker.ghosts.add(exchange)
        self._loop.call_later(GRACE_SECONDS, self._condemn, worker, exchange)

    def consumed(self, job_id: str, chunks: int) -> None:
        """Let a generator go as far as the consumer that has taken so many of its chunks."""
        with self.lock:
            worker = self._holders.get(job_id)
            job = worker.jobs.get(job_id) if worker is not None else None
            further = chunks - self._consumed.get(job_id, 0)
            if worker is None or job is None or not job.credits or further <= 0:
                return
            self._consumed[job_id] = chunks
        if worker.link is not None:
            worker.link.grant(job.ref, further)

    def retire_all(self, pool: Pool, *, foreign: bool = False) -> None:
        """Give the pool's present workers no more jobs.

        Those whose code is not ours, which ask for their jobs from elsewhere, go on unless
        `foreign`.
        """
        with self.lock:
            for worker in list(pool.workers.values()):
                if worker.attached and worker.offered is not None and not foreign:
                    continue
                worker.state = WorkerState.DRAINING
                pool.refresh(worker)

    # On the loop; but what tells how a job goes on may come from a caller's loop

    def close(self) -> None:
        """Accept nothing more."""
        with self.lock:
            self._closed = True

    def pump(self, pool: Pool) -> None:
        """Give waiting jobs to free workers."""
        while True:
            with self.lock:
                worker = pool.next_free()
                if worker is None:
                    return
                wanted = worker.free_slots
                jobs = now(self._store.claim(pool.key, wanted, pool.lease, worker.id))
                pool.backlog = len(jobs) == wanted
                for job in jobs:
                    self._take(worker, job)
            if not jobs:
                return
            for job in jobs:
                self._run(worker, job)

    def offer(self, worker: Worker, slots: int) -> None:
        """The worker would take so many jobs now."""
        with self.lock:
            worker.offered = slots
            worker.pool.refresh(worker)
        if slots:
            self.pump(worker.pool)

    def finished(self, worker: Worker, ref: JobRef, result: Payload) -> None:
        self._ended(worker, ref, Outcome(JobState.COMPLETED, payload=result))

    def failed(
        self, worker: Worker, ref: JobRef, failure: Failure, output: Payload | None = None
    ) -> None:
        self._ended(worker, ref, Outcome(JobState.FAILED, output, failure))

    def _ended(self, worker: Worker, ref: JobRef, outcome: Outcome) -> None:
        with self.lock:
            job = now(self._store.finish(ref, outcome))
            self._leave(worker, ref)
        loop = asyncio.get_running_loop()
        try:
            if worker.pool.backlog:
                self.pump(worker.pool)
        finally:
            if job is not None:
                self._publish(job)
            # Whoever waits for the job comes first: perhaps he has work again, and nobody is idle.
            # (On the plane's loop its end may have to be written down before he hears of it.)
            if loop is self._loop:
                loop.call_soon(loop.call_soon, self._settle, worker)
            else:
                loop.call_soon(self._settle, worker)

    def stopped(self, worker: Worker, ref: JobRef) -> None:
        """The code of a cancelled job has ended in its worker."""
        with self.lock:
            self._leave(worker, ref)
        self.pump(worker.pool)
        self._settle(worker)

    def _leave(self, worker: Worker, ref: JobRef) -> None:
        held = worker.jobs.get(ref.job_id)
        if held is not None and held.attempt != ref.attempt:
            return  # the late answer of an attempt that this worker has lost and taken again
        worker.jobs.pop(ref.job_id, None)
        worker.ghosts.discard(ref.job_id)
        worker.idle_since = self._clock()
        self._let_go(worker, ref.job_id)
        worker.pool.refresh(worker)

    def _let_go(self, worker: Worker, job_id: str) -> None:
        if self._holders.get(job_id) is worker:
            del self._holders[job_id]

    def _settle(self, worker: Worker) -> None:
        if not worker.busy:
            with self.lock:
                worker.pool.went_quiet(worker.idle_since)
            self._went_idle(worker.pool)

    def chunk(self, worker: Worker, ref: JobRef, index: int, payload: Payload) -> None:
        chunk = Chunk(index, payload)
        if now(self._store.append(ref, chunk)):
            self._events.publish(ChunkAdded(ref.job_id, chunk))
        elif worker.link is not None and ref.job_id in worker.jobs:
            # A restarted stream's consumer has it from an earlier attempt, and grants none for it.
            worker.link.grant(ref, 1)

    def cancel(self, job_id: str) -> bool:
        """End a job now. Its code is told; a worker whose code does not stop is replaced."""
        failure = capture(JobCancelledError(f"job {job_id} was cancelled"), origin="system")
        return self._end(job_id, Outcome(JobState.CANCELLED, failure=failure))

    def retry(self, pool: Pool, job_id: str) -> Job | None:
        """Queue a job again that has failed or timed out; None where it has not."""
        with self.lock:
            job = now(self._store.retry(job_id))
            pool.backlog = True
        if job is not None:
            self._changed(pool)
        return job

    def _arm(self, job: Job) -> None:
        worker = self._holders.get(job.id)
        held = worker.jobs.get(job.id) if worker else None
        if worker is not None and held is not None and held.attempt == job.attempt:
            seconds = job.policy.execution_timeout_ms / 1000
            self.limits.set(
                job.id, seconds, partial(self._time_out, job, worker.pool.spec.name, seconds)
            )

    def _time_out(self, job: Job, endpoint: str, seconds: float) -> None:
        text = (
            f"job {job.id} of the endpoint {endpoint!r} ran longer than its "
            f"execution_timeout_ms={seconds * 1000:.0f}"
        )
        failure = capture(JobTimeoutError(text), origin="system")
        self._end(job.id, Outcome(JobState.TIMED_OUT, failure=failure))

    def _end(self, job_id: str, outcome: Outcome) -> bool:
        with self.lock:
            job = now(self._store.end(job_id, outcome))
            worker = self._abandon(job_id) if job is not None else None
        if job is None:
            return False
        self._call_off(worker, job)
        return True

    def _abandon(self, job_id: str) -> Worker | None:
        """The worker that still runs the code of a job that has ended otherwise."""
        worker = self._holders.get(job_id)
        if worker is not None and worker.jobs.pop(job_id, None) is not None:
            worker.ghosts.add(job_id)
        return worker

    def _call_off(self, worker: Worker | None, job: Job) -> None:
        if worker is not None and worker.link is not None:
            worker.link.cancel(job.ref)
            self._loop.call_later(GRACE_SECONDS, self._condemn, worker, job.id)
        self._publish(job)

    def lapsed(self, pool: Pool, jobs: Sequence[Job]) -> None:
        """What `Store.expire` has changed: jobs of this pool that are queued again, or ended."""
        with self.lock:
            pool.backlog = True
            ended = [(self._abandon(job.id), job) for job in jobs if job.state.final]
        for worker, job in ended:
            self._call_off(worker, job)
        self._changed(pool)

    def _condemn(self, worker: Worker, job_id: str) -> None:
        """Replace a worker whose code did not stop, after its other jobs."""
        with self.lock:
            if job_id not in worker.ghosts or (worker.attached and worker.offered is not None):
                return  # (Who asks for jobs has no slot that its code would hold, and is not ours.)
            worker.state = WorkerState.DRAINING
            worker.pool.refresh(worker)
        self._changed(worker.pool)

    def late(self, pool: Pool, worker_id: str, job_id: str, outcome: Outcome) -> None:
        """A result of a worker that was given up: it counts if the job still waits to run again."""
        with self.lock:
            job = now(self._store.get(job_id))
            if job is None or job.endpoint != pool.key or job.worker != worker_id:
                return
            if job.state is not JobState.IN_QUEUE:
                return
            job = now(self._store.end(job_id, outcome))
        if job is not None:
            self._publish(job)

    def dropped(self, worker: Worker, ref: JobRef, why: str) -> None:
        """The worker goes on, and has left this job without an end."""
        with self.lock:
            job = worker.jobs.get(ref.job_id)
            if job is None or job.attempt != ref.attempt:
                return
            changed = now(self._store.release([Release(ref, _loss(job, worker, why))]))
            self._leave(worker, ref)
            worker.pool.backlog = True
        self._given_back(worker, changed, why)
        self._changed(worker.pool)

    def lost(self, worker: Worker, death: str = "") -> None:
        """Give back the jobs of a worker that is gone; `death` says of what, if by itself."""
        with self.lock:
            jobs = list(worker.jobs.values())
            lost = [Release(job.ref, _loss(job, worker, death)) for job in jobs]
            changed = now(self._store.release(lost))
            for job_id in [*worker.jobs, *worker.ghosts]:
                self._let_go(worker, job_id)
            worker.jobs.clear()
            worker.ghosts.clear()
            worker.pool.backlog = True
        self._given_back(worker, changed, death)

    def _given_back(self, worker: Worker, changed: Sequence[Job], death: str) -> None:
        for job in changed:
            if job.state.final:
                self._publish(job)
            else:
                self.limits.drop(job.id)  # the next attempt has a time of its own
        again = [job for job in changed if not job.state.final]
        if death and again:
            text = f"{death}; {_runs_again(again)}"
            spec = worker.pool.spec
            self._events.publish(Notice(spec.name, text, spec.app))

    def fail_waiting(self, pool: Pool, failure: Failure) -> None:
        """End every waiting job of an endpoint that cannot have workers."""
        self._end_waiting(pool, Outcome(JobState.FAILED, failure=failure))

    def end_all(self, pool: Pool, outcome: Outcome) -> None:
        """End every job of an endpoint, those that run as well."""
        self._end_waiting(pool, outcome)
        for job_id, worker in list(self._holders.items()):
            if worker.pool is pool:
                self._end(job_id, outcome)

    def _end_waiting(self, pool: Pool, outcome: Outcome) -> None:
        for job in now(self._store.waiting(pool.key, limit=1 << 30)):
            self._end(job.id, outcome)

    def _publish(self, job: Job) -> None:
        self.limits.drop(job.id)
        self._consumed.pop(job.id, None)
        self._events.publish(JobEnded(job))

    def ancestors(self, job: Job) -> Sequence[Worker]:
        """The workers whose jobs wait, directly or through others, for this one."""
        found: list[Worker] = []
        seen: set[str] = set()
        parent = job.parent
        while parent and parent not in seen:
            seen.add(parent)
            worker = self._holders.get(parent)
            held = worker.jobs.get(parent) if worker is not None else None
            if worker is None or (held is None and parent not in worker.exchanges):
                break
            if worker not in found:
                found.append(worker)
            parent = held.parent if held is not None else ""
        return found


def _loss(job: Job, worker: Worker, death: str) -> Failure | None:
    """What the job fails with, if it may not run again."""
    if not death:
        return None
    tried = f"attempt {job.deaths + 1} of {job.policy.max_attempts}"
    name = worker.pool.spec.name
    text = f"{death} while it ran the job {job.id} of the endpoint {name!r} ({tried})"
    return capture(WorkerLostError(text), origin="system")


def _runs_again(jobs: Sequence[Job]) -> str:
    if len(jobs) > 1:
        return f"its {len(jobs)} jobs run again"
    (job,) = jobs
    return f"its job runs again (attempt {job.deaths + 1} of {job.policy.max_attempts})"
