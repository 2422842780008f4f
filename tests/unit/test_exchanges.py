"""Requests within a worker, whose frames go to a link."""

from __future__ import annotations

import asyncio
from typing import Any

from runpod_flash.wire import frames
from runpod_flash.wire.frames import Frame
from runpod_flash.worker.exchanges import ExchangeRunner


class Wire:
    """Frames as they leave a worker, and are read again."""

    def __init__(self) -> None:
        self.sent: list[Frame] = []

    def send(self, *sent: Frame) -> None:
        pieces = [piece for frame in sent for piece in frames.encode(frame)]
        self.sent += frames.decode(b"".join(map(bytes, pieces)))

    def end_job(self, job_id: str) -> None:
        """There are no lines."""


def request(exchange: str, path: str) -> Frame:
    scope: dict[str, Any] = {
        "type": "http",
        "path": path,
        "raw_path": None,
        "query": "",
        "headers": [],
    }
    scope |= {"client": None, "server": None, "method": "GET"}
    return Frame("asgi_start", {"exchange": exchange, "scope": scope, "more": False})


async def app(scope: Any, receive: Any, send: Any) -> None:
    headers = [(b"x-long", b"x" * (17 << 20))] if scope["path"] == "/long" else []
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": b"a", "more_body": True})
    await asyncio.sleep(0 if scope["path"] == "/short" else 100)
    await send({"type": "http.response.body", "body": b"b"})


def test_a_response_that_no_frame_takes_ends_its_own_request_alone() -> None:
    async def whole() -> list[Frame]:
        wire, ended = Wire(), asyncio.Semaphore(0)
        runner = ExchangeRunner(wire, app, None, wire, ended.release)
        for exchange, path in (("1", "/short"), ("2", "/long"), ("3", "/short")):
            runner.handle(request(exchange, path))
        for _ in range(3):
            await asyncio.wait_for(ended.acquire(), 20)
        await asyncio.sleep(0.01)
        return wire.sent

    sent = asyncio.run(whole())
    for exchange in ("1", "3"):
        own = [frame for frame in sent if frame.fields["exchange"] == exchange]
        assert [frame.type for frame in own] == ["asgi_response", "asgi_body"]
        assert own[-1].fields["end"]
    first = next(frame for frame in sent if frame.fields["exchange"] == "2")
    assert first.type == "asgi_end" and "header bytes" in first.fields["failure"]["message"]
