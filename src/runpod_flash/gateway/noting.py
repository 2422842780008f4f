"""Gives each request an id, counts its answer, and tells of it."""

from __future__ import annotations

import asyncio
import itertools
import re
import secrets
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from runpod_flash.gateway.control import is_control
from runpod_flash.gateway.guard import cors_headers
from runpod_flash.gateway.messages import header
from runpod_flash.plane import request_ids

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from runpod_flash.gateway.messages import Headers, Message, Scope, Send
    from runpod_flash.gateway.tallies import Tallies

_NAME = b"x-request-id"
_ALLOWED = re.compile(r"[!-~]{1,128}")
# Where a request's note stands in its scope, and in the copies that are made of that.
_NOTE = "flash.note"

_VERBS = frozenset(
    ("run", "runsync", "status", "stream", "cancel", "retry", "purge-queue", "requests", "health")
)
_PAGES = {
    "metrics": "metrics",
    "healthz": "health",
    "readyz": "health",
    "ping": "health",
    "health": "health",
    "docs": "docs",
    "openapi.json": "docs",
}


class Answered(NamedTuple):
    """A request whose status is known; `endpoint` is the one whose route it was."""

    method: str
    path: str
    status: int
    seconds: float
    request_id: str = ""
    endpoint: str = ""


@dataclass(slots=True, eq=False)
class _Note:
    """What is known of a request; `route` is the endpoint whose route it is, of that `app`."""

    id: str
    route: str = ""
    app: str = ""
    told: bool = False  # whether its status is


class Noting:
    """`tell` is called for each request once its status is known."""

    def __init__(self, tallies: Tallies, tell: Callable[[Answered], None] | None = None) -> None:
        self._tallies = tallies
        self._tell = tell
        self._prefix = secrets.token_hex(10)
        self._numbers = itertools.count(1)

    def begin(self, scope: Scope, send: Send) -> Send:
        """What to answer the request by; its id holds for all that is done in its task."""
        began = time.perf_counter()
        note = scope[_NOTE] = _Note(_taken(scope) or self._made())
        request_ids.current.set(note.id)
        more: Headers = [(_NAME, note.id.encode()), *cors_headers(scope)]

        # (No coroutine of its own: all that an answer consists of passes here.)
        def noted(message: Message) -> Awaitable[None]:
            status = _status(message)
            if status:
                own = message.get("headers", ())
                if note.route:  # the id that an application repeats is this one
                    own = [each for each in own if each[0].lower() != _NAME]
                message["headers"] = [*own, *more]
                note.told = True
                # (Soon: the answer is on its way by then.)
                seconds = time.perf_counter() - began
                asyncio.get_running_loop().call_soon(self._answered, scope, note, status, seconds)
            return send(message)

        return noted

    def _made(self) -> str:
        """An id that no other request has, here or elsewhere."""
        return f"{self._prefix}{next(self._numbers):012x}"

    def _answered(self, scope: Scope, note: _Note, status: int, seconds: float) -> None:
        operation = "route" if note.route else operation_of(scope["path"])
        self._tallies.answered(operation, status, note.route, note.app)
        if self._tell is not None:
            method = "WS" if scope["type"] == "websocket" else scope["method"]
            told = Answered(method, scope["path"], status, seconds, note.id, note.route)
            self._tell(told)


def for_route(scope: Scope, endpoint: str, app: str, headers: Headers) -> Headers:
    """Note that it is a route's request; its headers with its id, if it came without."""
    note: _Note = scope[_NOTE]
    note.route, note.app = endpoint, app
    return [*(each for each in headers if each[0] != _NAME), (_NAME, note.id.encode())]


def is_answered(scope: Scope) -> bool:
    """Whether the status of its answer has been sent."""
    note: _Note = scope[_NOTE]
    return note.told


def operation_of(path: str) -> str:
    """A short word for what a path asks: few words, whatever clients send."""
    _, _, last = path.rpartition("/")
    if last in _VERBS:  # what most requests are
        return last
    parts = path.split("/")
    top = parts[1] if len(parts) > 1 else ""
    if top in _PAGES:
        return _PAGES[top]
    if is_control(path):
        return "control"
    return parts[-2] if len(parts) > 2 and parts[-2] in _VERBS else "other"


def _taken(scope: Scope) -> str:
    """The id that the client gave, if it is one."""
    given = header(scope, _NAME)
    return given if given is not None and _ALLOWED.fullmatch(given) else ""


def _status(message: Message) -> int:
    """The status that is known now, if this is the message that tells it."""
    kind = message["type"]
    if kind == "http.response.body":
        return 0
    if kind in ("http.response.start", "websocket.http.response.start"):
        status: int = message["status"]
        return status
    return 101 if kind == "websocket.accept" else 0
