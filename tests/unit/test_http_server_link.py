"""The link to a worker that is an HTTP server, on real sockets: what it is asked, and what not."""

from __future__ import annotations

import asyncio
import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest

from runpod_flash.links.base import Part
from runpod_flash.links.http_server import HttpServerLink
from runpod_flash.plane.store.base import Call, Job, JobState, Policy
from runpod_flash.wire.codec import encode
from unit.rig import spec
from unit.test_framed_link import Heard

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable


class Server:
    """Answers each request with `body`, none where that is None. `asked`: their first lines."""

    def __init__(self, body: bytes | None = b"{}") -> None:
        self.asked: list[str] = []
        self.came, self.left = asyncio.Event(), asyncio.Event()
        self._body = body

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.address = f"127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        self.asked.append(head.partition(b" HTTP/")[0].decode())
        self.came.set()
        if self._body is not None:
            size = b"content-length: %d" % len(self._body)
            writer.write(b"HTTP/1.1 200 OK\r\nconnection: close\r\n%s\r\n\r\n" % size + self._body)
        else:
            await reader.read()
            self.left.set()
        writer.close()

    async def close(self) -> None:
        self._server.close()
        await self._server.wait_closed()


@asynccontextmanager
async def started(body: bytes | None = b"{}") -> AsyncIterator[Server]:
    server = Server(body)
    await server.start()
    try:
        yield server
    finally:
        await server.close()


class Linked:
    """A link to a server, and what it has told."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.heard = Heard()
        self.link = HttpServerLink("it-1", f"http://{server.address}")
        self.link.open(self.heard, spec(), {})

    async def hears(self, name: str) -> Any:
        deadline = time.monotonic() + 20
        while name not in self.heard.names:
            assert time.monotonic() < deadline, self.heard.names
            await asyncio.sleep(0.001)
        return next(args for heard, args in self.heard.calls if heard == name)

    def run(self, value: Any) -> None:
        call, state = Call(encode(value), "input"), JobState.IN_PROGRESS
        job = Job("1", "e", call, Policy(), "", 0, state, 1, 0, 0, 0.0, 0.0, None, None)
        self.link.run(job, trusted=True)

    async def fails(self, value: Any) -> str:
        """The message of the failure by which a job with such an input ends."""
        self.heard.calls.clear()
        self.run(value)
        _, failure = await self.hears("failed")
        return str(failure.message)

    def request(self, path: str, raw_path: str = "", kind: str = "http") -> None:
        """Begin the exchange `x`."""
        headers = [["host", "localhost"]]
        if kind == "websocket":
            headers += [["connection", "upgrade"], ["upgrade", "websocket"]]
        scope = {
            "type": kind,
            "method": "GET",
            "http_version": "1.1",
            "scheme": "http",
            "path": f"/it{path}",
            "raw_path": f"/it{raw_path or path}",
            "query": "",
            "root_path": "/it",
            "headers": headers,
            "client": None,
            "server": None,
            "subprotocols": [],
        }
        self.link.exchange(Part("x", "start", {"scope": scope, "more": False}))


def play(scenario: Callable[[Linked], Awaitable[None]], body: bytes | None = b"{}") -> None:
    async def whole() -> None:
        async with started(body) as server:
            linked = Linked(server)
            try:
                await scenario(linked)
            finally:
                linked.link.close()
                await asyncio.sleep(0)

    asyncio.run(whole())


# Jobs


@pytest.mark.parametrize(
    "route",
    ["@{}/latest/", "//{}/x", "/\\{}", "/v1/../../x", "/x\r\nhost: {}", "/x\0", "/x#y", "{}", ""],
)
def test_a_job_s_route_is_nothing_but_a_path_on_the_worker_s_server(route: str) -> None:
    async def scenario(linked: Linked) -> None:
        async with started() as other:
            told = await linked.fails({"openai_route": route.format(other.address)})
            assert "'openai_route' is a path on the worker's server, such as /v1/models" in told
            assert (linked.server.asked, other.asked) == ([], [])

    play(scenario)


def test_a_job_s_route_may_have_a_query() -> None:
    async def scenario(linked: Linked) -> None:
        linked.run({"openai_route": "/v1/models/a/b c?after=1&x=../y"})
        await linked.hears("finished")
        assert linked.server.asked == ["GET /v1/models/a/b%20c?after=1&x=../y"]

    play(scenario)


@pytest.mark.parametrize("body", [["a"], "text", 1, True])
def test_a_body_that_is_no_object_ends_its_job(body: Any) -> None:
    async def scenario(linked: Linked) -> None:
        told = await linked.fails({"openai_route": "/v1/completions", "openai_input": body})
        assert "'openai_input' is the request's body, an object" in told
        assert repr(body) in told

    play(scenario)


def test_whatever_goes_wrong_ends_the_job() -> None:
    async def scenario(linked: Linked) -> None:
        assert "URL too long" in await linked.fails({"openai_route": f"/{'x' * 70_000}"})
        assert "recursion" in await linked.fails({"prompt": "x"})

    play(scenario, b"[" * 200_000)


# Requests


def test_a_request_goes_to_no_other_server() -> None:
    async def scenario(linked: Linked) -> None:
        async with started() as other:
            linked.request(f"/@{other.address}/x", f"%2F@{other.address}/x")
            await linked.hears("exchange")
            assert linked.server.asked == [f"GET /%40{other.address.replace(':', '%3A')}/x"]
            assert other.asked == []

    play(scenario)


@pytest.mark.parametrize("kind", ["http", "websocket"])
def test_a_request_that_is_called_off_leaves_the_server(kind: str) -> None:
    async def scenario(linked: Linked) -> None:
        linked.request("/slow", kind=kind)
        await linked.server.came.wait()
        fields = {"cancel": True, "code": 1001, "reason": ""}
        linked.link.exchange(Part("x", "disconnect", fields))
        await asyncio.wait_for(linked.server.left.wait(), 5)

    play(scenario, None)
