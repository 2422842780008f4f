"""Log lines of a server: one JSON object each, or plain ones for a person; written by a thread.

The thread is there since standard error may be a pipe that nobody empties for a while: calls do not
wait for it, and what does not fit meanwhile is dropped and counted.
"""

from __future__ import annotations

import json
import logging
import queue
import sys
import threading
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from runpod_flash.plane import request_ids

if TYPE_CHECKING:
    from typing import TextIO

LOGGER = "runpod_flash"
_MOST_LINES = 10_000
_CLOSE_SECONDS = 2.0


def log(event: str, text: str, level: int = logging.INFO, **fields: Any) -> None:
    """One line: `event` is its kind for programs, `text` its words for people."""
    logger = logging.getLogger(f"{LOGGER}.server")
    if logger.isEnabledFor(level):
        given = {name: value for name, value in fields.items() if value not in ("", None)}
        logger.log(level, text, extra={"flash": {"event": event, **given}})


class JsonLines(logging.Formatter):
    """Formats records as JSON: time, level, event, message, and what else is known."""

    def format(self, record: logging.LogRecord) -> str:
        fields: dict[str, Any] = {
            "time": _time(record.created),
            "level": record.levelname.lower(),
            "event": "message",
            "message": record.getMessage(),
        }
        if record.name.startswith(f"{LOGGER}.gateway") and (request := request_ids.current.get()):
            fields["request_id"] = request
        fields.update(getattr(record, "flash", {}))
        if record.exc_info:
            fields["traceback"] = self.formatException(record.exc_info)
        return json.dumps(fields, default=str)


class PlainLines(logging.Formatter):
    """Formats records as lines for a terminal."""

    def format(self, record: logging.LogRecord) -> str:
        from runpod_flash.client.terminal import line_of

        fields = getattr(record, "flash", {})
        text = line_of(record.getMessage(), fields.get("endpoint", ""))
        if record.exc_info:
            text += f"\n{self.formatException(record.exc_info)}"
        return text


class LogLines:
    """All logging of this process goes to the stream, until `close`."""

    def __init__(self, formatter: logging.Formatter, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stderr
        self._lines: queue.Queue[str | None] = queue.Queue(_MOST_LINES)
        self._dropped = 0
        self._handler = _Handler(self)
        self._handler.setFormatter(formatter)
        root = logging.getLogger()
        root.addHandler(self._handler)
        root.setLevel(logging.WARNING)
        logging.getLogger(LOGGER).setLevel(logging.INFO)
        self._thread = threading.Thread(target=self._write, name="flash-log-lines", daemon=True)
        self._thread.start()

    def put(self, line: str) -> None:
        """Write a line soon; from any thread."""
        try:
            self._lines.put_nowait(line)
        except queue.Full:
            self._dropped += 1

    def close(self) -> None:
        """Write what is left, unless nobody reads it."""
        logging.getLogger().removeHandler(self._handler)
        logging.getLogger(LOGGER).setLevel(logging.NOTSET)
        with suppress(queue.Full):
            self._lines.put(None, timeout=_CLOSE_SECONDS)
        self._thread.join(_CLOSE_SECONDS)

    def _write(self) -> None:
        while (line := self._lines.get()) is not None:
            with suppress(OSError, ValueError):  # the terminal is gone; the work goes on
                self._stream.write(f"{line}\n")
                self._stream.flush()
            dropped, self._dropped = self._dropped, 0
            if dropped:
                log("dropped", f"{dropped} log lines were dropped: nobody read them")


class _Handler(logging.Handler):
    def __init__(self, lines: LogLines) -> None:
        super().__init__()
        self._log_lines = lines

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self._log_lines.put(self.format(record))
        except Exception:
            self.handleError(record)


def _time(seconds: float) -> str:
    whole, part = divmod(seconds, 1)
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(whole))}.{int(part * 1e6):06d}Z"
