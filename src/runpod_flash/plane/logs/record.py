"""One line of a log, and the cursor by which readers go on where they were."""

from __future__ import annotations

import json
import re
from datetime import datetime, timezone
from typing import Literal, NamedTuple

Source = Literal["container", "system"]

_CURSOR = re.compile(r"(.+?)(?:/(\d{1,15}))?")
_MICROSECONDS = 1_000_000


class Cursor(NamedTuple):
    """A place in the log: microseconds since 1970, and a number that tells lines of one moment."""

    at: int = 0
    number: int = 0

    def __str__(self) -> str:
        return f"{timestamp(self.at)}/{self.number:012d}"


class LogRecord(NamedTuple):
    """A line. `source` is the worker's own output ("container") or what became of it ("system").

    `worker` is empty for what concerns the whole endpoint. `stream` is stdout or stderr.
    """

    cursor: Cursor
    endpoint: str
    worker: str
    source: Source
    text: str
    stream: str = ""
    job: str = ""
    request_id: str = ""

    def fields(self) -> dict[str, str]:
        """As readers get it."""
        named = {
            "source": self.source,
            "line": self.text,
            "ts": timestamp(self.cursor.at),
            "endpoint": self.endpoint,
            "worker": self.worker,
            "stream": self.stream,
            "job": self.job,
            "requestId": self.request_id,
        }
        return {name: value for name, value in named.items() if value or name == "line"}


def to_line(record: LogRecord) -> bytes:
    """As one line of a file."""
    return json.dumps({**record.fields(), "n": record.cursor.number}).encode() + b"\n"


def from_line(line: bytes) -> LogRecord | None:
    """The inverse of `to_line`; None for a line that is none or is not whole."""
    try:
        found = json.loads(line)
        return LogRecord(
            Cursor(microseconds(found["ts"]), found["n"]),
            found["endpoint"],
            found.get("worker", ""),
            found["source"],
            found["line"],
            found.get("stream", ""),
            found.get("job", ""),
            found.get("requestId", ""),
        )
    except (ValueError, KeyError, TypeError):
        return None


def timestamp(at: int) -> str:
    """RFC 3339, in UTC."""
    whole, part = divmod(at, _MICROSECONDS)
    second = datetime.fromtimestamp(whole, timezone.utc)
    return f"{second:%Y-%m-%dT%H:%M:%S}.{part:06d}Z"


def microseconds(text: str) -> int:
    """The inverse of `timestamp`, for any RFC 3339 time; raises `ValueError`."""
    # (Python 3.10 reads no "Z", and only three or six digits.)
    match = re.fullmatch(r"(\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d)(\.\d+)?([Zz]|[+-]\d\d:\d\d)", text)
    if match is None:
        raise ValueError(f"{text!r} is no time such as 2026-06-01T12:00:00Z")
    zone = "+00:00" if match[3] in "Zz" else match[3]
    second = datetime.fromisoformat(f"{match[1].upper().replace(' ', 'T')}{zone}")
    part = int((match[2] or ".0")[1:7].ljust(6, "0"))
    return int(second.timestamp()) * _MICROSECONDS + part


def parse_cursor(text: str) -> Cursor:
    """A cursor as `str` gives it. A time alone is after all of its lines; raises `ValueError`."""
    match = _CURSOR.fullmatch(text)
    at = microseconds(match[1] if match else text)
    number = match[2] if match else None
    return Cursor(at, 10**15 if number is None else int(number))
