"""How answers come over a connection: whole, and no later than they could."""

from __future__ import annotations

import asyncio
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

import pytest
import uvloop

from runpod_flash.gateway.server import GatewayServer

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    Application = Callable[[Any, Any, Any], Awaitable[None]]
    Scenario = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]

LOOPS = [asyncio.new_event_loop, uvloop.new_event_loop]
asked: ContextVar[str] = ContextVar("asked", default="")
GET = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"


def run(loop: asyncio.AbstractEventLoop, app: Application, scenario: Scenario) -> None:
    """Serve the application, and have the scenario talk to it."""

    async def main() -> None:
        server = GatewayServer(app, "127.0.0.1", 0)
        await server.start()
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        try:
            await asyncio.wait_for(scenario(reader, writer), 20)
        finally:
            writer.close()
            await server.stop(1)

    try:
        loop.run_until_complete(main())
    finally:
        loop.close()


async def start(send: Any, size: int) -> None:
    headers = [(b"content-length", b"%d" % size)]
    await send({"type": "http.response.start", "status": 200, "headers": headers})


@pytest.mark.parametrize("new_loop", LOOPS)
@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
@pytest.mark.parametrize("size", [0, 5, 300_000])
def test_an_answer_is_whole_whatever_its_body_is(new_loop: Any, kind: Any, size: int) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await start(send, size)
        await send({"type": "http.response.body", "body": kind(b"x" * size)})

    async def scenario(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for _ in range(2):
            writer.write(GET)
            head = await reader.readuntil(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 200 OK\r\n")
            assert await reader.readexactly(size) == b"x" * size

    run(new_loop(), app, scenario)


@pytest.mark.parametrize("new_loop", LOOPS)
def test_the_head_of_a_stream_does_not_wait_for_its_first_chunk(new_loop: Any) -> None:
    go_on = asyncio.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await start(send, 4)
        await go_on.wait()
        await send({"type": "http.response.body", "body": b"ab", "more_body": True})
        await send({"type": "http.response.body", "body": b"cd"})

    async def scenario(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(GET)
        await reader.readuntil(b"\r\n\r\n")
        go_on.set()
        assert await reader.readexactly(4) == b"abcd"

    run(new_loop(), app, scenario)


@pytest.mark.parametrize("new_loop", LOOPS)
def test_a_short_answer_comes_in_one_piece_and_before_the_connection_ends(new_loop: Any) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await start(send, 4)
        await send({"type": "http.response.body", "body": b"abcd"})

    async def scenario(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(GET.replace(b"Host", b"Connection: close\r\nHost"))
        answer = await reader.read(1000)
        assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
        assert answer.endswith(b"\r\n\r\nabcd")
        assert await reader.read(1000) == b""

    run(new_loop(), app, scenario)


async def echo(scope: Any, receive: Any, send: Any) -> None:
    """Answers with the path and the body; waits in between where the path says so."""
    body, more = b"", True
    while more:
        message = await receive()
        body, more = body + message["body"], message["more_body"]
    if scope["path"].startswith("/slow"):
        await asyncio.sleep(0.05)
    said = f"{scope['path']} {body.decode()}".encode()
    await start(send, len(said))
    await send({"type": "http.response.body", "body": said})


def post(path: str, body: bytes) -> bytes:
    return b"POST %s HTTP/1.1\r\nHost: localhost\r\ncontent-length: %d\r\n\r\n%s" % (
        path.encode(),
        len(body),
        body,
    )


async def answered(reader: asyncio.StreamReader) -> bytes:
    head = await reader.readuntil(b"\r\n\r\n")
    (size,) = [line for line in head.split(b"\r\n") if line.startswith(b"content-length")]
    return await reader.readexactly(int(size.partition(b":")[2]))


@pytest.mark.parametrize("new_loop", LOOPS)
def test_requests_that_come_in_one_piece_are_answered_in_their_order(new_loop: Any) -> None:
    async def scenario(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        paths = ["/one", "/slow/two", "/three", "/slow/four", "/five"]
        writer.write(b"".join(post(path, b"x") for path in paths))
        assert [await answered(reader) for _ in paths] == [f"{p} x".encode() for p in paths]

    run(new_loop(), echo, scenario)


@pytest.mark.parametrize("new_loop", LOOPS)
def test_a_body_may_come_after_its_head_and_in_pieces(new_loop: Any) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        assert asyncio.current_task() is not None
        assert asked.get() == "", "what the request before has set is not seen"
        asked.set(scope["path"])
        await echo(scope, receive, send)

    async def scenario(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for path in ("/one", "/slow/two"):
            for piece in (post(path, b"abcdef")[:-6], b"abc", b"def"):
                writer.write(piece)
                await asyncio.sleep(0.02)
            assert await answered(reader) == f"{path} abcdef".encode()

    run(new_loop(), app, scenario)


@pytest.mark.parametrize("new_loop", LOOPS)
def test_nonsense_after_a_request_ends_the_connection_with_an_answer(new_loop: Any) -> None:
    async def scenario(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(post("/slow", b"x") + b"no request\r\n\r\n")
        said = await reader.read()
        assert said.startswith(b"HTTP/1.1 400 Bad Request\r\n")

    run(new_loop(), echo, scenario)


@pytest.mark.parametrize("new_loop", LOOPS)
def test_what_was_read_first_begins_first(new_loop: Any) -> None:
    """As jobs do that a program queues one after the other, over several connections."""
    begun: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        while (await receive())["more_body"]:
            pass
        begun.append(scope["path"])
        await start(send, 0)
        await send({"type": "http.response.body", "body": b""})

    async def scenario(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        address = writer.get_extra_info("peername")
        other_reader, other = await asyncio.open_connection(*address)
        for _ in range(20):
            begun.clear()
            writer.write(post("/first", b"x")[:-1])
            await asyncio.sleep(0.01)
            writer.write(b"x")
            other.write(post("/second", b"x"))
            await reader.readuntil(b"\r\n\r\n")
            await other_reader.readuntil(b"\r\n\r\n")
            assert begun == ["/first", "/second"]
        other.close()

    run(new_loop(), app, scenario)
