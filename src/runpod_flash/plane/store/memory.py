"""The store that lives as long as its process: the embedded plane's, and tests'.

A store that outlives it keeps the same rows, and writes down what changes (`sqlite`).
"""

from __future__ import annotations

import asyncio
import heapq
import threading
from collections import deque
from contextlib import suppress
from functools import partial
from itertools import islice, takewhile
from typing import TYPE_CHECKING, Any, TypeVar

from runpod_flash.plane.futures import complete
from runpod_flash.plane.store.base import (
    Accepted,
    Change,
    Chunk,
    Counts,
    CursorLostError,
    Job,
    JobState,
    Lease,
    NewJob,
    Outcome,
    Release,
    Tally,
    not_rerun,
    outlived,
)
from runpod_flash.plane.store.rows import Queue, Row

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine, Sequence

    from runpod_flash.errors import StoreFullError
    from runpod_flash.links.base import JobRef
    from runpod_flash.wire.codec import Payload

T = TypeVar("T")

_CHANGES_KEPT = 10_000


def now(command: Coroutine[Any, Any, T]) -> T:
    """The result of a command of an `immediate` store, from any thread and without a loop."""
    try:
        command.send(None)
    except StopIteration as done:
        result: T = done.value
        return result
    command.close()
    raise RuntimeError("the store is not immediate: await its commands")


class MemoryStore:
    """`Store` in memory, safe to use from several threads; `clock` gives seconds."""

    immediate = True

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._rows: dict[str, Row] = {}
        self._accepted = 0
        self._mortal: list[tuple[float, str]] = []  # a heap: when a time to live is over
        self._ended: dict[str, Row] = {}  # in the order in which they ended
        self._passing: list[tuple[float, str]] = []  # a heap: those with a retention of their own
        self._owing: dict[str, Row] = {}  # ended, with a webhook that is still to be told
        self._queues: dict[str, Queue] = {}
        # (Plain tuples: every job has two, and few are ever looked at.)
        self._changes: deque[tuple[int, str, str, JobState, int]] = deque(maxlen=_CHANGES_KEPT)
        self._cursor = 0
        self._watchers: list[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = []

    async def own(self, endpoint: str, owner: str, seconds: float) -> int | None:
        with self._lock:
            queue, clock = self._queue(endpoint), self._clock()
            if queue.owner != owner:
                if queue.owner and clock < queue.owned_until:
                    return None
                queue.owner = owner
                queue.epoch += 1
            queue.owned_until = clock + seconds
            return queue.epoch

    async def submit(
        self, jobs: Sequence[NewJob], claim: Lease | None = None, worker: str = ""
    ) -> Sequence[Accepted]:
        with self._lock:
            return [self._submit(new, claim, worker) for new in jobs]

    def _submit(self, new: NewJob, claim: Lease | None, worker: str) -> Accepted:
        present = self._rows.get(new.id)
        if present is not None:
            return Accepted(present.job(), new=False)
        queue = self._queue(new.endpoint)
        self._accepted += 1
        depth = self._depth(new.parent) if new.parent else 0
        row = self._rows[new.id] = Row(new, self._accepted, self._accepted, depth, self._clock())
        self._limit_life(row)
        if claim is not None and queue.queued == 0 and self._holds(queue, claim):
            self._start(queue, row, claim, worker)
        else:
            queue.put(row)
            self._note(row)
        return Accepted(row.job(), new=True)

    def _depth(self, parent: str) -> int:
        row = self._rows.get(parent)
        return 1 if row is None else row.depth + 1

    def _limit_life(self, row: Row) -> None:
        ttl_ms = row.new.policy.ttl_ms
        if ttl_ms:
            heapq.heappush(self._mortal, (row.created_at + ttl_ms / 1000, row.new.id))

    async def claim(
        self, endpoint: str, limit: int, lease: Lease, worker: str = ""
    ) -> Sequence[Job]:
        with self._lock:
            queue = self._queue(endpoint)
            claimed: list[Job] = []
            if not self._holds(queue, lease):
                return claimed
            while len(claimed) < limit and (row := next(queue.heads(), None)) is not None:
                queue.levels[row.depth].popleft()
                queue.count(row, -1)
                self._start(queue, row, lease, worker)
                claimed.append(row.job())
            return claimed

    async def renew(self, refs: Sequence[JobRef], lease: Lease) -> Sequence[JobRef]:
        with self._lock:
            held = [ref for ref in refs if self._held(ref) is not None]
            for ref in held:
                self._rows[ref.job_id].leased_until = self._clock() + lease.seconds
            return held

    async def release(self, releases: Sequence[Release]) -> Sequence[Job]:
        with self._lock:
            changed = []
            for release in releases:
                row = self._held(release.ref)
                if row is not None:
                    self._release(row, release)
                    changed.append(row.job())
            return changed

    def _release(self, row: Row, release: Release) -> None:
        policy = row.new.policy
        if release.lost is not None:
            row.deaths += 1
            used_up = row.deaths >= policy.max_attempts
            if used_up or (row.streamed and not policy.restartable):
                self._end(row, Outcome(JobState.FAILED, failure=release.lost))
                return
        self._requeue(row)

    def _requeue(self, row: Row) -> None:
        if row.streamed and not row.new.policy.restartable:
            self._end(row, not_rerun(row.new.id, "it had delivered a part of its stream"))
            return
        queue = self._queue(row.new.endpoint)
        queue.running.pop(row.new.id, None)
        row.state, row.owner, row.started_at = JobState.IN_QUEUE, "", None
        row.progress = None
        queue.put(row)
        self._note(row)

    def _lapse(self, row: Row) -> None:
        """The holder has not renewed its lease: nobody knows how far the job has come."""
        if row.new.policy.max_attempts <= 1:
            self._end(row, not_rerun(row.new.id, "max_attempts=1 lets it run once"))
        else:
            self._requeue(row)

    async def finish(self, ref: JobRef, outcome: Outcome) -> Job | None:
        with self._lock:
            row = self._held(ref)
            if row is None:
                return None
            self._end(row, outcome)
            return row.job()

    async def end(self, job_id: str, outcome: Outcome) -> Job | None:
        with self._lock:
            row = self._rows.get(job_id)
            if row is None or row.state.final:
                return None
            self._end(row, outcome)
            return row.job()

    async def retry(self, job_id: str) -> Job | None:
        with self._lock:
            row = self._rows.get(job_id)
            if row is None or row.state not in (JobState.FAILED, JobState.TIMED_OUT):
                return None
            self._ended.pop(job_id, None)
            self._owing.pop(job_id, None)
            row.told = False
            self._queue(row.new.endpoint).take_out(row)
            self._accepted += 1
            row.number, row.created_at, row.deaths = self._accepted, self._clock(), 0
            row.finished_at = row.outcome = row.stream = None
            self._begin_again(row)
            self._limit_life(row)
            self._requeue(row)
            return row.job()

    async def note(self, ref: JobRef, progress: Payload) -> bool:
        with self._lock:
            row = self._held(ref)
            if row is not None:
                row.progress = progress
            return row is not None

    async def append(self, ref: JobRef, chunk: Chunk) -> bool:
        with self._lock:
            row = self._held(ref)
            if row is None or chunk.index != row.streamed:
                return False
            if row.stream is None:
                row.stream = []
            row.stream.append(chunk)
            self._keep_chunk(row, chunk)
            self._note(row)
            return True

    async def chunks(self, job_id: str, start: int, limit: int = 1000) -> Sequence[Chunk]:
        with self._lock:
            row = self._rows.get(job_id)
            return list((row.stream or [])[start : start + limit]) if row else []

    async def expire(self) -> Sequence[Job]:
        with self._lock:
            clock = self._clock()
            changed: list[Row] = []
            for queue in self._queues.values():
                for row in [r for r in queue.running.values() if r.leased_until <= clock]:
                    self._lapse(row)
                    changed.append(row)
            while self._mortal and self._mortal[0][0] <= clock:
                _, job_id = heapq.heappop(self._mortal)
                row_ = self._rows.get(job_id)
                if row_ is not None and self._outlived(row_, clock):
                    self._end(row_, outlived(job_id, row_.new.policy.ttl_ms))
                    changed.append(row_)
            return [row.job() for row in dict.fromkeys(changed)]

    def _outlived(self, row: Row, clock: float) -> bool:
        # (One that was retried lives on by a later entry of the heap.)
        return not row.state.final and row.created_at + row.new.policy.ttl_ms / 1000 <= clock

    async def get(self, job_id: str) -> Job | None:
        with self._lock:
            row = self._rows.get(job_id)
            return None if row is None else row.job()

    async def counts(self, endpoint: str) -> Counts:
        with self._lock:
            queue = self._queues.get(endpoint)
            if queue is None:
                return Counts()
            oldest = min((row.created_at for row in queue.heads()), default=None)
            return Counts(queue.queued, len(queue.running), oldest, queue.nested, queue.patient)

    async def tally(self, endpoint: str) -> Tally:
        with self._lock:
            queue = self._queues.get(endpoint)
            return Tally() if queue is None else queue.tally

    async def waiting(self, endpoint: str, limit: int = 1000) -> Sequence[Job]:
        with self._lock:
            levels = sorted(self._queue(endpoint).levels.items(), reverse=True)
            rows = (row for _, level in levels for row in level if row.state is JobState.IN_QUEUE)
            return [row.job() for row in islice(rows, limit)]

    async def recent(self, endpoint: str, limit: int = 100) -> Sequence[Job]:
        with self._lock:
            rows = (row for row in reversed(self._rows.values()) if row.new.endpoint == endpoint)
            return [row.job() for row in islice(rows, limit)]

    async def forget(self, job_ids: Sequence[str]) -> None:
        with self._lock:
            for job_id in job_ids:
                row = self._rows.get(job_id)
                if row is not None and row.state.final and not row.owing:
                    self._drop(row)

    async def retire(self, older_than: float) -> int:
        with self._lock:
            clock = self._clock()
            before = clock - older_than
            old = list(takewhile(lambda job_id: self._ended_by(job_id, before), self._ended))
            old += self._passed(clock)
            for job_id in old:
                self._drop(self._rows[job_id])
            return len(old)

    def _passed(self, clock: float) -> list[str]:
        """Ended jobs whose own retention is over."""
        passed = []
        while self._passing and self._passing[0][0] <= clock:
            _, job_id = heapq.heappop(self._passing)
            row = self._rows.get(job_id)
            if row is not None and row.state.final and self._kept_until(row) <= clock:
                passed.append(job_id)
        return list(dict.fromkeys(passed))

    def _kept_until(self, row: Row) -> float:
        assert row.finished_at is not None
        return row.finished_at + row.new.policy.retention_ms / 1000

    async def owed(self) -> Sequence[str]:
        with self._lock:
            return list(self._owing)

    async def told(self, job_id: str) -> None:
        with self._lock:
            row = self._owing.pop(job_id, None)
            if row is not None:
                row.told = True
                self._file(row)
                self._keep_told(row)

    async def durable(self) -> None:
        written: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.when_durable(partial(complete, written, None))
        await written

    def when_durable(self, call: Callable[[StoreFullError | None], None]) -> None:
        call(None)  # nothing here outlives the process

    async def close(self) -> None:
        """There is nothing to let go of."""

    def _ended_by(self, job_id: str, clock: float) -> bool:
        finished_at = self._ended[job_id].finished_at
        return finished_at is not None and finished_at <= clock

    def watch(self, cursor: int | None = None) -> AsyncIterator[Change]:
        # "From now" is the moment of this call, not that of the first look.
        return self._watch(self._cursor if cursor is None else cursor)

    async def _watch(self, seen: int) -> AsyncIterator[Change]:
        wake = asyncio.Event()
        watcher = (asyncio.get_running_loop(), wake)
        with self._lock:
            self._watchers.append(watcher)
        try:
            while True:
                wake.clear()
                with self._lock:
                    fresh = self._changes_after(seen)
                for change in fresh:
                    seen = change.cursor
                    yield change
                if not fresh:
                    await wake.wait()
        finally:
            with self._lock, suppress(ValueError):
                self._watchers.remove(watcher)

    # Below, the lock is held.

    def _changes_after(self, seen: int) -> list[Change]:
        missed = self._cursor - seen
        if missed > len(self._changes):
            raise CursorLostError(f"changes after {seen} are no longer kept")
        fresh = list(islice(reversed(self._changes), missed))[::-1]
        return [Change(*each) for each in fresh]

    def _queue(self, endpoint: str) -> Queue:
        queue = self._queues.get(endpoint)
        if queue is None:
            queue = self._queues[endpoint] = Queue()
        return queue

    def _holds(self, queue: Queue, lease: Lease) -> bool:
        return queue.owner == lease.owner and queue.epoch == lease.epoch

    def _held(self, ref: JobRef) -> Row | None:
        row = self._rows.get(ref.job_id)
        if row is None or row.state is not JobState.IN_PROGRESS or row.attempt != ref.attempt:
            return None
        return row

    def _start(self, queue: Queue, row: Row, lease: Lease, worker: str) -> None:
        clock = self._clock()
        row.state, row.owner, row.worker = JobState.IN_PROGRESS, lease.owner, worker
        row.attempt += 1
        if row.attempt > 1:
            queue.retried += 1
        row.started_at, row.leased_until = clock, clock + lease.seconds
        queue.running[row.new.id] = row
        self._note(row)

    def _end(self, row: Row, outcome: Outcome) -> None:
        queue = self._queue(row.new.endpoint)
        if row.state is JobState.IN_QUEUE:
            queue.count(row, -1)
        queue.running.pop(row.new.id, None)
        row.state, row.outcome, row.finished_at = outcome.state, outcome, self._clock()
        row.progress = None
        queue.tell(row.state)
        self._note(row)
        if row.new.kept:
            self._file(row)
        else:
            self._drop(row)

    def _file(self, row: Row) -> None:
        """Put an ended job where it is found when its time is over."""
        if row.owing:
            self._owing[row.new.id] = row
        elif row.new.policy.retention_ms:
            heapq.heappush(self._passing, (self._kept_until(row), row.new.id))
        else:
            self._ended[row.new.id] = row

    # What a store that writes things down adds to.

    def _keep(self, row: Row) -> None:
        """The row is new or has changed."""

    def _keep_chunk(self, row: Row, chunk: Chunk) -> None:
        """Its stream has grown."""

    def _begin_again(self, row: Row) -> None:
        """It has failed, and is queued as new, without its stream."""

    def _keep_told(self, row: Row) -> None:
        """The webhook of an ended job was told."""

    def _drop(self, row: Row) -> None:
        """Forget an ended job."""
        del self._rows[row.new.id]
        self._ended.pop(row.new.id, None)

    def _note(self, row: Row) -> None:
        self._keep(row)
        self._cursor += 1
        new = row.new
        self._changes.append((self._cursor, new.id, new.endpoint, row.state, row.streamed))
        for watcher in self._watchers and list(self._watchers):
            loop, wake = watcher
            try:
                loop.call_soon_threadsafe(wake.set)
            except RuntimeError:  # its loop has closed: nobody watches there any more
                self._watchers.remove(watcher)
