"""A proxy in front of a test's server that answers some requests with a status of its own."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import httpx

from runpod_flash.gateway.messages import Answer, read_body
from runpod_flash.gateway.server import GatewayServer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable


class Proxy:
    """`disturb` gives the status to answer a request with, by method and path; 0 to pass it on.

    `passed` lists what was passed on.
    """

    def __init__(self, target: str, disturb: Callable[[str, str], int]) -> None:
        self._http = httpx.AsyncClient(base_url=target, timeout=90)
        self._disturb = disturb
        self.passed: list[tuple[str, str]] = []
        self.server = GatewayServer(self, "localhost", 0)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        method, path = scope["method"], scope["path"]
        body = await read_body(scope, receive, 1 << 24, "")
        status = self._disturb(method, path)
        if status:
            await Answer(status, b"{}").send(send)
            return
        self.passed.append((method, path))
        url = f"{path}?{scope['query_string'].decode()}"
        wanted = ("authorization", "content-type")
        headers = {k.decode(): v.decode() for k, v in scope["headers"] if k.decode() in wanted}
        found = await self._http.request(method, url, content=body, headers=headers)
        await Answer(found.status_code, found.content).send(send)

    async def close(self) -> None:
        await self.server.stop(1)
        await self._http.aclose()


@asynccontextmanager
async def proxied(target: str, disturb: Callable[[str, str], int]) -> AsyncIterator[Proxy]:
    proxy = Proxy(target, disturb)
    await proxy.server.start()
    try:
        yield proxy
    finally:
        await proxy.close()
