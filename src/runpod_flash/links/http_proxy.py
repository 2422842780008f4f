"""Passes HTTP requests and WebSockets, as ASGI has them, on to another HTTP server.

Bodies and WebSockets are streamed both ways.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from typing import TYPE_CHECKING, Any

import httpx

from runpod_flash.links.leaving import left
from runpod_flash.links.relay import first

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping

    Message = MutableMapping[str, Any]
    Scope = MutableMapping[str, Any]
    Receive = Callable[[], Awaitable[Message]]
    Send = Callable[[Message], Awaitable[None]]

Headers = list[tuple[bytes, bytes]]

# Between two ends only, or written anew by whoever passes a request on.
_KEPT_BACK = frozenset(
    b"connection keep-alive proxy-authenticate proxy-authorization te trailer transfer-encoding"
    b" upgrade host sec-websocket-key sec-websocket-version sec-websocket-extensions"
    b" sec-websocket-protocol".split()
)


class Proxy:
    """Passes on to addresses; `whom` calls the other server where it cannot be reached.

    `patience` is for how many seconds that is not said, where the server's end may explain it.
    `plain`: it has no TLS, and certificates need not be loaded.
    """

    def __init__(self, whom: str, patience: float = 0, *, plain: bool = False) -> None:
        self._whom = whom
        self._patience = patience
        limits = httpx.Limits(max_connections=None, keepalive_expiry=60)
        self._client = httpx.AsyncClient(
            timeout=None, trust_env=False, limits=limits, verify=not plain
        )

    @property
    def client(self) -> httpx.AsyncClient:
        """For requests of one's own."""
        return self._client

    async def close(self) -> None:
        await self._client.aclose()

    # HTTP

    async def http(
        self, address: str, headers: Headers, scope: Scope, receive: Receive, send: Send
    ) -> int | None:
        """Answer a request by what the address answers; its status, None if the client has left."""
        gone = asyncio.Event()
        request = self._client.build_request(
            scope["method"],
            address,
            headers=passed(headers),
            content=_body(receive, gone) if _has_body(scope) else None,
        )
        if not _has_body(scope):
            gone.set()
        return await first(self._pass_on(request, send), _left(receive, gone))

    async def _pass_on(self, request: httpx.Request, send: Send) -> int:
        try:
            response = await self._client.send(request, stream=True)
        except httpx.TransportError as error:
            await asyncio.sleep(self._patience)
            text = f"{self._whom} cannot be reached: {error or type(error).__name__}"
            body = json.dumps({"error": text}).encode()
            kind = [(b"content-type", b"application/json")]
            await send({"type": "http.response.start", "status": 502, "headers": kind})
            await send({"type": "http.response.body", "body": body})
            return 502
        async with contextlib.aclosing(response):
            found = passed([(n.lower(), v) for n, v in response.headers.raw])
            status = response.status_code
            await send({"type": "http.response.start", "status": status, "headers": found})
            async for piece in response.aiter_raw():
                await send({"type": "http.response.body", "body": piece, "more_body": True})
            await send({"type": "http.response.body", "body": b""})
        return status

    # WebSockets

    async def web_socket(
        self, address: str, headers: Headers, scope: Scope, receive: Receive, send: Send
    ) -> None:
        """Connect a WebSocket with that of the address, until one end closes."""
        from websockets.asyncio.client import connect
        from websockets.exceptions import InvalidStatus

        texts = [(n.decode("latin-1"), v.decode("latin-1")) for n, v in passed(headers)]
        await receive()  # its connect
        try:
            async with connect(
                address.replace("http", "ws", 1),
                additional_headers=texts,
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
            reason = f"{self._whom} cannot be reached: {error}"[:120]
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

    with contextlib.suppress(Exception):  # (what is sent to the end that has closed fails)
        await first(inward(), outward())


def passed(headers: Headers) -> Headers:
    """What of headers goes further."""
    return [(name, value) for name, value in headers if name not in _KEPT_BACK]


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


async def _left(receive: Receive, gone: asyncio.Event) -> None:
    """Return when the client has left; its body is read by another, which sets `gone`."""
    await gone.wait()
    await left(receive)
