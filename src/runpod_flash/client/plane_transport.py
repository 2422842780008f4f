"""Requests to an endpoint of the embedded plane, without a server between: a transport of httpx."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import httpx

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from concurrent.futures import Future

    from runpod_flash.client.embedded import EmbeddedBackend
    from runpod_flash.functions import Target


class PlaneTransport(httpx.AsyncBaseTransport):
    """For the caller's loop; the plane has another one. Raises why no worker answers."""

    def __init__(self, backend: EmbeddedBackend, target: Target) -> None:
        self._backend = backend
        self._target = target

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        body = await request.aread()
        exchange = _Exchange(body)
        url = request.url
        scope = {
            "type": "http",
            "method": request.method,
            "path": url.path,
            "raw_path": url.raw_path.partition(b"?")[0],
            "query_string": url.query,
            "headers": [(n.lower(), v) for n, v in request.headers.raw],
        }
        work = self._backend.serve_request(self._target, scope, exchange.receive, exchange.send)
        exchange.follow(work)
        start = await exchange.next()
        return httpx.Response(start["status"], headers=start["headers"], stream=exchange)


class _Exchange(httpx.AsyncByteStream):
    """One request. `receive` and `send` are called on the plane's loop, the rest on another."""

    def __init__(self, body: bytes) -> None:
        self._loop = asyncio.get_running_loop()
        self._messages: asyncio.Queue[Any] = asyncio.Queue()
        self._body: bytes | None = body
        self._work: Future[None] | None = None

    def follow(self, work: Future[None]) -> None:
        self._work = work
        work.add_done_callback(self._done)

    def _done(self, work: Future[None]) -> None:
        error = None if work.cancelled() else work.exception()
        self._pass_on(error or httpx.RemoteProtocolError("the response is not whole"))

    def _pass_on(self, message: Any) -> None:
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._messages.put_nowait, message)

    async def receive(self) -> dict[str, Any]:
        if self._body is not None:
            body, self._body = self._body, None
            return {"type": "http.request", "body": body, "more_body": False}
        await asyncio.get_running_loop().create_future()  # until `aclose`
        return {"type": "http.disconnect"}

    async def send(self, message: Any) -> None:
        self._pass_on(message)

    async def next(self) -> Any:
        message = await self._messages.get()
        if isinstance(message, BaseException):
            raise message
        return message

    async def __aiter__(self) -> AsyncIterator[bytes]:
        more = True
        while more:
            message = await self.next()
            more = message.get("more_body", False)
            yield message.get("body", b"")

    async def aclose(self) -> None:
        if self._work is not None:
            self._work.cancel()
