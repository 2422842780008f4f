"""The files of logs: a folder for each endpoint, and in it each worker's lines in pieces.

    LOGS/ENDPOINT/WORKER.START.jsonl      START: the time of the first line

A piece that has reached its size is followed by another. What is over the bound goes piece by
piece, the one that was written longest ago first.
"""

from __future__ import annotations

import hashlib
import logging
import threading
from collections import OrderedDict
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import quote

from runpod_flash.plane.logs.record import to_line

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from runpod_flash.plane.logs.record import LogRecord

_SUFFIX = ".jsonl"
# What a file takes at least.
_BLOCK = 4096
_LONGEST_NAME = 150


@dataclass(frozen=True)
class LogBounds:
    """How much is kept: bytes and files in all, and seconds. A piece has `piece_bytes` at most."""

    max_bytes: int = 1_000_000_000
    max_files: int = 20_000
    max_seconds: float = 7 * 86_400.0
    piece_bytes: int = 8_000_000


@dataclass(eq=False)
class Segment:
    """A file: the times of its first and last line in microseconds, and its bytes."""

    path: Path
    start: int
    last: int
    size: int = 0

    @property
    def cost(self) -> int:
        return max(self.size, _BLOCK)

    @property
    def owner(self) -> tuple[str, str]:
        return self.path.parent.name, self.path.name.split(".")[0]


class Segments:
    """Written by one thread; any thread may look."""

    def __init__(self, root: Path, bounds: LogBounds) -> None:
        self._root = root
        self._bounds = bounds
        self._lock = threading.Lock()
        # In the order in which they were last written.
        self._all: OrderedDict[Path, Segment] = OrderedDict()
        self._open: dict[tuple[str, str], Segment] = {}
        self._bytes = 0
        root.mkdir(parents=True, exist_ok=True, mode=0o700)
        for segment in sorted(_found(root), key=lambda each: each.last):
            self._all[segment.path] = segment
            self._bytes += segment.cost

    def of(self, endpoint: str = "", worker: str | None = None) -> list[Segment]:
        """The pieces of a worker, of an endpoint, or all, by their first lines."""
        folder = file_name(endpoint) if endpoint else None
        file = None if worker is None else file_name(worker)
        with self._lock:
            found = [
                segment
                for segment in self._all.values()
                if folder in (None, segment.owner[0]) and file in (None, segment.owner[1])
            ]
        return sorted(found, key=lambda each: each.start)

    def write(self, records: Iterable[LogRecord]) -> None:
        """Append lines, in their order. One file that cannot be written costs the others none."""
        by_worker: dict[tuple[str, str], list[LogRecord]] = {}
        for record in records:
            by_worker.setdefault((record.endpoint, record.worker), []).append(record)
        for (endpoint, worker), lines in by_worker.items():
            try:
                self._append((file_name(endpoint), file_name(worker)), lines)
            except OSError as error:
                text = "%d lines of %s were not kept: %s"
                logging.getLogger(__name__).warning(text, len(lines), worker or endpoint, error)

    def _append(self, owner: tuple[str, str], records: list[LogRecord]) -> None:
        data = b"".join(map(to_line, records))
        segment = self._segment(owner, records[0], len(data))
        with segment.path.open("ab") as file:
            file.write(data)
        with self._lock:
            self._bytes -= segment.cost if segment.path in self._all else 0
            segment.size += len(data)
            segment.last = records[-1].cursor.at
            self._bytes += segment.cost
            self._all[segment.path] = segment
            self._all.move_to_end(segment.path)

    def _segment(self, owner: tuple[str, str], first: LogRecord, size: int) -> Segment:
        segment = self._open.get(owner)
        kept = segment is not None and segment.path in self._all
        if segment is not None and kept and segment.size + size <= self._bounds.piece_bytes:
            return segment
        folder = self._root / owner[0]
        folder.mkdir(exist_ok=True, mode=0o700)
        at = first.cursor.at
        segment = Segment(folder / f"{owner[1]}.{at:016d}{_SUFFIX}", at, at)
        self._open[owner] = segment
        return segment

    def finish(self, endpoint: str, worker: str) -> None:
        """Nothing more comes from that worker."""
        self._open.pop((file_name(endpoint), file_name(worker)), None)

    def trim(self, now: int) -> None:
        """Remove what is over the bounds or too old; `now` in microseconds."""
        oldest = now - int(self._bounds.max_seconds * 1_000_000)
        while True:
            with self._lock:
                first = next(iter(self._all.values()), None)
                if first is None or not (self._is_too_much() or first.last < oldest):
                    return
                del self._all[first.path]
                self._bytes -= first.cost
            first.path.unlink(missing_ok=True)
            with suppress(OSError):  # other pieces are in it
                first.path.parent.rmdir()

    def _is_too_much(self) -> bool:
        return self._bytes > self._bounds.max_bytes or len(self._all) > self._bounds.max_files


def _found(root: Path) -> Iterator[Segment]:
    for path in root.glob(f"*/*{_SUFFIX}"):
        start = path.name.split(".")[1]
        with suppress(OSError):
            stat = path.stat()
            if start.isdigit():
                yield Segment(path, int(start), int(stat.st_mtime * 1_000_000), stat.st_size)


def file_name(name: str) -> str:
    """A name as that of a file, without dots and slashes; no two names have the same one."""
    quoted = quote(name, safe="").replace(".", "%2E") or "%"
    if len(quoted) <= _LONGEST_NAME:
        return quoted
    return f"{quoted[:_LONGEST_NAME]}%{hashlib.sha256(name.encode()).hexdigest()[:16]}"
