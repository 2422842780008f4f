"""Ends a WebSocket or event stream once its key counts no more: nothing is asked of that again."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING

from runpod_flash.wire.frames import MEDIA_TYPE

if TYPE_CHECKING:
    from runpod_flash.control.key import Key, KeyRing
    from runpod_flash.gateway.messages import Message, Receive, Send

POLICY_VIOLATION = 1008
_REASON = "the key was revoked or has expired"
_STREAMS = (b"text/event-stream", MEDIA_TYPE.encode())


class Tenure:
    """`receive` and `send` of one request that a key has made.

    When the key ends, whoever answers hears that the client has left, and the client gets the end
    of the stream, or code 1008. Other answers are given whole: what was accepted is accepted.
    """

    def __init__(self, ring: KeyRing, key: Key, receive: Receive, send: Send) -> None:
        self._ring = ring
        self._key = key
        self._receive = receive
        self._send = send
        self._read = False  # whether all was received that comes by itself
        self._is_websocket = False
        self.streams = self._whole = self._over = False  # (`streams`: there is something to end)
        self._ended: asyncio.Future[None] | None = None
        self._timer: asyncio.TimerHandle | None = None

    async def receive(self) -> Message:
        """What the client sends, or its end in the place of the key's."""
        if not self._read:
            message = await self._receive()
            self._read = not message.get("more_body", False)
            return message
        if self._ended is None:
            self._ended = asyncio.get_running_loop().create_future()
        message_ = asyncio.ensure_future(self._receive())
        try:
            if not self._over:
                await asyncio.wait((message_, self._ended), return_when=asyncio.FIRST_COMPLETED)
            if message_.done():
                return message_.result()
        finally:
            message_.cancel()
        kind = "websocket" if self._is_websocket else "http"
        return {"type": f"{kind}.disconnect", "code": POLICY_VIOLATION, "reason": _REASON}

    async def send(self, message: Message) -> None:
        """Pass on what is answered; an answer that is a stream lasts as long as the key."""
        kind = message["type"]
        if kind == "http.response.start":
            if _is_stream(message):
                self._begin()
        elif kind == "http.response.body":
            self._whole = not message.get("more_body", False)
        elif kind == "websocket.accept":
            self._is_websocket = True
            self._begin()
        elif kind == "websocket.close":
            self._whole = True
        await self._send(message)

    def _begin(self) -> None:
        self.streams = True
        self._ring.watch(self._key, self._end)
        if self._key.expires_at is not None:
            left = self._key.expires_at - self._ring.clock()
            self._timer = asyncio.get_running_loop().call_later(max(left, 0), self._end)

    def _end(self) -> None:
        self._over = True
        if self._ended is not None and not self._ended.done():
            self._ended.set_result(None)

    async def close(self) -> None:
        """All was answered that will be, of what `streams`."""
        self._ring.unwatch(self._key, self._end)
        if self._timer is not None:
            self._timer.cancel()
        if self._over and not self._whole:
            with suppress(Exception):  # (it may have left at the same moment)
                await self._send(self._last())

    def _last(self) -> Message:
        if self._is_websocket:
            return {"type": "websocket.close", "code": POLICY_VIOLATION, "reason": _REASON}
        return {"type": "http.response.body", "body": b"", "more_body": False}


def _is_stream(message: Message) -> bool:
    headers = message.get("headers", ())
    for name, value in headers:
        if name == b"content-type":
            sized = any(each == b"content-length" for each, _ in headers)
            return value.startswith(_STREAMS) and not sized
    return False
