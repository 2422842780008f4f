"""The server's store: that of memory, with all that changes written to a SQLite file.

Commands act on memory at once, so that dispatch never waits for a disk; `durable` is what every
answer to a client waits for. Large values are dropped from memory once they are in the file, and
read again when they are needed. One process has the file (`control/data_dir`), so that whatever ran
when it is opened has lost its plane: it is queued again, which costs no attempt.
"""

from __future__ import annotations

import threading
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from runpod_flash.errors import StoreFullError
from runpod_flash.plane.store import records
from runpod_flash.plane.store.base import Accepted, Chunk, JobState, NewJob, Outcome, Tally
from runpod_flash.plane.store.database import PAGE_BYTES, connect, prepare
from runpod_flash.plane.store.journal import Journal
from runpod_flash.plane.store.memory import MemoryStore
from runpod_flash.plane.store.rows import Row
from runpod_flash.wire.codec import Payload

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from runpod_flash.plane.store.base import Job, Lease
    from runpod_flash.plane.store.journal import Write
    from runpod_flash.plane.store.rows import Queue

# In the place of a value that is in the file only.
_IN_FILE = Payload(b"")
# Results of accepted jobs find room where new jobs do not.
_HEADROOM = 1.25
_FREE_BYTES = 64 << 20

_INSERT = (
    "INSERT INTO jobs (id, endpoint, depth, call, number, state, attempt, deaths, worker,"
    " created_at, started_at, finished_at, told, outcome) VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?,?)"
)
_UPDATE = (
    "UPDATE jobs SET number=?, state=?, attempt=?, deaths=?, worker=?, created_at=?, started_at=?,"
    " finished_at=?, told=?, outcome=? WHERE id=?"
)
_DELETE = "DELETE FROM jobs WHERE id=?"
_ADD_CHUNK = "INSERT INTO chunks (job, number, value) VALUES (?,?,?)"
_DROP_CHUNKS = "DELETE FROM chunks WHERE job=?"
_TELL = "UPDATE jobs SET told=? WHERE id=?"
_TALLY = "INSERT OR REPLACE INTO tallies (endpoint, completed, failed, retried) VALUES (?,?,?,?)"
_LOAD = (
    "SELECT id, endpoint, depth, call, number, state, attempt, deaths, worker, created_at,"
    " started_at, finished_at, told, (SELECT count(*) FROM chunks WHERE job=id) FROM jobs"
    " ORDER BY number"
)


class _ForgottenError(LookupError):
    """A job was forgotten while it was looked at."""


class _Dirty(NamedTuple):
    """What one transaction is to write."""

    rows: dict[str, Row]
    chunks: list[tuple[Row, Chunk]]
    restarted: list[str]
    gone: list[str]
    told: list[Row]
    tallies: dict[str, Tally]


def _nothing() -> _Dirty:
    return _Dirty({}, [], [], [], [], {})


@dataclass(frozen=True)
class Bounds:
    """The size of the file from which on new jobs are refused, and what the disk must have left."""

    max_bytes: int = 10 << 30
    min_free_bytes: int = 64 << 20


class SqliteStore(MemoryStore):
    """`Store` in the file `path`; `clock` gives seconds since 1970."""

    # Values above so many bytes do not stay in memory.
    LARGE = 16 << 10

    def __init__(self, path: Path, clock: Callable[[], float], bounds: Bounds = Bounds()) -> None:
        super().__init__(clock)
        prepare(path)
        self._bounds = bounds
        self._dirty = _nothing()
        self._taken = self._dirty
        self._reader = connect(path)
        self._reading = threading.Lock()
        pages = int(bounds.max_bytes * _HEADROOM) // PAGE_BYTES
        self._journal = Journal(path, self._take, self._written, self._failed, pages)
        self._load()

    # Commands that differ from memory's

    async def submit(
        self, jobs: Sequence[NewJob], claim: Lease | None = None, worker: str = ""
    ) -> Sequence[Accepted]:
        self._check_room()
        return await super().submit(jobs, claim, worker)

    async def claim(
        self, endpoint: str, limit: int, lease: Lease, worker: str = ""
    ) -> Sequence[Job]:
        claimed = await super().claim(endpoint, limit, lease, worker)
        return [self._with_call(job) for job in claimed]

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

    async def durable(self) -> None:
        await self._journal.durable()

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
        if journal.free_bytes < bounds.min_free_bytes:
            raise StoreFullError(
                f"the server's disk has {journal.free_bytes / 1e6:.0f} MB left; try again when "
                "it has room"
            )

    # Values that are in the file only

    def _with_call(self, job: Job) -> Job:
        if job.call.payload is not _IN_FILE:
            return job
        (data,) = self._read("SELECT call FROM jobs WHERE id=?", job.id)
        return job._replace(call=records.call_from_bytes(job.id, job.endpoint, data).call)

    def _with_outcome(self, job: Job) -> Job:
        if job.outcome is None or job.outcome.payload is not _IN_FILE:
            return job
        (data,) = self._read("SELECT outcome FROM jobs WHERE id=?", job.id)
        return job._replace(outcome=records.outcome_from_bytes(job.state, data))

    def _with_value(self, job_id: str, chunk: Chunk) -> Chunk:
        if chunk.payload is not _IN_FILE:
            return chunk
        where = "SELECT value FROM chunks WHERE job=? AND number=?"
        (data,) = self._read(where, job_id, chunk.index)
        return Chunk(chunk.index, records.value_from_bytes(data))

    def _read(self, query: str, *parameters: object) -> tuple[bytes]:
        with self._reading:
            found: tuple[bytes] | None = self._reader.execute(query, parameters).fetchone()
        if found is None:
            raise _ForgottenError(f"{parameters[0]} is not in the file any more")
        return found

    # What changes (under the lock)

    def _keep(self, row: Row) -> None:
        self._dirty.rows[row.new.id] = row
        self._journal.changed()

    def _keep_chunk(self, row: Row, chunk: Chunk) -> None:
        self._dirty.chunks.append((row, chunk))

    def _keep_no_chunks(self, row: Row) -> None:
        self._dirty.chunks[:] = [kept for kept in self._dirty.chunks if kept[0] is not row]
        self._dirty.restarted.append(row.new.id)

    def _drop(self, row: Row) -> None:
        super()._drop(row)
        self._keep_no_chunks(row)
        self._dirty.rows.pop(row.new.id, None)
        self._dirty.gone.append(row.new.id)
        self._journal.changed()

    def _keep_told(self, row: Row) -> None:
        # (Not by `_keep`: the outcome may be in the file only.)
        self._dirty.told.append(row)
        self._journal.changed()

    def _keep_tally(self, endpoint: str, queue: Queue) -> None:
        self._dirty.tallies[endpoint] = queue.tally

    # On the journal's thread

    def _take(self) -> list[Write]:
        with self._lock:
            taken, self._dirty = self._dirty, _nothing()
            self._taken = taken
            states = [(row, row.mark, _state(row), row.outcome) for row in taken.rows.values()]
            told: list[tuple[object, ...]] = [(row.told, row.new.id) for row in taken.told]
        inserted, updated = [], []
        for row, mark, state, outcome in states:
            ended = None if outcome is None else records.outcome_to_bytes(outcome)
            new = row.new
            if mark:
                updated.append((*state, ended, new.id))
            else:
                call = records.call_to_bytes(new)
                inserted.append((new.id, new.endpoint, row.depth, call, *state, ended))
        chunks = [(r.new.id, c.index, records.value_to_bytes(c.payload)) for r, c in taken.chunks]
        writes: list[Write] = [
            (_DELETE, [(job_id,) for job_id in taken.gone]),
            (_DROP_CHUNKS, [(job_id,) for job_id in taken.restarted]),
            (_INSERT, list(inserted)),
            (_UPDATE, list(updated)),
            (_ADD_CHUNK, list(chunks)),
            (_TELL, told),
            (_TALLY, [(endpoint, *tally) for endpoint, tally in taken.tallies.items()]),
        ]
        return [write for write in writes if write[1]]

    def _written(self) -> None:
        """Let go of large values that are in the file now."""
        with self._lock:
            for row in self._taken.rows.values():
                row.mark = 1
                self._lighten(row)
            for row, chunk in self._taken.chunks:
                self._lighten_chunk(row, chunk)
            self._taken = _nothing()

    def _lighten(self, row: Row) -> None:
        call = row.new.call
        if call.payload.nbytes > self.LARGE or _size(call.constructor) > self.LARGE:
            row.new = row.new._replace(call=call._replace(payload=_IN_FILE, constructor=None))
        changed = row.new.id in self._dirty.rows
        if not changed and row.outcome is not None and _outcome_size(row.outcome) > self.LARGE:
            row.outcome = row.outcome._replace(payload=_IN_FILE, failure=None)

    def _lighten_chunk(self, row: Row, chunk: Chunk) -> None:
        stream = row.stream
        if stream and chunk in stream[chunk.index :][:1] and chunk.payload.nbytes > self.LARGE:
            stream[chunk.index] = Chunk(chunk.index, _IN_FILE)

    def _failed(self) -> None:
        """Put back what could not be written; jobs that nobody was promised are refused."""
        with self._lock:
            taken, fresh = self._taken, self._dirty
            for row in list(taken.rows.values()):
                if not row.mark and row.state is JobState.IN_QUEUE and self._is_here(row):
                    self._refuse(row)
            rows = {**taken.rows, **fresh.rows}
            self._dirty = _Dirty(
                {key: row for key, row in rows.items() if self._rows.get(key) is row},
                [each for each in (*taken.chunks, *fresh.chunks) if self._is_here(each[0])],
                [*taken.restarted, *fresh.restarted],
                [*taken.gone, *fresh.gone],
                [*taken.told, *fresh.told],
                {**taken.tallies, **fresh.tallies},
            )
            self._taken = _nothing()

    def _is_here(self, row: Row) -> bool:
        return self._rows.get(row.new.id) is row

    def _refuse(self, row: Row) -> None:
        queue = self._queue(row.new.endpoint)
        queue.take_out(row)
        queue.count(row, -1)
        del self._rows[row.new.id]

    # When the file is opened

    def _load(self) -> None:
        with self._lock:
            for endpoint, *tally in self._reader.execute("SELECT * FROM tallies"):
                self._queue(endpoint).tally = Tally(*tally)
            for found in self._reader.execute(_LOAD):
                self._restore(*found)

    def _restore(
        self,
        job_id: str,
        endpoint: str,
        depth: int,
        call: bytes,
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
    ) -> None:
        row = Row(records.call_from_bytes(job_id, endpoint, call), number, depth, created_at)
        row.state, row.attempt, row.deaths = JobState(state), attempt, deaths
        row.worker, row.started_at, row.finished_at = worker, started_at, finished_at
        row.stream = [Chunk(index, _IN_FILE) for index in range(chunks)]
        row.told, row.mark = bool(told), 1
        self._rows[job_id] = row
        self._accepted = max(self._accepted, number)
        self._lighten(row)
        if row.state.final:
            row.outcome = Outcome(row.state, _IN_FILE)
            self._file(row)
            return
        self._limit_life(row)
        if row.state is JobState.IN_PROGRESS:
            self._lapse(row)
        else:
            self._queue(endpoint).put(row)


def _state(row: Row) -> tuple[object, ...]:
    return (
        row.number,
        row.state.value,
        row.attempt,
        row.deaths,
        row.worker,
        row.created_at,
        row.started_at,
        row.finished_at,
        row.told,
    )


def _outcome_size(outcome: Outcome) -> int:
    failure = outcome.failure
    return _size(outcome.payload) + (0 if failure is None else len(failure.traceback))


def _size(payload: Payload | None) -> int:
    return 0 if payload is None else payload.nbytes
