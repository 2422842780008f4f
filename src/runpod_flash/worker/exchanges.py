"""Answers HTTP requests and WebSockets: an ASGI server whose wire is the framed link."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections import deque
from typing import TYPE_CHECKING, Any, Protocol

from runpod_flash.context import current_job
from runpod_flash.wire import failures
from runpod_flash.wire.frames import Frame, FrameError

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    Message = dict[str, Any]

# As much may be on the way in each direction; the plane counts the same.
WINDOW = 1 << 20
_OWN = os.path.dirname(os.path.dirname(__file__)) + os.sep  # noqa: PTH120


class Wire(Protocol):
    """Where the frames of exchanges go."""

    def send(self, *frames: Frame) -> None: ...


class Lines(Protocol):
    """What is written while exchanges run."""

    def end_job(self, job_id: str) -> None: ...


class _Exchange:
    """One request or WebSocket in this worker."""

    def __init__(self, send: Callable[[Frame], None], frame: Frame) -> None:
        self.id: str = frame.fields["exchange"]
        self.scope = _scope(frame.fields["scope"])
        self.task: asyncio.Task[None] | None = None
        self.cancelled = False
        self._send = send
        self._incoming: deque[tuple[Message, int]] = deque()
        self._wake: asyncio.Future[None] | None = None
        self._gone: Message | None = None
        self._credits = WINDOW
        self._room: asyncio.Future[None] | None = None
        self._owed = 0
        self._start: dict[str, Any] | None = None
        self._last: tuple[str, dict[str, Any], bytes] | None = None
        if self.scope["type"] == "websocket":
            self._incoming.append(({"type": "websocket.connect"}, 0))
        else:
            self._body(frame)

    # From the client

    def handle(self, frame: Frame) -> None:
        if frame.type == "asgi_body":
            self._body(frame)
        elif frame.type == "asgi_websocket":
            data = _data(frame)
            content = {"text": data.decode()} if frame.fields["text"] else {"bytes": data}
            self._put({"type": "websocket.receive", **content}, len(data))
        elif frame.type == "asgi_credit":
            self._credits += frame.fields["bytes"]
            _wake(self._room)
        elif frame.type == "asgi_disconnect":
            self._disconnect(frame.fields)

    def _body(self, frame: Frame) -> None:
        data, more = _data(frame), frame.fields["more"]
        self._put({"type": "http.request", "body": data, "more_body": more}, len(data))

    def _put(self, message: Message, size: int) -> None:
        self._incoming.append((message, size))
        _wake(self._wake)

    def _disconnect(self, fields: dict[str, Any]) -> None:
        if self.scope["type"] == "websocket":
            code = {"code": fields["code"], "reason": fields["reason"]}
            self._gone = {"type": "websocket.disconnect", **code}
        else:
            self._gone = {"type": "http.disconnect"}
        _wake(self._wake)
        _wake(self._room)
        if fields.get("cancel"):
            self.call_off()

    def call_off(self) -> None:
        """Stop the application at its next await."""
        if self.task is not None:
            self.cancelled = True
            self.task.cancel()

    async def receive(self) -> Message:
        while not self._incoming:
            if self._gone is not None:
                return self._gone
            self._wake = asyncio.get_running_loop().create_future()
            await self._wake
        message, size = self._incoming.popleft()
        self._owed += size
        if self._owed >= WINDOW // 2:
            self._frame("credit", {"bytes": self._owed})
            self._owed = 0
        return message

    # To the client

    async def send(self, message: Message) -> None:
        kind = message["type"]
        if kind == "http.response.start":
            self._start = {"status": message["status"], "headers": _texts(message.get("headers"))}
        elif kind == "http.response.body":
            await self._send_body(message.get("body", b""), message.get("more_body", False))
        elif kind.startswith("websocket."):
            await self._send_event(kind.removeprefix("websocket."), message)

    async def _send_body(self, data: bytes, more: bool) -> None:
        fields: dict[str, Any] = {"more": more}
        name = "body"
        if self._start is not None:
            name, fields, self._start = "response", {**self._start, **fields}, None
        await self._spend(len(data))
        if more:
            self._frame(name, fields, data)
        else:
            # Kept until the application has returned, as it nearly always does at once: its end
            # then takes no frame of its own.
            self._last = (name, fields, data)
            asyncio.get_running_loop().call_soon(self._flush)

    def _flush(self) -> None:
        if self._last is not None:
            (name, fields, data), self._last = self._last, None
            self._frame(name, fields, data)

    async def _send_event(self, event: str, message: Message) -> None:
        fields: dict[str, Any] = {"event": event}
        text = message.get("text")
        data = message.get("bytes") or b"" if text is None else text.encode()
        if event == "send":
            fields["text"] = text is not None
            await self._spend(len(data))
        elif event == "accept":
            fields["subprotocol"] = message.get("subprotocol")
            fields["headers"] = _texts(message.get("headers"))
        else:
            fields["code"] = message.get("code", 1000)
            fields["reason"] = message.get("reason") or ""
        self._frame("websocket", fields, data)

    async def _spend(self, size: int) -> None:
        """Wait while the client takes no more; one that has left takes everything."""
        while self._credits <= 0 and self._gone is None:
            self._room = asyncio.get_running_loop().create_future()
            await self._room
        self._credits -= size

    def end(self, failure: failures.Failure | None = None) -> None:
        """The application has returned, or raised before it began to answer."""
        if self._last is not None:
            (name, fields, data), self._last = self._last, None
            self._frame(name, {**fields, "end": True}, data)
        else:
            self._frame("end", {} if failure is None else {"failure": failures.to_wire(failure)})

    def _frame(self, kind: str, fields: dict[str, Any], data: bytes = b"") -> None:
        buffers = (data,) if data else ()
        self._send(Frame(f"asgi_{kind}", {"exchange": self.id, **fields}, buffers))


class ExchangeRunner:
    """Runs `app`, the FastAPI application of an endpoint's routes; `state` is its lifespan's.

    `ended` is called after each exchange.
    """

    def __init__(
        self, link: Wire, app: Any, state: Any, out: Lines, ended: Callable[[], None]
    ) -> None:
        self._link = link
        self._ended = ended
        self._app = app
        self._state = state
        self._out = out
        self._exchanges: dict[str, _Exchange] = {}
        self._turn: list[Frame] = []

    def handle(self, frame: Frame) -> None:
        if frame.type == "asgi_start":
            exchange = _Exchange(self._send, frame)
            exchange.scope["state"] = dict(self._state or {})
            self._exchanges[exchange.id] = exchange
            exchange.task = asyncio.create_task(self._run(exchange))
            return
        found = self._exchanges.get(frame.fields.get("exchange", ""))
        if found is not None:
            found.handle(frame)

    def only_job(self) -> str:
        running = list(self._exchanges)
        return running[0] if len(running) == 1 else ""

    def _send(self, frame: Frame) -> None:
        # What a turn of the loop brings goes in one write: each wakes the plane's process.
        if not self._turn:
            asyncio.get_running_loop().call_soon(self._end_turn)
        self._turn.append(frame)

    def _end_turn(self) -> None:
        turn, self._turn = self._turn, []
        try:
            self._link.send(*turn)
        except FrameError:
            # One is too large to be sent. The others may be those of other exchanges.
            for frame in turn:
                self._send_alone(frame)

    def _send_alone(self, frame: Frame) -> None:
        try:
            self._link.send(frame)
        except FrameError as error:
            exchange = frame.fields["exchange"]
            failure = failures.to_wire(failures.capture(error, origin="system"))
            self._link.send(Frame("asgi_end", {"exchange": exchange, "failure": failure}))
            found = self._exchanges.get(exchange)
            if found is not None:
                found.call_off()

    async def _run(self, exchange: _Exchange) -> None:
        token = current_job.set(exchange.id)
        failure = None
        try:
            if exchange.scope["type"] == "openapi":
                await self._tell(exchange)
            else:
                await self._app(exchange.scope, exchange.receive, exchange.send)
        except asyncio.CancelledError:
            if not exchange.cancelled:
                raise
        except BaseException as error:
            # SystemExit in a route ends its request, not the worker.
            error.__traceback__ = _users(error.__traceback__)
            failure = failures.capture(error)
            if type(error).__name__ != "WebSocketDisconnect":  # how most WebSockets end
                sys.stderr.write(failure.traceback)
        finally:
            self._out.end_job(exchange.id)
            current_job.reset(token)
            self._exchanges.pop(exchange.id, None)
            exchange.end(failure)
            self._ended()

    async def _tell(self, exchange: _Exchange) -> None:
        body = json.dumps(self._app.openapi()).encode()
        await exchange.send({"type": "http.response.start", "status": 200})
        await exchange.send({"type": "http.response.body", "body": body})


def _users(traceback: TracebackType | None) -> TracebackType | None:
    """The traceback from the user's own code on, without all that leads to it."""
    step = traceback
    while step is not None and _is_foreign(step.tb_frame.f_code.co_filename):
        step = step.tb_next
    return step or traceback


def _is_foreign(filename: str) -> bool:
    return filename.startswith(_OWN) or f"{os.sep}site-packages{os.sep}" in filename


def _data(frame: Frame) -> bytes:
    return bytes(frame.buffers[0]) if frame.buffers else b""


def _wake(future: asyncio.Future[None] | None) -> None:
    if future is not None and not future.done():
        future.set_result(None)


def _texts(headers: Any) -> list[list[str]]:
    return [[name.decode("latin-1"), value.decode("latin-1")] for name, value in headers or ()]


def _scope(wire: dict[str, Any]) -> dict[str, Any]:
    """The scope as ASGI has it."""
    scope = {
        **wire,
        # (2.3: applications listen for the client's end themselves, as under uvicorn.)
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "query_string": wire.pop("query").encode("latin-1"),
        "headers": [(n.encode("latin-1"), v.encode("latin-1")) for n, v in wire["headers"]],
        "client": tuple(wire["client"]) if wire["client"] else None,
        "server": tuple(wire["server"]) if wire["server"] else None,
        "extensions": {},
    }
    if wire["raw_path"] is not None:
        scope["raw_path"] = wire["raw_path"].encode("latin-1")
    scope.pop("query", None)
    if wire["type"] == "websocket":
        scope.pop("method", None)
    return scope
