"""The server's store: that of memory, with all that changes written to a SQLite file.

Commands act on memory at once, so that dispatch never waits for a disk; `durable` is what every
answer to a client waits for. Large values, and all of jobs that have ended, are dropped from memory
once they are in the file, and read again when they are needed. One process has the file
(`control/data_dir`), so that whatever ran when it is opened has lost its plane: it is queued again,
which costs no attempt.
"""

from __future__ import annotations

import sqlite3
import threading
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from runpod_flash.errors import ConfigurationError, PayloadTooLargeError, StoreFullError
from runpod_flash.plane.store import records
from runpod_flash.plane.store.base import Call, Chunk, JobState, Outcome, Tally
from runpod_flash.plane.store.changes import Changes
from runpod_flash.plane.store.database import connect, prepare
from runpod_flash.plane.store.journal import Journal
from runpod_flash.plane.store.memory import MemoryStore
from runpod_flash.plane.store.rows import Row
from runpod_flash.wire.codec import Payload
from runpod_flash.wire.failures import capture
from runpod_flash.wire.frames import FrameError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from runpod_flash.links.base import JobRef
    from runpod_flash.plane.store.base import Accepted, Job, Lease, NewJob
    from runpod_flash.plane.store.changes import Write

# In the place of values that are in the file only.
_IN_FILE = Payload(b"")
_CALL_IN_FILE = Call(_IN_FILE)
_ENDS_IN_FILE = {state: Outcome(state, _IN_FILE) for state in JobState if state.final}
# Results of accepted jobs find room where new jobs do not.
_HEADROOM = 1.25
# (Not sorted by SQLite, which would copy all values to sort them.)
_LOAD = (
    "SELECT key, id, endpoint, depth, coalesce(call, value), number, state, attempt, deaths,"
    " worker, created_at, started_at, finished_at, told,"
    " (SELECT count(*) FROM chunks WHERE job=key) FROM jobs LEFT JOIN calls ON job=key"
)
_CALL = "SELECT coalesce(call, value) FROM jobs LEFT JOIN calls ON job=key WHERE key=?"
_SHOWN = (
    "SELECT endpoint, sum(state='COMPLETED'), sum(state IN ('FAILED', 'TIMED_OUT')),"
    " sum(max(attempt - 1, 0)) FROM jobs GROUP BY endpoint"
)


class _ForgottenError(LookupError):
    """A job was forgotten while it was looked at."""


@dataclass(frozen=True)
class Bounds:
    """The size of the file from which on new jobs are refused, and what the disk must have left."""

    max_bytes: int = 10 << 30
    min_free_bytes: int = 64 << 20


class SqliteStore(MemoryStore):
    """`Store` in the file `path`; `clock` gives seconds since 1970."""

    # What has ended has no values in memory, other jobs none above so many bytes.
    LARGE = 4 << 10

    def __init__(self, path: Path, clock: Callable[[], float], bounds: Bounds = Bounds()) -> None:
        super().__init__(clock)
        prepare(path)
        self._bounds = bounds
        self._dirty = Changes()
        self._taken = self._dirty
        self._unheard: list[Row] = []
        # What has become of jobs whose rows do not show it any more.
        self._gone: dict[str, Tally] = {}
        self._reader = connect(path)
        self._reading = threading.Lock()
        most = int(bounds.max_bytes * _HEADROOM)
        self._journal = Journal(path, self._take, self._written, self._failed, self._is_light, most)
        self._load(path)

    # Commands that differ from memory's

    async def submit(
        self, jobs: Sequence[NewJob], claim: Lease | None = None, worker: str = ""
    ) -> Sequence[Accepted]:
        """Raises `PayloadTooLargeError` for arguments that no file could hold, too."""
        for new in jobs:
            if new.id not in self._rows:
                self._check_room()
            if new.nbytes > records.MOST_BYTES:
                raise PayloadTooLargeError(_too_large(f"the arguments of job {new.id}"))
        return await super().submit(jobs, claim, worker)

    async def claim(
        self, endpoint: str, limit: int, lease: Lease, worker: str = ""
    ) -> Sequence[Job]:
        claimed = await super().claim(endpoint, limit, lease, worker)
        whole = []
        for job in claimed:
            with suppress(_ForgottenError):  # it was cancelled at this very moment
                whole.append(self._with_call(job))
        return whole

    async def finish(self, ref: JobRef, outcome: Outcome) -> Job | None:
        if _size(outcome.payload) > records.MOST_BYTES:
            outcome = _unkept(f"the result of job {ref.job_id}")
        return await super().finish(ref, outcome)

    async def append(self, ref: JobRef, chunk: Chunk) -> bool:
        if chunk.payload.nbytes <= records.MOST_BYTES:
            return await super().append(ref, chunk)
        with self._lock:
            row = self._held(ref)
            if row is not None:
                self._end(row, _unkept(f"a chunk of job {ref.job_id}"))
                self._unheard.append(row)
        return False

    async def expire(self) -> Sequence[Job]:
        changed = await super().expire()
        with self._lock:
            unheard, self._unheard = self._unheard, []
            # (One that was refused may have been submitted again.)
            told = [row.job() for row in unheard if self._rows.get(row.new.id, row) is row]
        return [*changed, *told]

    async def get(self, job_id: str) -> Job | None:
        job = await super().get(job_id)
        with suppress(_ForgottenError):
            return None if job is None else self._with_outcome(self._with_call(job))
        return None

    async def chunks(self, job_id: str, start: int, limit: int = 1000) -> Sequence[Chunk]:
        found = await super().chunks(job_id, start, limit)
        with suppress(_ForgottenError):
            return [self._with_value(job_id, chunk) for chunk in found]
        return []

    def when_durable(self, call: Callable[[StoreFullError | None], None]) -> None:
        self._journal.when_durable(call)

    async def close(self) -> None:
        self._journal.close()
        self._reader.close()

    def _check_room(self) -> None:
        journal, bounds = self._journal, self._bounds
        if journal.broken:
            raise StoreFullError(f"the server cannot write to its disk ({journal.broken})")
        if journal.used_bytes > bounds.max_bytes:
            raise StoreFullError(
                f"the server keeps {journal.used_bytes / 1e6:.0f} MB of jobs and may keep "
                f"{bounds.max_bytes / 1e6:.0f} MB; try again when some have ended"
            )
        # (Looked at again: nothing may be written any more that would show that there is room.)
        if journal.free_bytes < bounds.min_free_bytes and journal.free() < bounds.min_free_bytes:
            raise StoreFullError(
                f"the server's disk has {journal.free_bytes / 1e6:.0f} MB left; try again when "
                "it has room"
            )

    # Values that are in the file only

    def _with_call(self, job: Job) -> Job:
        if job.call.payload is not _IN_FILE:
            return job
        data = self._read(_CALL, job.id)
        new = records.call_from_bytes(job.id, job.endpoint, data)
        return job._replace(call=new.call, extras=new.extras)

    def _with_outcome(self, job: Job) -> Job:
        if job.outcome is None or job.outcome.payload is not _IN_FILE:
            return job
        data = self._read("SELECT outcome FROM jobs WHERE key=?", job.id)
        return job._replace(outcome=records.outcome_from_bytes(job.state, data))

    def _with_value(self, job_id: str, chunk: Chunk) -> Chunk:
        if chunk.payload is not _IN_FILE:
            return chunk
        where = "SELECT value FROM chunks WHERE job=? AND number=?"
        return Chunk(chunk.index, records.value_from_bytes(self._read(where, job_id, chunk.index)))

    def _read(self, query: str, job_id: str, *more: object) -> bytes:
        row = self._rows.get(job_id)
        with self._reading:
            found = row and self._reader.execute(query, (row.key, *more)).fetchone()
        if not found:
            raise _ForgottenError(f"{job_id} is not in the file any more")
        data: bytes = found[0]
        return data

    # What changes (under the lock)

    def _keep(self, row: Row) -> None:
        self._dirty.rows[row.new.id] = row
        self._journal.changed()

    def _keep_chunk(self, row: Row, chunk: Chunk) -> None:
        self._dirty.chunks.append((row, chunk))

    def _begin_again(self, row: Row) -> None:
        self._dirty.restart(row)
        self._no_longer_shown(row.new.endpoint, Tally(failed=1))

    def _drop(self, row: Row) -> None:
        super()._drop(row)
        self._no_longer_shown(row.new.endpoint, row.tally)
        self._dirty.drop(row)
        self._journal.changed()

    def _keep_told(self, row: Row) -> None:
        # (Not by `_keep`: the outcome may be in the file only.)
        self._dirty.told.append(row)
        self._journal.changed()

    def _no_longer_shown(self, endpoint: str, tally: Tally) -> None:
        gone = self._gone[endpoint] = self._gone.get(endpoint, Tally()).plus(tally)
        self._dirty.tallies[endpoint] = gone

    # On the thread that commits

    def _is_light(self) -> bool:
        """Whether what is to be written would hold up a loop no longer than a small job does."""
        with self._lock:
            return self._dirty.is_light()

    def _take(self) -> list[Write]:
        with self._lock:
            taken, self._dirty = self._dirty, Changes()
            self._taken = taken
            seen = taken.look()
        return taken.statements(seen)

    def _written(self) -> None:
        """Let go of large values that are in the file now."""
        with self._lock:
            for row in self._taken.rows.values():
                row.mark = 1
                self._lighten(row)
            for row, chunk in self._taken.chunks:
                self._lighten_chunk(row, chunk)
            self._taken = Changes()

    def _lighten(self, row: Row) -> None:
        new = row.new
        written = new.id not in self._dirty.rows
        ended = written and row.state.final
        if ended or new.nbytes > self.LARGE:
            row.new = new._replace(call=_CALL_IN_FILE, extras="")
        if ended and row.outcome is not None:
            row.outcome = _ENDS_IN_FILE[row.state]

    def _lighten_chunk(self, row: Row, chunk: Chunk) -> None:
        stream = row.stream
        if stream and chunk in stream[chunk.index :][:1] and chunk.payload.nbytes > self.LARGE:
            stream[chunk.index] = Chunk(chunk.index, _IN_FILE)

    def _failed(self) -> None:
        """Put back what could not be written; jobs that nobody was promised are refused."""
        with self._lock:
            for row in list(self._taken.rows.values()):
                if not row.mark and row.state is JobState.IN_QUEUE and self._is_here(row):
                    self._refuse(row)
            self._dirty = self._taken.followed_by(self._dirty, self._is_here)
            self._taken = Changes()

    def _is_here(self, row: Row) -> bool:
        return self._rows.get(row.new.id) is row

    def _refuse(self, row: Row) -> None:
        queue = self._queue(row.new.endpoint)
        queue.take_out(row)
        queue.count(row, -1)
        del self._rows[row.new.id]
        # Whoever waits for its end, such as the job that has submitted it, hears it by `expire`.
        text = f"job {row.new.id} could not be written to the server's disk: {self._journal.broken}"
        failure = capture(StoreFullError(text), origin="system")
        row.state, row.outcome = JobState.FAILED, Outcome(JobState.FAILED, failure=failure)
        row.finished_at = self._clock()
        self._unheard.append(row)

    # When the file is opened

    def _load(self, path: Path) -> None:
        try:
            with self._lock:
                for endpoint, *tally in self._reader.execute("SELECT * FROM tallies"):
                    self._gone[endpoint] = Tally(*tally)
                    self._queue(endpoint).add(Tally(*tally))
                for endpoint, *tally in self._reader.execute(_SHOWN):
                    self._queue(endpoint).add(Tally(*tally))
                rows = [self._restored(*found) for found in self._reader.execute(_LOAD)]
                self._enter(sorted(rows, key=lambda row: row.number))
        except (sqlite3.DatabaseError, LookupError, TypeError, ValueError) as error:
            self._journal.close()
            self._reader.close()
            raise ConfigurationError(
                f"{path} is damaged: {error}; put a backup in its place (flash server restore)"
            ) from None

    def _restored(
        self,
        key: int,
        job_id: str,
        endpoint: str,
        depth: int,
        call: bytes | None,
        number: int,
        state: str,
        attempt: int,
        deaths: int,
        worker: str,
        created_at: float,
        started_at: float | None,
        finished_at: float | None,
        told: int,
        chunks: int,
    ) -> Row:
        if call is None:
            raise FrameError(f"the job {job_id} has no call")
        row = Row(records.call_from_bytes(job_id, endpoint, call), key, number, depth, created_at)
        row.state, row.attempt, row.deaths = JobState(state), attempt, deaths
        row.worker, row.started_at, row.finished_at = worker, started_at, finished_at
        row.stream = [Chunk(index, _IN_FILE) for index in range(chunks)]
        row.told, row.mark = bool(told), 1
        if row.state.final:
            row.outcome = _ENDS_IN_FILE[row.state]
        self._lighten(row)
        return row

    def _enter(self, rows: Sequence[Row]) -> None:
        self._rows = {row.new.id: row for row in rows}
        self._accepted = rows[-1].number if rows else 0  # (no key is above its number)
        for row in sorted((row for row in rows if row.state.final), key=_end):
            self._file(row)
        for row in rows:
            if not row.state.final:
                self._take_up(row)

    def _take_up(self, row: Row) -> None:
        self._limit_life(row)
        if row.state is JobState.IN_PROGRESS:
            self._lapse(row)
        else:
            self._queue(row.new.endpoint).put(row)


def _end(row: Row) -> float:
    return row.finished_at or 0.0


def _size(payload: Payload | None) -> int:
    return 0 if payload is None else payload.nbytes


def _too_large(what: str) -> str:
    most = records.MOST_BYTES / 1e6
    return f"{what} take more than the {most:.0f} MB that a server keeps; pass it through a volume"


def _unkept(what: str) -> Outcome:
    failure = capture(PayloadTooLargeError(_too_large(what)), origin="system")
    return Outcome(JobState.FAILED, failure=failure)
