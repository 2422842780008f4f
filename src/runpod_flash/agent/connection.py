"""The WebSocket to the server: `gateway/worker_connection.py` is its other end."""

from __future__ import annotations

import asyncio
import json
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus

from runpod_flash.client.connection import trusted
from runpod_flash.links.relay import REPLACED, REVOKED, SUBPROTOCOL, read_words, words
from runpod_flash.wire.frames import FrameReader

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from runpod_flash.wire.frames import Frame

# A server that answers no ping for so long is gone.
_PING_SECONDS, _PONG_SECONDS = 10.0, 20.0
_OPEN_SECONDS, _CLOSE_SECONDS = 20.0, 2.0


class TurnedAwayError(Exception):
    """The server wants no worker now; the text says why. `status` is HTTP's, or a close code."""

    def __init__(self, why: str, status: int = 0) -> None:
        super().__init__(why)
        self.status = status

    @property
    def final(self) -> bool:
        """Whether the token will never be good for anything again, or is another process's now."""
        return self.status in (401, REVOKED, REPLACED)


class ServerConnection:
    """An open connection. Its methods raise `TurnedAwayError` and `ConnectionError`."""

    def __init__(self, socket: ClientConnection) -> None:
        self._socket = socket

    async def say(self, kind: str, **fields: Any) -> None:
        await self._send(words(kind, **fields))

    async def pass_on(self, piece: bytes) -> None:
        await self._send(piece)

    async def hear(self, kind: str) -> dict[str, Any]:
        """What the server says next, which is to be of that kind."""
        message = await self.next()
        found = {"t": "bytes"} if isinstance(message, bytes) else message
        if found["t"] == "refused":
            raise TurnedAwayError(str(found["why"]))
        if found["t"] != kind:
            raise ConnectionError(f"it said {found['t']!r} where {kind!r} was to come")
        return found

    async def next(self) -> bytes | dict[str, Any]:
        """The next bytes of the link, or words."""
        message = await self._receive()
        return message if isinstance(message, bytes) else read_words(message)

    async def frames(self, count: int) -> AsyncIterator[Frame]:
        """So many frames that come outside of the link."""
        reader = FrameReader(None)
        while count:
            piece = await self.next()
            for frame in reader.feed(piece if isinstance(piece, bytes) else b""):
                count -= 1
                yield frame

    async def _send(self, message: str | bytes) -> None:
        try:
            await self._socket.send(message)
        except ConnectionClosed as closed:
            raise _left(closed) from None

    async def _receive(self) -> str | bytes:
        try:
            return await self._socket.recv()
        except ConnectionClosed as closed:
            raise _left(closed) from None


@asynccontextmanager
async def connected(origin: str, endpoint: str, token: str) -> AsyncIterator[ServerConnection]:
    """A connection for a worker with that token, closed in the end."""
    address = f"ws{origin.removeprefix('http')}/v2/{quote(endpoint, safe='')}/worker"
    try:
        # Proxies are not for it, as for programs. What comes is never held back: a worker whose
        # code blocks would keep pings from being answered.
        socket = await connect(
            address,
            additional_headers={"authorization": f"Bearer {token}"},
            subprotocols=[SUBPROTOCOL],  # type: ignore[list-item]
            compression=None,
            proxy=None,
            open_timeout=_OPEN_SECONDS,
            close_timeout=_CLOSE_SECONDS,
            ping_interval=_PING_SECONDS,
            ping_timeout=_PONG_SECONDS,
            max_size=None,
            max_queue=None,
            ssl=trusted(origin) if origin.startswith("https:") else None,
        )
    except InvalidStatus as error:
        raise TurnedAwayError(_said(error), error.response.status_code) from None
    except (InvalidHandshake, asyncio.TimeoutError) as error:  # (in 3.10 the latter is no OSError)
        raise ConnectionError(str(error)) from None
    async with socket:
        yield ServerConnection(socket)


def _left(closed: ConnectionClosed) -> Exception:
    """What the end of a connection means."""
    if closed.rcvd is None:
        return ConnectionError("the connection was lost")
    code, reason = closed.rcvd.code, closed.rcvd.reason
    return TurnedAwayError(reason or "the server has closed the connection", code)


def _said(error: InvalidStatus) -> str:
    try:
        return str(json.loads(error.response.body or b"")["error"])
    except (ValueError, KeyError, TypeError):
        return f"HTTP {error.response.status_code}"
