"""What user code prints and logs, as log frames: by line, as it happens, with its job."""

from __future__ import annotations

import io
import logging
import os
import sys
import threading
from typing import TYPE_CHECKING, Any

from runpod_flash.context import current_job
from runpod_flash.wire.frames import Frame

if TYPE_CHECKING:
    from collections.abc import Callable

_MAX_LINE = 64 << 10


class _LineSink(io.BufferedIOBase):
    """A stream that hands over whole lines; of a line rewritten by `\\r`, the last state."""

    def __init__(self, fd: int, stream: str, send: Callable[[Frame], None]) -> None:
        self._fd = fd
        self.name = f"<{stream}>"
        self._stream = stream
        self._send = send
        self._partial: dict[str, bytearray] = {}
        self._lock = threading.Lock()

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        # A subprocess that is given this stream writes to the process's own output.
        return self._fd

    def write(self, written: Any, /) -> int:
        data = bytes(written)
        job = current_job.get()
        with self._lock:
            pending = self._partial.setdefault(job, bytearray())
            pending += data
            if b"\n" not in data and len(pending) < _MAX_LINE:
                return len(data)
            lines = pending.split(b"\n")
            self._partial[job] = lines.pop()
            if len(self._partial[job]) >= _MAX_LINE:
                lines.append(self._partial.pop(job))
            for line in lines:
                self._emit(job, line)
        return len(data)

    def end_job(self, job: str) -> None:
        """Hand over a last line without an end."""
        with self._lock:
            rest = self._partial.pop(job, None)
            if rest:
                self._emit(job, rest)

    def _emit(self, job: str, line: bytearray) -> None:
        text = line.removesuffix(b"\r").rpartition(b"\r")[2].decode(errors="replace")
        self._send(Frame("log", {"stream": self._stream, "text": text, "job": job}))


class Output:
    """Replaces `sys.stdout` and `sys.stderr`. File descriptors 1 and 2 stay the process's own."""

    def __init__(self, send: Callable[[Frame], None]) -> None:
        self._sinks = (_LineSink(1, "stdout", send), _LineSink(2, "stderr", send))
        sys.stdout, sys.stderr = (self._text(sink) for sink in self._sinks)
        os.register_at_fork(after_in_child=self._leave)

    def end_job(self, job: str) -> None:
        for sink in self._sinks:
            if sink._partial:
                sink.end_job(job)

    @staticmethod
    def _text(sink: _LineSink) -> io.TextIOWrapper:
        # Not buffered (`write_through`): the line is sent by the thread that wrote it.
        return io.TextIOWrapper(sink, encoding="utf-8", errors="replace", write_through=True)

    @staticmethod
    def _leave() -> None:
        """A forked child must not write frames: it has its parent's link."""
        sys.stdout, sys.stderr = _own_output(1), _own_output(2)


def _own_output(fd: int) -> Any:
    try:
        return open(fd, "w", closefd=False)
    except OSError:  # closed: None is what a Python that starts without one has, too
        return None


def configure_logging() -> None:
    """Show INFO and above unless the user's modules have set logging up themselves."""
    if not logging.getLogger().handlers:
        level = os.environ.get("LOG_LEVEL", "INFO").upper()
        known = logging.getLevelName(level)
        logging.basicConfig(
            level=known if isinstance(known, int) else logging.INFO,
            format="%(levelname)s %(name)s: %(message)s",
            stream=sys.stderr,
        )
