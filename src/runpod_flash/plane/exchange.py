"""One HTTP request or WebSocket between a client and a worker, as ASGI messages both ways.

Bytes flow no faster than the other side takes them: each direction has a window, and what was
passed on is granted anew.
"""

from __future__ import annotations

import asyncio
import itertools
from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from runpod_flash.errors import JobError
from runpod_flash.links.base import Part
from runpod_flash.wire.failures import from_wire, restore
from runpod_flash.wire.module_names import NO_ALIAS

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, MutableMapping

    from runpod_flash.plane.pool import Worker

    Message = MutableMapping[str, Any]
    Scope = MutableMapping[str, Any]
    Receive = Callable[[], Awaitable[Message]]
    Send = Callable[[Message], Awaitable[None]]

_numbers = itertools.count(1)
# Bytes that may be on the way in each direction.
WINDOW = 1 << 20
# Most requests are answered before it would be worth looking whether their client has left.
_PATIENCE_SECONDS = 0.05
_SAFE = frozenset({"GET", "HEAD", "OPTIONS"})
SERVICE_RESTART = 1012


class Exchange:
    """See the module. Everything runs on the plane's loop.

    `on_gone` is called once, when the client has left before the end.
    """

    def __init__(self, scope: Scope, receive: Receive, send: Send, first: Message) -> None:
        self.id = f"request-{next(_numbers)}"
        self.scope = scope
        self.is_websocket: bool = scope["type"] == "websocket"
        self.worker: Worker | None = None
        self.started = False  # whether the client has got anything
        self.gone = False  # whether the client has left
        self.on_gone: Callable[[], None] | None = None
        self._receive = receive
        self._send = send
        self._first = first
        self._parts: deque[Part | Exception] = deque()
        self._wake: asyncio.Future[None] | None = None
        self._room: asyncio.Future[None] | None = None
        self._credits = WINDOW
        self._owed = 0
        self._whole = False  # whether the response, or the WebSocket, has come to its end
        self._inlet: asyncio.Task[None] | None = None
        self._attached: asyncio.Future[None] | None = None
        self._timer: asyncio.TimerHandle | None = None

    @property
    def repeatable(self) -> bool:
        """Whether another worker may be given the same request."""
        return not (self.started or self.is_websocket or self._first.get("more_body")) and (
            self.scope.get("method") in _SAFE
        )

    # The client's side

    def open(self) -> None:
        """Look after the client from now on."""
        loop = asyncio.get_running_loop()
        if self.is_websocket:
            self._watch()
        else:
            self._timer = loop.call_later(_PATIENCE_SECONDS, self._watch)

    def _watch(self) -> None:
        if self._inlet is None:
            self._inlet = asyncio.get_running_loop().create_task(self._take_in())

    def close(self) -> None:
        """The client needs nothing more."""
        if self._timer is not None:
            self._timer.cancel()
        if self._inlet is not None:
            self._inlet.cancel()

    async def _take_in(self) -> None:
        """Pass on what the client sends, once there is a worker, until the client leaves."""
        more = self.is_websocket or self._first.get("more_body", False)
        while True:
            if more and not self.is_websocket:
                # (A body is not read ahead of its worker. A WebSocket brings nothing before it
                # is accepted, but its end may come.)
                await self._is_attached()
            message = await self._receive()
            kind = message["type"]
            if kind in ("http.disconnect", "websocket.disconnect"):
                self._left(message)
                return
            await self._is_attached()
            if kind == "websocket.receive":
                await self._forward(_websocket_part(self.id, message))
            elif more:
                more = message.get("more_body", False)
                await self._forward(
                    Part(self.id, "body", {"more": more}, message.get("body") or b"")
                )

    async def _is_attached(self) -> None:
        if self.worker is None:
            self._attached = asyncio.get_running_loop().create_future()
            await self._attached

    async def _forward(self, part: Part) -> None:
        while self._credits <= 0:
            self._room = asyncio.get_running_loop().create_future()
            await self._room
        self._credits -= len(part.data)
        self._tell(part)

    def _left(self, message: Message) -> None:
        if self.gone:
            return
        self.gone = True
        fields = {"code": message.get("code", 1005), "reason": message.get("reason") or ""}
        self._tell(Part(self.id, "disconnect", fields))
        if self.on_gone is not None:
            self.on_gone()
        self._push(ConnectionError("the client has left"))

    # The worker's side

    def attach(self, worker: Worker) -> None:
        """Hand the request to a worker."""
        self.worker = worker
        self._parts.clear()
        self._credits, self._owed = WINDOW, 0
        body = self._first.get("body") or b""
        self._credits -= len(body)
        more = self._first.get("more_body", False)
        self._tell(Part(self.id, "start", {"scope": _scope(self.scope), "more": more}, body))
        if self._attached is not None and not self._attached.done():
            self._attached.set_result(None)
        if more:
            self._watch()

    def _tell(self, part: Part) -> None:
        if self.worker is not None and self.worker.link is not None:
            self.worker.link.exchange(part)

    def arrived(self, part: Part) -> None:
        """Something from the worker, except the end of an exchange whose client has left."""
        if part.kind == "credit":
            self._credits += part.fields["bytes"]
            if self._room is not None and not self._room.done():
                self._room.set_result(None)
        else:
            self._push(part)

    def fail(self, error: Exception) -> None:
        """End with an error that `relay` raises."""
        self._push(error)

    def retire(self) -> None:
        """The worker is to be replaced: a WebSocket is told to connect again."""
        if self.is_websocket:
            self._tell(
                Part(self.id, "disconnect", {"code": SERVICE_RESTART, "reason": "service restart"})
            )
            self._push(Part(self.id, "websocket", {"event": "close", "code": SERVICE_RESTART}))

    def call_off(self) -> None:
        """Have the worker stop, where its code lets itself be stopped."""
        self._tell(Part(self.id, "disconnect", {"code": 1006, "reason": "", "cancel": True}))

    def _push(self, part: Part | Exception) -> None:
        self._parts.append(part)
        if self._wake is not None and not self._wake.done():
            self._wake.set_result(None)

    async def relay(self) -> None:
        """Send the client what the worker answers, until its end or the client's.

        Raises what `fail` was given, and `ConnectionError` once the client has left.
        """
        while True:
            while not self._parts:
                self._wake = asyncio.get_running_loop().create_future()
                await self._wake
            part = self._parts.popleft()
            if isinstance(part, Exception):
                raise part
            if await self._pass_on(part):
                return

    async def _pass_on(self, part: Part) -> bool:
        """Send one part; whether it was the last."""
        fields, data = part.fields, part.data
        if part.kind == "response":
            headers = [(n.encode("latin-1"), v.encode("latin-1")) for n, v in fields["headers"]]
            await self._deliver(
                {"type": "http.response.start", "status": fields["status"], "headers": headers}
            )
            await self._deliver_body(fields, data)
        elif part.kind == "body":
            await self._deliver_body(fields, data)
        elif part.kind == "websocket":
            return await self._deliver_event(fields, data)
        if part.kind == "end" and not self._whole:
            await self._ended_early(fields.get("failure"))
        return part.kind == "end" or bool(fields.get("end"))

    async def _ended_early(self, failure: dict[str, Any] | None) -> None:
        """The route's code has ended, and the client lacks its answer or the rest of it."""
        if self.is_websocket and self.started:
            code = 1000 if failure is None else 1011
            await self._deliver({"type": "websocket.close", "code": code})
        elif self.started:
            raise ConnectionAbortedError("the route ended before its response was whole")
        elif failure is not None:
            raise restore(from_wire(failure), NO_ALIAS)
        else:
            raise JobError("the route ended without a response")

    async def _deliver_body(self, fields: Any, data: Any) -> None:
        await self._deliver(
            {"type": "http.response.body", "body": bytes(data), "more_body": fields["more"]}
        )
        self._whole = not fields["more"]
        self._grant(len(data))

    async def _deliver_event(self, fields: Any, data: Any) -> bool:
        event = fields["event"]
        if event == "close":
            self._whole = True
            await self._deliver(
                {
                    "type": "websocket.close",
                    "code": fields.get("code", 1000),
                    "reason": fields.get("reason", ""),
                }
            )
            return True
        if event == "accept":
            headers = [(n.encode(), v.encode()) for n, v in fields.get("headers", ())]
            subprotocol = fields.get("subprotocol")
            await self._deliver(
                {"type": "websocket.accept", "subprotocol": subprotocol, "headers": headers}
            )
            return False
        text = fields.get("text", False)
        content = {"text": str(data, "utf-8")} if text else {"bytes": bytes(data)}
        await self._deliver({"type": "websocket.send", **content})
        self._grant(len(data))
        return False

    async def _deliver(self, message: Message) -> None:
        self.started = True
        try:
            await self._send(message)
        except OSError:
            self._left({"code": 1006})
            raise

    def _grant(self, size: int) -> None:
        self._owed += size
        if self._owed >= WINDOW // 2:
            self._tell(Part(self.id, "credit", {"bytes": self._owed}))
            self._owed = 0

    async def cut(self) -> None:
        """Break the response off, so that the client sees that it is not whole."""
        with suppress(Exception):
            if self.is_websocket:
                await self._send({"type": "websocket.close", "code": 1011})


def _websocket_part(exchange: str, message: Message) -> Part:
    text = message.get("text")
    data = message.get("bytes") or b"" if text is None else text.encode()
    return Part(exchange, "websocket", {"event": "receive", "text": text is not None}, data)


def _scope(scope: Scope) -> dict[str, Any]:
    """What of a scope travels, as JSON."""
    raw_path = scope.get("raw_path")
    return {
        "type": scope["type"],
        "method": scope.get("method"),
        "http_version": scope.get("http_version", "1.1"),
        "scheme": scope.get("scheme", "http"),
        "path": scope["path"],
        "raw_path": None if raw_path is None else raw_path.decode("latin-1"),
        "query": scope["query_string"].decode("latin-1"),
        "root_path": scope.get("root_path", ""),
        "headers": [[n.decode("latin-1"), v.decode("latin-1")] for n, v in scope["headers"]],
        "client": scope.get("client"),
        "server": scope.get("server"),
        "subprotocols": scope.get("subprotocols", ()),
    }
