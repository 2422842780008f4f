"""Lines out of files, in the order of their cursors. Blocks: call it in a thread."""

from __future__ import annotations

import heapq
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from runpod_flash.plane.logs.record import from_line

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from runpod_flash.plane.logs.record import Cursor, LogRecord, Source
    from runpod_flash.plane.logs.segments import Segment


@dataclass(frozen=True)
class LogQuery:
    """Whose lines: of an endpoint (empty: all), one of its workers, one source.

    `request` is the id of the request that the lines' jobs come from (empty: of any, or none).
    `after` is where the reader was; without it, the last `tail` lines come first. With `follow`,
    lines are given as they are written.
    """

    endpoint: str = ""
    worker: str | None = None
    source: Source | None = None
    request: str = ""
    tail: int = 100
    after: Cursor | None = None
    follow: bool = False

    def wants(self, record: LogRecord) -> bool:
        return (
            self.endpoint in ("", record.endpoint)
            and self.worker in (None, record.worker)
            and self.source in (None, record.source)
            and self.request in ("", record.request_id)
        )


def tail(segments: Sequence[Segment], query: LogQuery) -> list[LogRecord]:
    """The last lines, the oldest first."""
    kept: list[LogRecord] = []
    for segment in sorted(segments, key=lambda each: each.last, reverse=True):
        if query.tail <= 0 or (len(kept) == query.tail and segment.last < kept[0].cursor.at):
            break
        found = [record for record in _records(segment) if query.wants(record)]
        kept = sorted([*kept, *found])[-query.tail :]
    return kept


def after(segments: Sequence[Segment], query: LogQuery, cursor: Cursor) -> Iterator[LogRecord]:
    """The lines after a cursor. Only pieces whose times overlap are open at once."""
    coming = [each for each in segments if each.last >= cursor.at]
    coming.sort(key=lambda each: each.start, reverse=True)
    heads: list[tuple[LogRecord, int, Iterator[LogRecord]]] = []
    while coming or heads:
        while coming and (not heads or coming[-1].start <= heads[0][0].cursor.at):
            _push(heads, len(coming), _records(coming.pop()))
        if not heads:
            continue
        record, number, rest = heapq.heappop(heads)
        _push(heads, number, rest)
        if record.cursor > cursor and query.wants(record):
            yield record


def _push(
    heads: list[tuple[LogRecord, int, Iterator[LogRecord]]], number: int, rest: Iterator[LogRecord]
) -> None:
    record = next(rest, None)
    if record is not None:
        heapq.heappush(heads, (record, number, rest))


def _records(segment: Segment) -> Iterator[LogRecord]:
    """The whole lines of a file; none where it has been removed meanwhile."""
    with suppress(FileNotFoundError), segment.path.open("rb") as file:
        for line in file:
            record = from_line(line)
            if record is not None:
                yield record
