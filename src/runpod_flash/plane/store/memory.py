"""The store that lives as long as its process: the embedded plane's, and tests'."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import islice, takewhile
from typing import TYPE_CHECKING, Any, TypeVar

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
    not_rerun,
    outlived,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Sequence

    from runpod_flash.links.base import JobRef

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


@dataclass(slots=True, eq=False)
class _Row:
    new: NewJob
    number: int
    depth: int
    created_at: float
    state: JobState = JobState.IN_QUEUE
    attempt: int = 0
    deaths: int = 0
    started_at: float | None = None
    finished_at: float | None = None
    outcome: Outcome | None = None
    owner: str = ""
    leased_until: float = 0.0
    stream: list[Chunk] | None = None

    @property
    def streamed(self) -> int:
        return len(self.stream) if self.stream else 0

    def job(self) -> Job:
        new = self.new
        return Job(
            new.id, new.endpoint, new.call, new.policy, new.parent, new.credits, self.state,
            self.attempt, self.deaths, self.streamed, self.created_at, self.started_at,
            self.finished_at, self.outcome,
        )  # fmt: skip


@dataclass(slots=True, eq=False)
class _Queue:
    """One endpoint's waiting jobs (ended ones are skipped lazily), owner and running jobs.

    `levels` holds the waiting ones by depth: 0 for those that clients submitted, 1 for those that
    these submitted, and so on.
    """

    levels: dict[int, deque[_Row]] = field(default_factory=dict)
    queued: int = 0
    nested: int = 0
    running: dict[str, _Row] = field(default_factory=dict)
    owner: str = ""
    epoch: int = 0
    owned_until: float = 0.0

    def heads(self) -> Iterator[_Row]:
        """The first waiting job of each level, the deepest first."""
        if not self.queued:
            self.levels.clear()
        for depth in sorted(self.levels, reverse=True):
            level = self.levels[depth]
            while level and level[0].state is not JobState.IN_QUEUE:
                level.popleft()
            if level:
                yield level[0]
            else:
                del self.levels[depth]

    def put(self, row: _Row) -> None:
        """Line the job up by its number: one that comes back takes its old place."""
        level = self.levels.setdefault(row.depth, deque())
        if not level or level[-1].number < row.number:
            level.append(row)
        else:
            ahead = (i for i, other in enumerate(level) if other.number > row.number)
            level.insert(next(ahead), row)
        self.count(row, 1)

    def count(self, row: _Row, by: int) -> None:
        self.queued += by
        if row.depth:
            self.nested += by


class MemoryStore:
    """`Store` in memory, safe to use from several threads; `clock` gives seconds."""

    immediate = True

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._rows: dict[str, _Row] = {}
        self._accepted = 0
        self._mortal: dict[str, _Row] = {}  # those with a time to live
        self._ended: dict[str, _Row] = {}  # in the order in which they ended
        self._queues: dict[str, _Queue] = {}
        self._changes: deque[Change] = deque(maxlen=_CHANGES_KEPT)
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
        self, jobs: Sequence[NewJob], claim: Lease | None = None
    ) -> Sequence[Accepted]:
        with self._lock:
            return [self._submit(new, claim) for new in jobs]

    def _submit(self, new: NewJob, claim: Lease | None) -> Accepted:
        present = self._rows.get(new.id)
        if present is not None:
            return Accepted(present.job(), new=False)
        queue = self._queue(new.endpoint)
        self._accepted += 1
        depth = self._depth(new.parent) if new.parent else 0
        row = self._rows[new.id] = _Row(new, self._accepted, depth, self._clock())
        if new.policy.ttl_ms:
            self._mortal[new.id] = row
        if claim is not None and queue.queued == 0 and self._holds(queue, claim):
            self._start(queue, row, claim)
        else:
            queue.put(row)
            self._note(row)
        return Accepted(row.job(), new=True)

    def _depth(self, parent: str) -> int:
        row = self._rows.get(parent)
        return 1 if row is None else row.depth + 1

    async def claim(self, endpoint: str, limit: int, lease: Lease) -> Sequence[Job]:
        with self._lock:
            queue = self._queue(endpoint)
            claimed: list[Job] = []
            if not self._holds(queue, lease):
                return claimed
            while len(claimed) < limit and (row := next(queue.heads(), None)) is not None:
                queue.levels[row.depth].popleft()
                queue.count(row, -1)
                self._start(queue, row, lease)
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

    def _release(self, row: _Row, release: Release) -> None:
        policy = row.new.policy
        if release.lost is not None:
            row.deaths += 1
            used_up = row.deaths >= policy.max_attempts
            if used_up or (row.streamed and not policy.restartable):
                self._end(row, Outcome(JobState.FAILED, failure=release.lost))
                return
        self._requeue(row)

    def _requeue(self, row: _Row) -> None:
        if row.streamed and not row.new.policy.restartable:
            self._end(row, not_rerun(row.new.id, "it had delivered a part of its stream"))
            return
        queue = self._queue(row.new.endpoint)
        queue.running.pop(row.new.id, None)
        row.state, row.owner, row.started_at = JobState.IN_QUEUE, "", None
        queue.put(row)
        self._note(row)

    def _lapse(self, row: _Row) -> None:
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

    async def append(self, ref: JobRef, chunk: Chunk) -> bool:
        with self._lock:
            row = self._held(ref)
            if row is None or chunk.index != row.streamed:
                return False
            if row.stream is None:
                row.stream = []
            row.stream.append(chunk)
            self._note(row)
            return True

    async def chunks(self, job_id: str, start: int, limit: int = 1000) -> Sequence[Chunk]:
        with self._lock:
            row = self._rows.get(job_id)
            return list((row.stream or [])[start : start + limit]) if row else []

    async def expire(self) -> Sequence[Job]:
        with self._lock:
            clock = self._clock()
            changed: list[_Row] = []
            for queue in self._queues.values():
                for row in [r for r in queue.running.values() if r.leased_until <= clock]:
                    self._lapse(row)
                    changed.append(row)
            for row in list(self._mortal.values()):
                ttl_ms = row.new.policy.ttl_ms
                if clock >= row.created_at + ttl_ms / 1000:
                    self._end(row, outlived(row.new.id, ttl_ms))
                    changed.append(row)
            return [row.job() for row in dict.fromkeys(changed)]

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
            return Counts(queue.queued, len(queue.running), oldest, queue.nested)

    async def waiting(self, endpoint: str, limit: int = 1000) -> Sequence[Job]:
        with self._lock:
            levels = sorted(self._queue(endpoint).levels.items(), reverse=True)
            rows = (row for _, level in levels for row in level if row.state is JobState.IN_QUEUE)
            return [row.job() for row in islice(rows, limit)]

    async def forget(self, job_ids: Sequence[str]) -> None:
        with self._lock:
            for job_id in job_ids:
                row = self._rows.get(job_id)
                if row is not None and row.state.final:
                    del self._rows[job_id], self._ended[job_id]

    async def retire(self, older_than: float) -> int:
        with self._lock:
            before = self._clock() - older_than
            old = list(takewhile(lambda job_id: self._ended_by(job_id, before), self._ended))
            for job_id in old:
                del self._rows[job_id], self._ended[job_id]
            return len(old)

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
        return list(islice(reversed(self._changes), missed))[::-1]

    def _queue(self, endpoint: str) -> _Queue:
        queue = self._queues.get(endpoint)
        if queue is None:
            queue = self._queues[endpoint] = _Queue()
        return queue

    def _holds(self, queue: _Queue, lease: Lease) -> bool:
        return queue.owner == lease.owner and queue.epoch == lease.epoch

    def _held(self, ref: JobRef) -> _Row | None:
        row = self._rows.get(ref.job_id)
        if row is None or row.state is not JobState.IN_PROGRESS or row.attempt != ref.attempt:
            return None
        return row

    def _start(self, queue: _Queue, row: _Row, lease: Lease) -> None:
        clock = self._clock()
        row.state, row.owner = JobState.IN_PROGRESS, lease.owner
        row.attempt += 1
        row.started_at, row.leased_until = clock, clock + lease.seconds
        queue.running[row.new.id] = row
        self._note(row)

    def _end(self, row: _Row, outcome: Outcome) -> None:
        queue = self._queue(row.new.endpoint)
        if row.state is JobState.IN_QUEUE:
            queue.count(row, -1)
        queue.running.pop(row.new.id, None)
        self._mortal.pop(row.new.id, None)
        self._ended[row.new.id] = row
        row.state, row.outcome, row.finished_at = outcome.state, outcome, self._clock()
        self._note(row)

    def _note(self, row: _Row) -> None:
        self._cursor += 1
        new = row.new
        self._changes.append(Change(self._cursor, new.id, new.endpoint, row.state, row.streamed))
        for watcher in list(self._watchers):
            loop, wake = watcher
            try:
                loop.call_soon_threadsafe(wake.set)
            except RuntimeError:  # its loop has closed: nobody watches there any more
                self._watchers.remove(watcher)
