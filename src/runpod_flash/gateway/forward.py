"""An ASGI application that passes every request on to another server: `flash dev --target`.

Bodies and WebSockets are streamed both ways. What a browser says of the page that asks is checked
here, and goes no further.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import TYPE_CHECKING

import httpx

from runpod_flash.gateway.access import KEY_HEADER
from runpod_flash.gateway.guard import Guard
from runpod_flash.gateway.messages import Refusal, answer
from runpod_flash.gateway.noting import Answered

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable

    from runpod_flash.gateway.messages import Receive, Scope, Send

# Between these two ends only, or about the page that asks.
_KEPT_BACK = frozenset(
    b"connection keep-alive proxy-authenticate proxy-authorization te trailer transfer-encoding"
    b" upgrade host origin sec-fetch-site sec-fetch-mode sec-fetch-dest sec-fetch-user"
    b" sec-websocket-key sec-websocket-version sec-websocket-extensions"
    b" sec-websocket-protocol".split()
)


class Forward:
    """Passes on to `base`, an address with a path; `key` goes with each request.

    `on_request` is told of each request, once it is answered.
    """

    def __init__(
        self,
        base: str,
        key: str | None,
        allowed_hosts: Iterable[str] = (),
        on_request: Callable[[Answered], None] | None = None,
    ) -> None:
        self._base = base
        self._key = key
        self._guard = Guard(allowed_hosts)
        self._on_request = on_request
        limits = httpx.Limits(max_connections=None, keepalive_expiry=60)
        self._client = httpx.AsyncClient(timeout=None, trust_env=False, limits=limits)

    async def close(self) -> None:
        await self._client.aclose()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            self._guard.check(scope)
            if scope["type"] == "websocket":
                await self._web_socket(scope, receive, send)
            else:
                await self._http(scope, receive, send)
        except Refusal as refusal:
            if scope["type"] == "http":
                await refusal.answer.send(send)
            else:
                await send({"type": "websocket.close", "code": 1008})
        except ConnectionError:
            pass  # the client has left

    def _address(self, scope: Scope) -> str:
        path = (scope.get("raw_path") or scope["path"].encode()).decode("latin-1")
        query = scope["query_string"].decode("latin-1")
        return f"{self._base}{path}{'?' if query else ''}{query}"

    def _headers(self, scope: Scope) -> list[tuple[bytes, bytes]]:
        kept = [(name, value) for name, value in scope["headers"] if name not in _KEPT_BACK]
        return [*kept, (KEY_HEADER, self._key.encode())] if self._key else kept

    # HTTP

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        began = time.perf_counter()
        gone = asyncio.Event()
        request = self._client.build_request(
            scope["method"],
            self._address(scope),
            headers=self._headers(scope),
            content=_body(receive, gone) if _has_body(scope) else None,
        )
        passing = asyncio.ensure_future(self._pass_on(request, send))
        leaving = asyncio.ensure_future(_left(receive, gone, waits=not _has_body(scope)))
        await asyncio.wait((passing, leaving), return_when=asyncio.FIRST_COMPLETED)
        if not passing.done():
            passing.cancel()
        leaving.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            status = await passing
            if self._on_request is not None:
                seconds = time.perf_counter() - began
                self._on_request(Answered(scope["method"], scope["path"], status, seconds))

    async def _pass_on(self, request: httpx.Request, send: Send) -> int:
        try:
            response = await self._client.send(request, stream=True)
        except httpx.TransportError as error:
            sentence = f"the target cannot be reached: {error or type(error).__name__}"
            await answer(502, {"error": sentence}).send(send)
            return 502
        async with contextlib.aclosing(response):
            headers = [(n.lower(), v) for n, v in response.headers.raw]
            headers = [(n, v) for n, v in headers if n not in _KEPT_BACK]
            status = response.status_code
            await send({"type": "http.response.start", "status": status, "headers": headers})
            async for piece in response.aiter_raw():
                await send({"type": "http.response.body", "body": piece, "more_body": True})
            await send({"type": "http.response.body", "body": b""})
        return status

    # WebSockets

    async def _web_socket(self, scope: Scope, receive: Receive, send: Send) -> None:
        from websockets.asyncio.client import connect
        from websockets.exceptions import InvalidStatus

        address = self._address(scope).replace("http", "ws", 1)
        headers = [(n.decode("latin-1"), v.decode("latin-1")) for n, v in self._headers(scope)]
        await receive()  # its connect
        try:
            async with connect(
                address,
                additional_headers=headers,
                subprotocols=scope.get("subprotocols") or None,
                max_size=None,
                proxy=None,
            ) as there:
                await send({"type": "websocket.accept", "subprotocol": there.subprotocol})
                await _relay(there, receive, send)
        except InvalidStatus as error:
            reason = error.response.body.decode(errors="replace")[:120]
            await send({"type": "websocket.close", "code": 1011, "reason": reason})
        except OSError as error:
            reason = f"the target cannot be reached: {error}"[:120]
            await send({"type": "websocket.close", "code": 1013, "reason": reason})


async def _relay(there: object, receive: Receive, send: Send) -> None:
    """Pass messages both ways until one end closes; its code and reason go to the other one."""
    from websockets.asyncio.client import ClientConnection
    from websockets.exceptions import ConnectionClosed

    assert isinstance(there, ClientConnection)

    async def inward() -> None:
        with contextlib.suppress(ConnectionClosed):
            async for message in there:
                name = "text" if isinstance(message, str) else "bytes"
                await send({"type": "websocket.send", name: message})
        code = there.close_code or 1006
        await send({"type": "websocket.close", "code": code, "reason": there.close_reason or ""})

    async def outward() -> None:
        while (message := await receive())["type"] == "websocket.receive":
            data = message.get("text")
            with contextlib.suppress(ConnectionClosed):
                await there.send(message["bytes"] if data is None else data)
        await there.close(message.get("code") or 1000, message.get("reason") or "")

    both = (asyncio.ensure_future(inward()), asyncio.ensure_future(outward()))
    await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
    for each in both:
        each.cancel()
    await asyncio.gather(*both, return_exceptions=True)


def _has_body(scope: Scope) -> bool:
    return any(name in (b"content-length", b"transfer-encoding") for name, _ in scope["headers"])


async def _body(receive: Receive, gone: asyncio.Event) -> AsyncIterator[bytes]:
    more = True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            gone.set()
            raise ConnectionError("the client has left")
        more = message.get("more_body", False)
        if message.get("body"):
            yield message["body"]
    # What comes now can only be its end.
    gone.set()


async def _left(receive: Receive, gone: asyncio.Event, *, waits: bool) -> None:
    """Return when the client has left; its body is read by another."""
    if not waits:
        await gone.wait()
    while (await receive())["type"] != "http.disconnect":
        pass
