"""A server that limits how often each key may ask, over real HTTP."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from integration.served import serving
from runpod_flash.control.key import Key, KeyRing, digest
from runpod_flash.gateway.access import Keyed
from runpod_flash.gateway.rate_limit import RateLimit, RateLimiter
from runpod_flash.testing import ManualClock

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from integration.served import Served

FILES = {
    "work.py": """
        from runpod_flash import Endpoint

        @Endpoint(name="double", cpu="cpu3c-1-2")
        def double(x: int = 1) -> int:
            return 2 * x
    """,
    "web.py": """
        from fastapi import WebSocket
        from runpod_flash import Endpoint

        api = Endpoint(name="api", cpu="cpu3c-1-2")

        @api.get("/seen")
        async def seen() -> str:
            return "seen"

        @api.websocket("/echo")
        async def echo(socket: WebSocket):
            await socket.accept()
            await socket.close()
    """,
}


def limited(
    root: Path, text: str, scenario: Callable[[Served, ManualClock], Awaitable[None]]
) -> None:
    """Run a scenario against a server with the keys "a" and "b", whose limit has a clock."""
    ring = KeyRing(time.time)
    for name in "ab":
        ring.add(Key(f"key_{name}", name, "invoke", (), name, 0.0), digest(name.encode()))

    async def whole() -> None:
        clock = ManualClock()
        limiter = RateLimiter(RateLimit.parse(text), clock)
        async with serving(root, FILES, Keyed(ring), limiter=limiter) as served:
            await scenario(served, clock)

    asyncio.run(whole())


def key(name: str) -> Any:
    return {"authorization": f"Bearer {name}"}


def test_a_key_that_asks_too_often_is_told_when_to_ask_again(tmp_path: Path) -> None:
    async def scenario(served: Served, clock: ManualClock) -> None:
        async def asked(name: str) -> Any:
            return await served.post("/v2/double/runsync", {"input": {"x": 4}}, headers=key(name))

        assert [(await asked("a")).status_code for _ in range(3)] == [200, 200, 429]
        refused = await asked("a")
        assert refused.headers["retry-after"] == "5"
        assert refused.json().keys() == {"error"}
        assert (await asked("b")).json()["output"] == 8
        for _ in range(4):  # nothing is counted for a request that was not let in
            assert (await asked("forged")).status_code == 401
        clock.now += 5
        assert [(await asked("a")).status_code for _ in range(2)] == [200, 429]

    limited(tmp_path, "2/10s", scenario)


def test_the_operations_of_all_its_addresses_are_counted_and_nothing_else(tmp_path: Path) -> None:
    async def scenario(served: Served, clock: ManualClock) -> None:
        async def status(method: str, path: str) -> int:
            answer = await served.http.request(method, path, json={"input": {}}, headers=key("a"))
            return answer.status_code

        assert await status("POST", "/work/double/run") == 200
        assert await status("POST", "/v2/double/run") == 429  # by another address the same
        assert await status("GET", "/v2/double/health") == 200
        assert await status("GET", "/web/seen") == 200
        assert await status("GET", "/web/seen") == 429
        with pytest.raises(InvalidStatus) as refused:
            address = served.address.replace("http", "ws") + "/web/echo"
            await connect(address, additional_headers=key("a"))
        assert refused.value.response.status_code == 429
        assert refused.value.response.headers["retry-after"] == "60"
        for _ in range(3):
            assert await status("GET", "/ping") == 200
            assert await status("GET", "/nowhere") == 404

    limited(tmp_path, "1/m", scenario)
