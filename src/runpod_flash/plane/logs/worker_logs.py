"""The logs of a server's workers: taken from the plane's events, kept in files, followed live."""

from __future__ import annotations

import asyncio
import threading
import time
from itertools import islice
from typing import TYPE_CHECKING

from runpod_flash.plane.events import Logged, Notice, WorkerEnded, WorkerReady, WorkerStarted
from runpod_flash.plane.logs import reading
from runpod_flash.plane.logs.followers import Follower
from runpod_flash.plane.logs.reading import LogQuery
from runpod_flash.plane.logs.record import Cursor, LogRecord
from runpod_flash.plane.logs.segments import LogBounds, Segments
from runpod_flash.plane.logs.writer import LogWriter

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence
    from pathlib import Path

    from runpod_flash.plane.events import Event, EventStream
    from runpod_flash.plane.logs.record import Source
    from runpod_flash.plane.logs.segments import Segment

_BOUNDS = LogBounds()
_BATCH = 500
_LONGEST_LINE = 64 << 10
# A reader that is so many lines behind is cut off.
_FOLLOWER_LINES = 10_000


class WorkerLogs:
    """`request_of` gives the id of the request that made a job. Lines may come on any thread."""

    def __init__(
        self,
        root: Path,
        events: EventStream,
        request_of: Callable[[str], str],
        bounds: LogBounds = _BOUNDS,
        clock: Callable[[], float] = time.time,
        follower_lines: int = _FOLLOWER_LINES,
    ) -> None:
        self._request_of = request_of
        self._clock = clock
        self._follower_lines = follower_lines
        self._segments = Segments(root, bounds)
        self._writer = LogWriter(self._segments, self._now)
        self._followers: list[Follower] = []
        self._lock = threading.Lock()
        self._last = Cursor()
        kinds = (Logged, Notice, WorkerStarted, WorkerReady, WorkerEnded)
        events.subscribe(self._take, *kinds)

    def close(self) -> None:
        """Write what is left."""
        self._writer.close()

    # Lines in

    def _take(self, event: Event) -> None:
        if isinstance(event, Logged):
            line = event.line
            request_id = self._request_of(line.job_id) if line.job_id else ""
            about = (line.stream, line.job_id, request_id)
            self._add(event.endpoint, line.worker_id, "container", line.text, *about)
        elif isinstance(event, Notice):
            self._add(event.endpoint, "", "system", event.text)
        elif isinstance(event, WorkerStarted):
            self._add(event.endpoint, event.worker_id, "system", "started")
        elif isinstance(event, WorkerReady):
            self._add(
                event.endpoint, event.worker_id, "system", f"ready after {event.seconds:.2f} s"
            )
        elif isinstance(event, WorkerEnded):
            self._add(event.endpoint, event.worker_id, "system", event.reason)
            self._writer.finish(event.endpoint, event.worker_id)

    def _add(
        self,
        endpoint: str,
        worker: str,
        source: Source,
        text: str,
        stream: str = "",
        job: str = "",
        request_id: str = "",
    ) -> None:
        with self._lock:
            # (A clock that is set back must not turn the order around.)
            at = max(self._now(), self._last.at)
            self._last = cursor = Cursor(at, self._last.number + 1)
            text = text[:_LONGEST_LINE]
            record = LogRecord(cursor, endpoint, worker, source, text, stream, job, request_id)
            self._writer.add(record)
            for follower in self._followers:
                follower.offer(record)

    def _now(self) -> int:
        return int(self._clock() * 1_000_000)

    # Lines out

    def has(self, endpoint: str, worker: str) -> bool:
        """Whether anything of the worker is kept."""
        return bool(self._segments.of(endpoint, worker))

    def endpoint_of(self, worker: str) -> str:
        """The endpoint of a worker of which something is kept; empty if there is none."""
        query = LogQuery(worker=worker, tail=1)
        found = reading.tail(self._segments.of(worker=worker), query)
        return found[0].endpoint if found else ""

    async def tail(self, query: LogQuery) -> list[LogRecord]:
        """The last lines, the oldest first."""
        await self._flushed()
        return await asyncio.to_thread(reading.tail, self._of(query), query)

    def follower(self, query: LogQuery) -> Follower:
        """Somebody who gets the lines that are written from now on, until `leave`."""
        follower = Follower(query.wants, self._follower_lines)
        with self._lock:
            self._followers.append(follower)
        return follower

    def leave(self, follower: Follower) -> None:
        with self._lock:
            self._followers.remove(follower)

    async def read(
        self, query: LogQuery, follower: Follower | None = None
    ) -> AsyncIterator[Sequence[LogRecord]]:
        """Lines in batches: those that are kept, then those of the follower, without end."""
        last = query.after
        if last is None:
            kept = await self.tail(query)
            yield kept
            last = kept[-1].cursor if kept else Cursor()
        else:
            await self._flushed()
            async for batch in self._after(query, last):
                yield batch
                last = batch[-1].cursor
        while follower is not None:
            fresh = [record for record in await follower.next() if record.cursor > last]
            if fresh:
                yield fresh

    async def _after(self, query: LogQuery, cursor: Cursor) -> AsyncIterator[list[LogRecord]]:
        found = reading.after(self._of(query), query, cursor)
        while batch := await asyncio.to_thread(lambda: list(islice(found, _BATCH))):
            yield batch

    def _of(self, query: LogQuery) -> list[Segment]:
        return self._segments.of(query.endpoint, query.worker)

    async def _flushed(self) -> None:
        await asyncio.wrap_future(self._writer.flush())
