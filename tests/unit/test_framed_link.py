"""The framed link over real socket pairs: who may speak, what gets through, who may not wait."""

from __future__ import annotations

import asyncio
import os
import socket
import sys
import tempfile
import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from runpod_flash.links.base import JobRef
from runpod_flash.links.framed import FramedLink
from runpod_flash.plane.store.base import Call, Job, JobState, Policy
from runpod_flash.wire import frames
from runpod_flash.wire.codec import Payload, decode, encode
from runpod_flash.wire.failures import Failure, to_wire
from runpod_flash.wire.frames import PROTOCOL, Frame, FrameReader
from runpod_flash.wire.shared_memory import SharedMemory, Sharing
from unit.rig import spec

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from runpod_flash.wire.codec import Buffer

HELLO = Frame("hello", {"version": PROTOCOL, "worker": "w", "token": "secret"})
REF = {"job": "1", "attempt": 1}

needs_memory_files = pytest.mark.skipif(sys.platform != "linux", reason="has no memory files")


class Heard:
    """`LinkEvents` that keeps what it hears."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, tuple[Any, ...]]] = []

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *args: self.calls.append((name, args))

    @property
    def names(self) -> list[str]:
        return [name for name, _ in self.calls]


@dataclass
class Peers:
    link: FramedLink
    worker: socket.socket
    heard: Heard = field(default_factory=Heard)
    errors: list[dict[str, Any]] = field(default_factory=list)

    def say(self, *sent: Frame) -> None:
        for frame in sent:
            frames.send_all(self.worker, frame)

    async def until(self, done: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 20
        while not done():
            assert time.monotonic() < deadline, self.heard.names
            await asyncio.sleep(0.001)

    async def hears(self, name: str, count: int = 1) -> None:
        await self.until(lambda: self.heard.names.count(name) >= count)

    def read(self, count: int) -> list[Frame]:
        """Blocking: the next frames that the worker gets."""
        reader = FrameReader(self.worker)
        found: list[Frame] = []
        while len(found) < count:
            arrived = reader.read(wait=True)
            assert arrived is not None
            found += arrived
        return found


def play(
    scenario: Callable[[Peers], Awaitable[None]],
    *,
    greet: bool = True,
    memory: SharedMemory | None = None,
) -> Peers:
    async def whole() -> Peers:
        ours, theirs = socket.socketpair()
        loop = asyncio.get_running_loop()
        peers = Peers(FramedLink(ours, loop, "w", "secret", memory=memory), theirs)
        loop.set_exception_handler(lambda _, context: peers.errors.append(context))
        peers.link.open(peers.heard, spec(), {"CALLER": "1"})
        if greet:
            peers.say(HELLO)
        with theirs:
            await scenario(peers)
        peers.link.close()
        return peers

    return asyncio.run(whole())


def job(id_: str = "1", body: bytes = b"[]", buffers: tuple[Buffer, ...] = (), **more: Any) -> Job:
    call = Call(Payload(body, buffers), **more)
    return Job(id_, "e", call, Policy(), "", 0, JobState.IN_PROGRESS, 1, 0, 0, 0.0, 0.0, None, None)


# Who may speak


def test_the_worker_is_told_what_to_load_before_anything_else() -> None:
    async def scenario(peers: Peers) -> None:
        (start,) = peers.read(1)
        assert start.type == "start"
        assert start.fields["caller_env"] == {"CALLER": "1"}
        assert start.fields["spec"]["name"] == "a"

    play(scenario)


@pytest.mark.parametrize(
    "first",
    [
        Frame("hello", {"version": PROTOCOL + 1, "worker": "w", "token": "secret"}),
        Frame("hello", {"version": PROTOCOL, "worker": "w", "token": "guessed"}),
        Frame("hello"),
        Frame("ready"),
        Frame("result", REF, (b"1",)),
    ],
)
def test_a_peer_of_another_version_or_without_the_token_is_closed_out(first: Frame) -> None:
    async def scenario(peers: Peers) -> None:
        peers.say(first, Frame("ready"))
        await peers.hears("closed")

    peers = play(scenario, greet=False)
    assert peers.heard.names == ["closed"]


@pytest.mark.parametrize(
    "bad",
    [
        Frame("unheard-of"),
        Frame("result", REF),
        Frame("result", {"attempt": 1}, (b"1",)),
        Frame("chunk", REF, (b"1",)),
        Frame("failed", REF),
        Frame("log", {}),
        Frame("call", {"operation": "wait"}),
    ],
)
def test_a_frame_that_makes_no_sense_ends_the_link_once(bad: Frame) -> None:
    async def scenario(peers: Peers) -> None:
        peers.say(bad, Frame("ready"))
        await peers.hears("closed")

    assert play(scenario).heard.names == ["closed"]


def test_foreign_bytes_end_the_link() -> None:
    async def scenario(peers: Peers) -> None:
        peers.worker.sendall(b"GET / HTTP/1.1\r\n\r\n")
        await peers.hears("closed")

    assert play(scenario).heard.names == ["closed"]


def test_the_peer_s_end_is_heard_after_its_last_words() -> None:
    async def scenario(peers: Peers) -> None:
        peers.say(Frame("ready"), Frame("result", REF, (b"1",)))
        peers.worker.close()
        await peers.hears("closed")

    assert play(scenario).heard.names == ["ready", "finished", "closed"]


def test_drain_hands_over_at_once_what_has_arrived() -> None:
    async def scenario(peers: Peers) -> None:
        peers.say(Frame("ready"), Frame("result", REF, (b"1",)))
        peers.worker.close()
        peers.link.drain()
        assert peers.heard.names == ["ready", "finished", "closed"]
        peers.link.drain()

    assert len(play(scenario).heard.names) == 3


def test_a_fault_in_the_plane_is_reported_and_costs_only_this_link() -> None:
    async def scenario(peers: Peers) -> None:
        def fail() -> None:
            raise RuntimeError("a fault")

        vars(peers.heard)["ready"] = fail
        peers.say(Frame("ready"))
        await peers.hears("closed")
        assert str(peers.errors[0]["exception"]) == "a fault"

    play(scenario)


def test_descriptors_that_nobody_asked_for_are_closed() -> None:
    async def scenario(peers: Peers) -> None:
        read, write = os.pipe()
        peers.say(Frame("ready", {}, (), (read,)))
        os.close(read)
        await peers.hears("ready")
        with pytest.raises(BrokenPipeError):
            os.write(write, b"x")
        os.close(write)

    play(scenario)


# What gets through


def test_everything_that_a_worker_says_is_heard_in_order() -> None:
    failure = Failure("builtins", "ValueError", "no")

    async def scenario(peers: Peers) -> None:
        peers.say(
            Frame("ready"),
            Frame("chunk", {**REF, "index": 0}, (b"c", b"buffer")),
            Frame("log", {"text": "line", "stream": "stderr", "job": "1"}),
            Frame("result", REF, (b"r",)),
            Frame("failed", {**REF, "failure": to_wire(failure)}),
            Frame("stopped", REF),
            Frame("call", {"call": 7, "operation": "submit", "constructor": 1}, (b"p", b"c")),
            Frame("start_failed", {"failure": to_wire(failure)}),
        )
        await peers.hears("start_failed")

    heard = dict(play(scenario).heard.calls)
    ref = JobRef("1", 1)
    assert heard["chunk"] == (ref, 0, Payload(b"c", (bytearray(b"buffer"),)))
    assert heard["finished"] == (ref, Payload(b"r"))
    assert heard["failed"] == (ref, failure)
    assert heard["stopped"] == (ref,)
    assert (heard["log"][0].text, heard["log"][0].job_id) == ("line", "1")
    call = heard["call"][0]
    assert (call.call_id, call.operation) == (7, "submit")
    assert (call.payload, call.constructor) == (Payload(b"p"), Payload(b"c"))


def test_a_job_travels_with_its_buffers_method_and_constructor() -> None:
    async def scenario(peers: Peers) -> None:
        constructor = Payload(b"k", (b"kk",))
        peers.link.run(job("1", b"b", (b"bb",), method="m", constructor=constructor), trusted=True)
        _, frame = peers.read(2)
        assert frame.fields["method"] == "m"
        assert frame.fields["constructor"] == 2
        assert [bytes(each) for each in frame.buffers] == [b"b", b"bb", b"k", b"kk"]

    play(scenario)


def test_large_values_survive_the_way_in_both_directions() -> None:
    big = bytes(range(256)) * 40_000

    async def scenario(peers: Peers) -> None:
        peers.link.run(job(buffers=(big,)), trusted=True)
        _, frame = await asyncio.to_thread(peers.read, 2)
        assert bytes(frame.buffers[1]) == big
        await asyncio.to_thread(peers.say, Frame("result", REF, (b"1", big)))
        await peers.hears("finished")
        (_, (_, payload)) = peers.heard.calls[-1]
        assert bytes(payload.buffers[0]) == big

    play(scenario)


def later(seconds: float, function: Callable[[], None]) -> None:
    """Nothing here takes so long."""


@needs_memory_files
def test_large_arrays_go_by_shared_memory_in_both_directions() -> None:
    array = np.arange(1_000_000)
    ours, theirs = SharedMemory(1 << 30, later), SharedMemory(1 << 30, later)

    async def scenario(peers: Peers) -> None:
        worker = Sharing(theirs)
        payload = encode(array, room=ours.room)
        peers.link.run(job(body=payload.body, buffers=payload.buffers), trusted=True)
        start, frame = peers.read(2)
        assert start.fields["shares"] is True
        assert len(frame.fds) == 1 and not frame.buffers[1]
        peers.say(*filter(None, [worker.resolve(frame)]))
        assert np.array_equal(
            decode(Payload(bytes(frame.buffers[0]), frame.buffers[1:]), trusted=False), array
        )
        result = encode(array + 1, room=theirs.room)
        peers.say(worker.refer(Frame("result", REF, (result.body, *result.buffers))))
        await peers.hears("finished")
        (copied,) = peers.read(1)
        assert worker.copied(copied)
        (_, (_, found)) = peers.heard.calls[-1]
        assert np.array_equal(decode(found, trusted=False), array + 1)

    assert play(scenario, memory=ours).heard.names == ["finished"]


@needs_memory_files
def test_shared_memory_that_cannot_be_read_ends_the_link() -> None:
    async def scenario(peers: Peers) -> None:
        with tempfile.TemporaryFile() as file:
            fields = {**REF, "shared": [[1, 1, 1, 10]]}
            peers.say(Frame("result", fields, (b"1", b""), (file.fileno(),)))
        await peers.hears("closed")

    assert play(scenario, memory=SharedMemory(1 << 30, later)).heard.names == ["closed"]


@needs_memory_files
def test_descriptors_behind_shared_memory_that_cannot_be_read_are_closed() -> None:
    reading, writing = os.pipe()

    async def scenario(peers: Peers) -> None:
        with tempfile.TemporaryFile() as file:
            fields = {**REF, "shared": [[1, 1, 1, 10]]}
            wrong = Frame("result", fields, (b"1", b""), (file.fileno(),))
            behind = Frame("result", REF, (b"1",), (writing,))
            both = b"".join([*frames.encode(wrong), *frames.encode(behind)])
            frames.sendmsg(peers.worker, [memoryview(both)], (*wrong.fds, *behind.fds))
        os.close(writing)
        await peers.hears("closed")

    play(scenario, memory=SharedMemory(1 << 30, later))
    os.set_blocking(reading, False)
    try:
        assert os.read(reading, 1) == b"", "nobody has its other end any more"
    finally:
        os.close(reading)


@needs_memory_files
def test_a_worker_elsewhere_gets_large_arrays_with_their_frames() -> None:
    array = np.arange(1_000_000)
    payload = encode(array, room=SharedMemory(1 << 30, later).room)

    async def scenario(peers: Peers) -> None:
        peers.link.run(job(body=payload.body, buffers=payload.buffers), trusted=True)
        start, frame = await asyncio.to_thread(peers.read, 2)
        assert "shares" not in start.fields
        assert not frame.fds and bytes(frame.buffers[1]) == array.tobytes()

    play(scenario)


# Who must not wait


def test_a_peer_that_does_not_read_blocks_no_sender_and_gets_all_in_order_later() -> None:
    async def scenario(peers: Peers) -> None:
        before = time.monotonic()
        for n in range(200):
            peers.link.run(job(str(n), b"x" * (50_000 if n % 7 == 0 else 10)), trusted=True)
        peers.link.stop()
        assert time.monotonic() - before < 5
        found = await asyncio.to_thread(peers.read, 202)
        assert [f.fields["job"] for f in found[1:-1]] == [str(n) for n in range(200)]
        assert found[-1].type == "stop"

    play(scenario)


def test_frames_of_several_threads_stay_whole() -> None:
    async def scenario(peers: Peers) -> None:
        def send(thread: int) -> None:
            for n in range(50):
                body = bytes([thread]) * (100_000 if n % 10 == 0 else 100)
                peers.link.run(job(f"{thread}.{n}", body), trusted=True)

        threads = [threading.Thread(target=send, args=(n,)) for n in range(4)]
        for thread in threads:
            thread.start()
        found = (await asyncio.to_thread(peers.read, 201))[1:]
        for thread in threads:
            thread.join()
        for number in range(4):
            own = [f for f in found if f.fields["job"].startswith(f"{number}.")]
            assert [f.fields["job"] for f in own] == [f"{number}.{n}" for n in range(50)]
            assert all(set(bytes(f.buffers[0])) == {number} for f in own)

    play(scenario)


def test_writing_to_a_peer_that_is_gone_or_a_closed_link_raises_nothing() -> None:
    async def scenario(peers: Peers) -> None:
        peers.worker.close()
        for _ in range(3):
            peers.link.run(job(body=b"x" * 1_000_000), trusted=True)
        await peers.hears("closed")
        peers.link.run(job(), trusted=True)
        peers.link.close()

    assert play(scenario).heard.names == ["closed"]


def test_closing_with_words_unsent_leaves_no_callback_behind() -> None:
    async def scenario(peers: Peers) -> None:
        for _ in range(50):
            peers.link.run(job(body=b"x" * 100_000), trusted=True)
        peers.link.close()
        await asyncio.sleep(0.05)

    assert play(scenario).errors == []
