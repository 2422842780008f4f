"""What has changed in memory and is not in the file yet, as the statements of one transaction."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from runpod_flash.plane.store import records

if TYPE_CHECKING:
    from collections.abc import Callable

    from runpod_flash.plane.store.base import Chunk, Outcome, Tally
    from runpod_flash.plane.store.rows import Row

Write = tuple[str, "list[tuple[object, ...]]"]  # a statement, and its parameters for each row

_INSERT = (
    "INSERT INTO jobs (key, id, endpoint, depth, number, state, attempt, deaths, worker,"
    " created_at, started_at, finished_at, told, outcome, call)"
    " VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?,?,?)"
)
_ADD_CALL = "INSERT INTO calls (job, value) VALUES (?,?)"
_UPDATE = (
    "UPDATE jobs SET number=?, state=?, attempt=?, deaths=?, worker=?, created_at=?, started_at=?,"
    " finished_at=?, told=?, outcome=? WHERE key=?"
)
_DELETE = "DELETE FROM jobs WHERE key=?"
_ADD_CHUNK = "INSERT INTO chunks (job, number, value) VALUES (?,?,?)"
_DROP_CHUNKS = "DELETE FROM chunks WHERE job=?"
_TELL = "UPDATE jobs SET told=? WHERE key=?"
_TALLY = "INSERT OR REPLACE INTO tallies (endpoint, completed, failed, retried) VALUES (?,?,?,?)"


# What is light has at most so many rows, and bytes of values.
_LIGHT_ROWS = 64
_LIGHT_BYTES = 256 << 10
# A call of so many bytes has a row of its own: that of its job is written anew when it changes.
_SMALL_BYTES = 4 << 10


class _Seen(NamedTuple):
    """A row at one moment: others go on changing it.

    `whole` is whether its call is written with it: the row is not written again, or that is cheap.
    """

    row: Row
    known: bool
    whole: bool
    state: tuple[object, ...]
    outcome: Outcome | None


@dataclass(slots=True)
class Changes:
    """Changed rows, new chunks, jobs whose streams begin anew, forgotten ones, and tallies.

    Changed and looked at under the store's lock, but for `statements`.
    """

    rows: dict[str, Row] = field(default_factory=dict)
    chunks: list[tuple[Row, Chunk]] = field(default_factory=list)
    restarted: list[int] = field(default_factory=list)
    gone: list[int] = field(default_factory=list)
    told: list[Row] = field(default_factory=list)
    tallies: dict[str, Tally] = field(default_factory=dict)

    def restart(self, row: Row) -> None:
        """The row's stream begins anew."""
        self._leave_out_chunks(row)
        self.restarted.append(row.key)

    def drop(self, row: Row) -> None:
        """The row is forgotten, and with it the chunks that the file has."""
        self._leave_out_chunks(row)
        self.rows.pop(row.new.id, None)
        self.gone.append(row.key)

    def _leave_out_chunks(self, row: Row) -> None:
        if self.chunks:
            self.chunks = [kept for kept in self.chunks if kept[0] is not row]

    def followed_by(self, later: Changes, is_here: Callable[[Row], bool]) -> Changes:
        """These could not be written: they and `later` ones, for a transaction of both."""
        rows = {**self.rows, **later.rows}
        return Changes(
            {job_id: row for job_id, row in rows.items() if is_here(row)},
            [(r, c) for r, c in (*self.chunks, *later.chunks) if is_here(r) and _has(r, c)],
            [*self.restarted, *later.restarted],
            [*self.gone, *later.gone],
            [*self.told, *later.told],
            {**self.tallies, **later.tallies},
        )

    def is_light(self) -> bool:
        """Whether it is written in a moment, on a disk that is fast."""
        several = len(self.rows) + len(self.chunks) + len(self.gone) + len(self.told)
        if several > _LIGHT_ROWS:
            return False
        size = sum(chunk.payload.nbytes for _, chunk in self.chunks)
        for row in self.rows.values():
            outcome = row.outcome
            size += 0 if row.mark else row.new.call.payload.nbytes
            size += outcome.payload.nbytes if outcome and outcome.payload else 0
        return size < _LIGHT_BYTES

    def look(self) -> list[_Seen]:
        """The changed rows as they are now."""
        return [_seen(row) for row in self.rows.values()]

    def statements(self, seen: list[_Seen]) -> list[Write]:
        """What `look` saw, and all else, in an order in which it can be written."""
        new = [each for each in seen if not each.known]
        writes: list[Write] = [
            (_DELETE, [(key,) for key in self.gone]),
            (_DROP_CHUNKS, [(key,) for key in self.restarted]),
            (_INSERT, [_inserted(each) for each in new]),
            (_ADD_CALL, [_call(each.row) for each in new if not each.whole]),
            (_UPDATE, [_updated(each) for each in seen if each.known]),
            (_ADD_CHUNK, [_added(row, chunk) for row, chunk in self.chunks]),
            (_TELL, [(row.told, row.key) for row in self.told]),
            (_TALLY, [(endpoint, *tally) for endpoint, tally in self.tallies.items()]),
        ]
        return [write for write in writes if write[1]]


def _has(row: Row, chunk: Chunk) -> bool:
    """Whether it belongs to the present stream: a job that was retried has begun another."""
    return (
        chunk.index < row.streamed and row.stream is not None and row.stream[chunk.index] is chunk
    )


def _seen(row: Row) -> _Seen:
    outcome = row.outcome
    whole = outcome is not None and row.new.nbytes <= _SMALL_BYTES
    return _Seen(row, bool(row.mark), whole, _state(row), outcome)


def _inserted(seen: _Seen) -> tuple[object, ...]:
    new = seen.row.new
    call = records.call_to_bytes(new) if seen.whole else None
    return (seen.row.key, new.id, new.endpoint, seen.row.depth, *seen.state, _outcome(seen), call)


def _call(row: Row) -> tuple[object, ...]:
    return (row.key, records.call_to_bytes(row.new))


def _updated(seen: _Seen) -> tuple[object, ...]:
    return (*seen.state, _outcome(seen), seen.row.key)


def _outcome(seen: _Seen) -> bytes | None:
    return None if seen.outcome is None else records.outcome_to_bytes(seen.outcome)


def _added(row: Row, chunk: Chunk) -> tuple[object, ...]:
    return (row.key, chunk.index, records.value_to_bytes(chunk.payload))


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
