"""What `flash dev --target` passes on to its target, and what not."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest

from runpod_flash.gateway.forward import Forward
from runpod_flash.gateway.messages import Answer
from runpod_flash.gateway.server import GatewayServer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

SOCKET = (
    "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
)


class Target:
    """Notes the paths that it is asked for, with the key that comes along."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, bytes]] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.asked.append((scope["raw_path"].decode(), dict(scope["headers"])[b"x-flash-key"]))
        if scope["type"] == "http":
            await Answer(200, b"{}").send(send)
        else:
            await send({"type": "websocket.close", "code": 1000})


@asynccontextmanager
async def forwarding(target: Target) -> AsyncIterator[Callable[..., Awaitable[tuple[int, str]]]]:
    """Asks a Forward for paths as they are, which HTTP clients would normalise."""
    far = GatewayServer(target, "127.0.0.1", 0)
    await far.start()
    forward = Forward(f"{far.address}/s/abc", "the-key")
    near = GatewayServer(forward, "127.0.0.1", 0)
    await near.start()

    async def ask(path: str, more: str = "Connection: close\r\n") -> tuple[int, str]:
        reader, writer = await asyncio.open_connection("127.0.0.1", near.port)
        writer.write(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n{more}\r\n".encode())
        answer = (await reader.read()).decode()
        writer.close()
        return int(answer.split()[1]), answer.partition("\r\n\r\n")[2]

    try:
        yield ask
    finally:
        await near.stop(1)
        await forward.close()
        await far.stop(1)


@pytest.mark.parametrize(
    "path",
    [
        "/../../v2/keys",
        "/main/../../../v2/keys",
        "/%2e%2e/%2E%2e/v2/keys",
        "/.%2e/.%2e/v2/keys",
        "/..%2f..%2fv2/keys",
        "/..\\..\\v2\\keys",
        "/%2e%2e%5c%2e%2e%5cv2/keys",
        "/./main/run",
        "/main/..",
    ],
)
def test_no_path_leads_out_of_what_the_target_serves_for_it(path: str) -> None:
    async def scenario() -> None:
        target = Target()
        async with forwarding(target) as ask:
            status, said = await ask(path)
            assert status == 400
            assert "a segment . or .." in said
            status, _ = await ask(path, SOCKET)
            assert status == 403
        assert not target.asked

    asyncio.run(scenario())


def test_other_paths_go_on_as_they_are() -> None:
    async def scenario() -> None:
        target = Target()
        paths = ["/main/run", "/a%20b/..c/d..", "/...", "/v1.2/x%2Fy", "//x"]
        async with forwarding(target) as ask:
            for path in paths:
                assert (await ask(path))[0] == 200
        assert target.asked == [(f"/s/abc{path}", b"the-key") for path in paths]

    asyncio.run(scenario())
