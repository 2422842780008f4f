"""Jobs for HTTP clients: submitting, waiting, streaming, and what an answer says of them."""

from __future__ import annotations

import asyncio
import json
import time
import uuid
from collections import Counter, deque
from typing import TYPE_CHECKING, Any

from runpod_flash.gateway.messages import Answer, Refusal, answer
from runpod_flash.gateway.results import NotJsonError, error_text, to_json
from runpod_flash.plane.events import JobEnded
from runpod_flash.plane.store.base import Call, JobState, NewJob, Policy
from runpod_flash.plane.store.memory import now
from runpod_flash.plane.views import JobViews
from runpod_flash.wire.codec import encode

if TYPE_CHECKING:
    from collections.abc import Sequence

    from runpod_flash.plane.events import Event
    from runpod_flash.plane.plane import Plane
    from runpod_flash.plane.pool import Pool
    from runpod_flash.plane.store.base import Chunk, Job

# A result that was delivered is kept so long for those who ask again.
_DELIVERED_SECONDS = 60.0
_DELIVERED_BYTES = 64_000_000
_ROW_BYTES = 1500
# HTTP statuses of jobs that did not complete, where the status is to say so.
_STATUSES = {JobState.FAILED: 500, JobState.TIMED_OUT: 504, JobState.CANCELLED: 409}


class Jobs:
    """See the module; runs on the plane's loop."""

    def __init__(self, plane: Plane) -> None:
        self._plane = plane
        self.views = JobViews(plane)
        self._cursors: dict[str, int] = {}
        self._delivered: deque[tuple[float, int, str]] = deque()
        self._delivered_bytes = 0
        self._sweep: asyncio.TimerHandle | None = None
        self._ended: Counter[tuple[str, JobState]] = Counter()
        plane.events.subscribe(self._count, JobEnded)

    def _count(self, event: Event) -> None:
        if isinstance(event, JobEnded):
            self._ended[event.job.endpoint, event.job.state] += 1

    # Submitting

    def submit(self, pool: Pool, value: Any, method: str = "") -> str:
        """Queue a job with an `input`; its id."""
        job_id = str(uuid.uuid4())
        self.accept(pool, job_id, Call(encode(value), "input", method))
        return job_id

    def accept(self, pool: Pool, job_id: str, call: Call, window: int = 0) -> None:
        """Queue a job. One of that id that is there already stays as it is."""
        placement = pool.spec.placement
        policy = Policy(
            placement.max_attempts, placement.restartable, placement.execution_timeout_ms
        )
        self._plane.submit(pool, NewJob(job_id, pool.key, call, policy, credits=window))

    def run(self, pool: Pool, value: Any, method: str = "") -> tuple[str, asyncio.Future[Job]]:
        """Queue a job, and a future that has it once it has ended."""
        job_id = str(uuid.uuid4())
        ended: asyncio.Future[Job] = asyncio.get_running_loop().create_future()

        def follow(event: Event) -> None:
            if isinstance(event, JobEnded) and not ended.done():
                ended.set_result(event.job)

        self._plane.events.follow(job_id, follow)
        self.accept(pool, job_id, Call(encode(value), "input", method))
        return job_id, ended

    # Looking

    def has(self, pool: Pool, job_id: str) -> bool:
        """Whether the endpoint has a job of that id."""
        job = now(self._plane.store.get(job_id))
        return job is not None and job.endpoint == pool.key

    def get(self, pool: Pool, job_id: str) -> Job:
        """The endpoint's job of that id; 404 if it has none."""
        job = now(self._plane.store.get(job_id))
        if job is None or job.endpoint != pool.key:
            raise Refusal(
                404,
                f"{pool.spec.name} has no job {job_id!r}: it never had, or it ended too long ago",
            )
        return job

    async def end(self, job_id: str, seconds: float | None) -> Job | None:
        """The job once it has ended; None after so many seconds, or if it is not known."""
        ended: asyncio.Future[Job | None] = asyncio.get_running_loop().create_future()
        leave = self.views.wait(job_id, lambda job: _set(ended, job))
        try:
            return await asyncio.wait_for(ended, seconds)
        except asyncio.TimeoutError:
            return None
        finally:
            leave()

    async def chunks(
        self, job_id: str, start: int, seconds: float
    ) -> tuple[Sequence[Chunk], Job | None]:
        """Chunks from number `start`, waited for; the job as well if none will follow."""
        loop = asyncio.get_running_loop()
        found: asyncio.Future[tuple[Sequence[Chunk], Job | None]] = loop.create_future()

        def arrived(chunks: Sequence[Chunk], job: Job | None) -> None:
            _set(found, (chunks, job))

        leave = self.views.chunks(job_id, start, arrived)
        try:
            return await asyncio.wait_for(found, seconds)
        except asyncio.TimeoutError:
            return (), None
        finally:
            leave()

    async def drain(self, job_id: str, seconds: float, asked: int | None = None) -> list[bytes]:
        """The chunks from number `asked`, else since the last time that somebody asked, as JSON."""
        if asked is not None:
            found, _ = await self.chunks(job_id, asked, seconds)
            return [_shown(chunk) for chunk in found]
        start = self._cursors.get(job_id, 0)
        found, _ = await self.chunks(job_id, start, seconds)
        # Another client may have asked meanwhile: each chunk is given out once.
        start = max(self._cursors.get(job_id, 0), start)
        fresh = [chunk for chunk in found if chunk.index >= start]
        if fresh:
            self._cursors[job_id] = fresh[-1].index + 1
        return [_shown(chunk) for chunk in fresh]

    def cancel(self, job_id: str) -> None:
        self._plane.cancel(job_id)

    def forget_soon(self, job: Job) -> None:
        """A delivered result is kept for a while, if those of others leave room for it."""
        outcome = job.outcome
        size = _ROW_BYTES + (outcome.payload.nbytes if outcome and outcome.payload else 0)
        self._delivered.append((time.monotonic(), size, job.id))
        self._delivered_bytes += size
        if self._delivered_bytes > _DELIVERED_BYTES:
            self._forget_delivered()
        elif self._sweep is None:
            loop = asyncio.get_running_loop()
            self._sweep = loop.call_later(_DELIVERED_SECONDS, self._forget_delivered)

    def _forget_delivered(self) -> None:
        if self._sweep is not None:
            self._sweep.cancel()
            self._sweep = None
        old = time.monotonic() - _DELIVERED_SECONDS
        while self._delivered and (
            self._delivered[0][0] <= old or self._delivered_bytes > _DELIVERED_BYTES
        ):
            _, size, job_id = self._delivered.popleft()
            self._delivered_bytes -= size
            self.forget(job_id)
        if self._delivered:
            delay = self._delivered[0][0] - old
            self._sweep = asyncio.get_running_loop().call_later(delay, self._forget_delivered)

    def forget(self, job_id: str) -> None:
        self._cursors.pop(job_id, None)
        self.views.forget(job_id)

    def health(self, pool: Pool | None) -> dict[str, Any]:
        """The counters of the queue API."""
        jobs = dict.fromkeys(("completed", "failed", "inProgress", "inQueue", "retried"), 0)
        kinds = ("idle", "initializing", "ready", "running", "throttled", "unhealthy")
        workers = dict.fromkeys(kinds, 0)
        if pool is not None:
            counts = now(self._plane.store.counts(pool.key))
            jobs |= {"inProgress": counts.running, "inQueue": counts.queued}
            jobs["completed"] = self._ended[pool.key, JobState.COMPLETED]
            failed = (JobState.FAILED, JobState.TIMED_OUT)
            jobs["failed"] = sum(self._ended[pool.key, state] for state in failed)
            for worker in pool.live():
                busy = "running" if worker.busy else "ready"
                workers[busy if worker.ready_at is not None else "initializing"] += 1
        return {"jobs": jobs, "workers": workers}

    def purge(self, pool: Pool) -> int:
        """End every waiting job; how many there were."""
        waiting = now(self._plane.store.waiting(pool.key, limit=1 << 30))
        return sum(self._plane.dispatcher.cancel(job.id) for job in waiting)

    # Answers

    def envelope(self, job: Job, *, status_tells: bool = False) -> Answer:
        """The job object. With `status_tells`, the HTTP status says how it ended."""
        state, outcome = job.state, job.outcome
        fields: dict[str, Any] = {"id": job.id, "status": state.value, **self._times(job)}
        output = b""
        try:
            if state is JobState.COMPLETED:
                output = self._output(job)
        except NotJsonError as error:
            state = JobState.FAILED
            fields |= {"status": state.value, "error": str(error)}
        if outcome is not None and outcome.failure is not None:
            failure = outcome.failure
            fields |= {"error": error_text(failure), "error_type": failure.type_name}
            if failure.traceback:
                fields["traceback"] = failure.traceback
        if state is JobState.IN_QUEUE and (waits_for := self._plane.waits_for(job)):
            fields["waitsFor"] = waits_for
        status = _STATUSES.get(state, 200) if status_tells else 200
        body = json.dumps(fields).encode()
        return Answer(status, body[:-1] + b', "output": ' + output + b"}" if output else body)

    def _times(self, job: Job) -> dict[str, Any]:
        seen = self.views.look(job.id)
        return {
            "delayTime": (seen.delay_ms if seen else None) or 0,
            "executionTime": (seen.execution_ms if seen else None) or 0,
            "workerId": seen.worker_id if seen else "",
        }

    def _output(self, job: Job) -> bytes:
        if job.chunks:
            found = now(self._plane.store.chunks(job.id, 0, job.chunks))
            return b"[" + b", ".join(to_json(chunk.payload) for chunk in found) + b"]"
        assert job.outcome is not None
        return b"null" if job.outcome.payload is None else to_json(job.outcome.payload)

    def pending(self, job_id: str) -> Answer:
        """The answer about a job that has not ended in time."""
        job = now(self._plane.store.get(job_id))
        return answer(404, {"error": "the job is gone"}) if job is None else self.envelope(job)


def _set(future: asyncio.Future[Any], value: Any) -> None:
    if not future.done():
        future.set_result(value)


def _shown(chunk: Chunk) -> bytes:
    try:
        return b'{"output": ' + to_json(chunk.payload) + b"}"
    except NotJsonError as error:
        return json.dumps({"output": None, "error": str(error)}).encode()
