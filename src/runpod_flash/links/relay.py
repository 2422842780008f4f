"""Carries a link's bytes between a stream socket and a connection of messages, piece by piece.

A framed link needs a stream socket at each of its ends. Where the two are on different machines,
what lies between is a WebSocket, and each end has a pair of sockets of its own. Its binary messages
are the link's bytes; what the machines themselves have to say goes in its messages of text.
"""

from __future__ import annotations

import asyncio
import json
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TypeVar

from runpod_flash.wire.frames import PROTOCOL

if TYPE_CHECKING:
    import socket
    from collections.abc import Awaitable, Callable, Coroutine

T = TypeVar("T")

_PIECE = 256 << 10
SUBPROTOCOL = f"flash.{PROTOCOL}"
# Codes by which the plane's end closes: no other connection of this worker is to follow.
REVOKED, REPLACED = 4401, 4409


def words(kind: str, **fields: Any) -> str:
    """A message of text: JSON, as a frame's header is."""
    return json.dumps({"t": kind, **fields}, separators=(",", ":"))


def read_words(text: str) -> dict[str, Any]:
    """The fields of a message of text, its kind as `t`; raises `ValueError` for what is none."""
    found = json.loads(text)
    if not isinstance(found, dict) or not isinstance(found.get("t"), str):
        raise ValueError(f"{text:.80} is no message of a worker's connection")
    return found


async def pass_on(sock: socket.socket, send: Callable[[bytes], Awaitable[None]]) -> None:
    """Send what comes out of the socket, until its other end has closed."""
    loop = asyncio.get_running_loop()
    while piece := await _received(loop, sock):
        await send(piece)


async def _received(loop: asyncio.AbstractEventLoop, sock: socket.socket) -> bytes:
    try:
        return await loop.sock_recv(sock, _PIECE)
    except ConnectionError:
        return b""


async def put_in(sock: socket.socket, piece: bytes) -> None:
    """Write a piece that has come; for a worker or plane that is gone, it is dropped."""
    with suppress(ConnectionError):
        await asyncio.get_running_loop().sock_sendall(sock, piece)


async def first(*work: Coroutine[Any, Any, T]) -> T:
    """What the first of them to be done gives or raises; the others are cancelled."""
    tasks = [asyncio.ensure_future(each) for each in work]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        return next(task for task in tasks if task in done).result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
