"""A response that is a file: whole, or what a client lacks of it."""

from __future__ import annotations

import base64
import os
import re
from typing import TYPE_CHECKING, Any

from runpod_flash.gateway.messages import header
from runpod_flash.gateway.problems import problem
from runpod_flash.links.leaving import leaving

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from runpod_flash.descriptor import OpenFile
    from runpod_flash.gateway.messages import Receive, Scope, Send

_PIECE = 1 << 20
_RANGE = re.compile(r"bytes=(\d{1,18})-")


class FileDownload:
    """A `Sendable`; `in_thread` is where the file is read.

    `sha256` is told where the client has asked for it. A range begins anywhere and goes to the end.
    """

    def __init__(
        self,
        file: OpenFile,
        scope: Scope,
        receive: Receive,
        in_thread: Callable[[Callable[[], Any]], Awaitable[Any]],
        sha256: str | None,
    ) -> None:
        self._file = file
        self._receive = receive
        self._in_thread = in_thread
        self._bodiless = scope["method"] == "HEAD"
        found = os.fstat(file.descriptor)
        self._size = found.st_size
        tag = f'"{found.st_ino:x}-{found.st_size:x}-{found.st_mtime_ns:x}"'
        self._start = _start(scope, tag, self._size)
        self._headers = [
            (b"content-type", b"application/octet-stream"),
            (b"content-length", str(self._size - self._start).encode()),
            (b"x-content-type-options", b"nosniff"),
            (b"accept-ranges", b"bytes"),
            (b"etag", tag.encode()),
        ]
        if sha256 is not None:
            coded = base64.b64encode(bytes.fromhex(sha256))
            self._headers.append((b"repr-digest", b"sha-256=:" + coded + b":"))
        if self._start:
            place = f"bytes {self._start}-{self._size - 1}/{self._size}"
            self._headers.append((b"content-range", place.encode()))

    async def send(self, send: Send) -> None:
        with leaving(self._receive) as gone:
            status = 206 if self._start else 200
            headers = {"type": "http.response.start", "status": status, "headers": self._headers}
            await send(headers)
            at = self._size if self._bodiless else self._start
            while at < self._size and not gone.done():
                piece = await self._in_thread(lambda at=at: self._read(at))  # type: ignore[misc]
                if not piece:
                    # (A worker has cut it off: what was announced cannot follow.)
                    raise ConnectionAbortedError("the file has become shorter")
                at += len(piece)
                await send({"type": "http.response.body", "body": piece, "more_body": True})
            await send({"type": "http.response.body", "body": b""})

    def _read(self, at: int) -> bytes:
        return os.pread(self._file.descriptor, min(_PIECE, self._size - at), at)


def _start(scope: Scope, tag: str, size: int) -> int:
    """From which byte on the client wants it; 0 where the file is another one by now."""
    given, known = header(scope, b"range"), header(scope, b"if-range")
    found = None if given is None else _RANGE.fullmatch(given)
    if found is None or known not in (None, tag):
        return 0
    start = int(found[1])
    if start and start >= size:
        raise problem(416, f"the file has {size} bytes")
    return start
