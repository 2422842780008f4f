"""The thread that writes lines to the disk, so that nobody who has one waits for it."""

from __future__ import annotations

import logging
import threading
from collections import deque
from concurrent.futures import Future
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from runpod_flash.plane.logs.record import LogRecord
    from runpod_flash.plane.logs.segments import Segments

# Lines that the disk may be behind by, and their characters.
_MOST_LINES = 20_000
_MOST_CHARACTERS = 32_000_000
# Without anything to write, old files are looked for so often.
_SWEEP_SECONDS = 60.0
_CLOSE_SECONDS = 5.0


class LogWriter:
    """Takes lines from any thread. `now` gives microseconds since 1970."""

    def __init__(self, segments: Segments, now: Callable[[], int]) -> None:
        self._segments = segments
        self._now = now
        self._changed = threading.Condition()
        self._lines: deque[LogRecord] = deque()
        self._characters = 0
        self._dropped = 0
        self._ended: list[tuple[str, str]] = []
        self._flushes: list[Future[None]] = []
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="flash-logs", daemon=True)
        self._thread.start()

    def add(self, record: LogRecord) -> None:
        """Write a line soon; it is dropped where the disk is too far behind."""
        with self._changed:
            if len(self._lines) >= _MOST_LINES or self._characters >= _MOST_CHARACTERS:
                self._dropped += 1
                return
            self._lines.append(record)
            self._characters += len(record.text)
            if len(self._lines) == 1:
                self._changed.notify()

    def finish(self, endpoint: str, worker: str) -> None:
        """Nothing more comes from that worker."""
        with self._changed:
            self._ended.append((endpoint, worker))

    def flush(self) -> Future[None]:
        """Done once everything that was added before is in its file."""
        done: Future[None] = Future()
        with self._changed:
            if self._closing:
                done.set_result(None)
            else:
                self._flushes.append(done)
                self._changed.notify()
        return done

    def close(self) -> None:
        """Write what is left; waits for it, within reason."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join(_CLOSE_SECONDS)

    # On the thread

    def _run(self) -> None:
        closing = False
        while not closing:
            with self._changed:
                if not (self._lines or self._flushes or self._closing):
                    self._changed.wait(_SWEEP_SECONDS)
                lines, self._lines, self._characters = self._lines, deque(), 0
                flushes, self._flushes = self._flushes, []
                ended, self._ended = self._ended, []
                dropped, self._dropped = self._dropped, 0
                closing = self._closing
            self._write(lines, dropped)
            for owner in ended:
                self._segments.finish(*owner)
            for done in flushes:
                if done.set_running_or_notify_cancel():  # its reader may have left
                    done.set_result(None)

    def _write(self, lines: deque[LogRecord], dropped: int) -> None:
        log = logging.getLogger(__name__)
        if dropped:
            log.warning("%d lines of workers were not kept: the disk is too slow", dropped)
        try:
            self._segments.write(lines)
            self._segments.trim(self._now())
        except Exception:  # the lines that come after these have a right to be kept
            log.exception("%d lines of workers may not have been kept", len(lines))
