"""Frames on real sockets: whole, in pieces, with buffers and descriptors, and foreign bytes."""

from __future__ import annotations

import json
import os
import socket
import struct
import threading
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runpod_flash.wire import frames
from runpod_flash.wire.frames import Frame, FrameError, FrameReader

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield ours, theirs


def joined(frame: Frame) -> bytes:
    return b"".join(map(bytes, frames.encode(frame)))


def plain(frame: Frame) -> tuple[str, dict[str, Any], list[bytes]]:
    return frame.type, frame.fields, [bytes(buffer) for buffer in frame.buffers]


def read_all(reader: FrameReader) -> list[Frame]:
    """What is there by now."""
    found: list[Frame] = []
    while True:
        arrived = reader.read()
        if not arrived and reader.drained:
            return found
        found += arrived or []


SMALL = Frame("job", {"job": "1", "text": "é\n"}, (b"body", b"", b"more"))
BIG = Frame("result", {"n": 1}, (b"x" * 300_000, memoryview(b"y" * 20_000), bytearray(b"z")))


@pytest.mark.parametrize("frame", [Frame("ready"), SMALL, BIG], ids=["bare", "small", "big"])
def test_a_frame_arrives_as_it_was_sent(
    pair: tuple[socket.socket, socket.socket], frame: Frame
) -> None:
    sender = threading.Thread(target=frames.send_all, args=(pair[0], frame))
    sender.start()
    reader = FrameReader(pair[1])
    found: list[Frame] = []
    while not found:
        found += reader.read(wait=True) or []
    sender.join()
    assert [plain(each) for each in found] == [plain(frame)]


def test_a_frame_cut_at_every_byte_is_put_together(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    data = joined(SMALL) + joined(Frame("ready")) + joined(SMALL)
    for cut in range(1, len(data)):
        reader = FrameReader(pair[1])
        pair[0].sendall(data[:cut])
        found = read_all(reader)
        pair[0].sendall(data[cut:])
        found += read_all(reader)
        assert [plain(f) for f in found] == [plain(SMALL), plain(Frame("ready")), plain(SMALL)]


def test_frames_that_come_byte_by_byte_are_put_together(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    reader = FrameReader(pair[1])
    found: list[Frame] = []
    for byte in joined(SMALL) * 2:
        pair[0].sendall(bytes([byte]))
        found += read_all(reader)
    assert [plain(frame) for frame in found] == [plain(SMALL)] * 2


@settings(max_examples=40)
@given(
    sizes=st.lists(st.lists(st.sampled_from([0, 1, 7, 16384, 16385, 70_000]), max_size=4)),
    chunk=st.integers(1, 100_000),
)
def test_any_sequence_of_frames_survives_any_cutting(sizes: list[list[int]], chunk: int) -> None:
    sent = [
        Frame("t", {"n": n}, tuple(bytes([n % 251]) * size for size in each))
        for n, each in enumerate(sizes)
    ]
    data = b"".join(map(joined, sent))
    chunk = max(chunk, len(data) // 200 + 1)
    found: list[Frame] = []
    ours, theirs = socket.socketpair()
    with ours, theirs:
        reader = FrameReader(theirs)
        for start in range(0, len(data), chunk):
            ours.sendall(data[start : start + chunk])
            found += read_all(reader)
    assert [plain(frame) for frame in found] == [plain(frame) for frame in sent]


def test_many_buffers_more_than_one_sendmsg_takes_arrive(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    frame = Frame("many", {}, tuple(bytes([n % 256]) * 100 for n in range(3000)))
    sender = threading.Thread(target=frames.send_all, args=(pair[0], frame))
    sender.start()
    reader = FrameReader(pair[1])
    found: list[Frame] = []
    while not found:
        found += reader.read(wait=True) or []
    sender.join()
    assert plain(found[0]) == plain(frame)


def test_the_end_of_the_stream_is_none_also_in_the_middle_of_a_frame(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    pair[0].sendall(joined(BIG)[:100_000])
    reader = FrameReader(pair[1])
    assert read_all(reader) == []
    pair[0].close()
    assert reader.read() is None


def test_an_empty_socket_gives_no_frames_and_does_not_wait(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    assert FrameReader(pair[1]).read() == []


def header(text: bytes, buffers: int = 0, fds: int = 0, lengths: bytes = b"") -> bytes:
    return struct.pack("!IHH", len(text), buffers, fds) + lengths + text


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
        header(b"not json"),
        header(b"\xff\xfe"),
        header(b"[1, 2]"),
        header(b"5"),
        header(b'{"no": "type"}'),
        header(b'{"t": 5}'),
        header(b'{"t": ["job"]}'),
        header(b"[" * 100_000),
        header(b'{"t": "x"}', fds=65),
        header(b'{"t": "x"}', fds=1),
        header(b'{"t": "x"}', 1, lengths=struct.pack("!Q", 1 << 62)),
        struct.pack("!IHH", (16 << 20) + 1, 0, 0),
    ],
)
def test_foreign_bytes_are_refused(pair: tuple[socket.socket, socket.socket], data: bytes) -> None:
    sender = threading.Thread(target=pair[0].sendall, args=(data,))
    sender.start()
    reader = FrameReader(pair[1])
    with pytest.raises(FrameError):
        while True:
            reader.read(wait=True)
    sender.join()


@pytest.mark.parametrize(
    "frame",
    [
        Frame("x", {}, (b"",) * 65_536),
        Frame("x", {"text": "x" * (17 << 20)}),
        Frame("x", {}, (), tuple(range(65))),
    ],
    ids=["buffers", "header", "descriptors"],
)
def test_a_frame_that_no_reader_would_take_is_refused_before_it_is_sent(frame: Frame) -> None:
    with pytest.raises(FrameError, match="travel"):
        frames.encode(frame)


# Descriptors


def pipes(count: int) -> list[tuple[int, int]]:
    return [os.pipe() for _ in range(count)]


@pytest.mark.parametrize("size", [0, 10, 300_000])
def test_descriptors_travel_with_their_frame(
    pair: tuple[socket.socket, socket.socket], size: int
) -> None:
    reads, writes = zip(*pipes(2), strict=True)
    frame = Frame("files", {}, (b"x" * size,), reads)
    sender = threading.Thread(target=frames.send_all, args=(pair[0], frame))
    sender.start()
    reader = FrameReader(pair[1])
    found: list[Frame] = []
    while not found:
        found += reader.read(wait=True) or []
    sender.join()
    for n, (write, fd) in enumerate(zip(writes, found[0].fds, strict=True)):
        os.write(write, b"%d" % n)
        assert os.read(fd, 10) == b"%d" % n
        assert not os.get_inheritable(fd), "no child process gets it by accident"
    for fd in (*reads, *writes, *found[0].fds):
        os.close(fd)


def test_descriptors_are_told_apart_between_frames(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    made = pipes(3)
    for n, (read, _) in enumerate(made):
        frames.send_all(pair[0], Frame("plain", {"n": n}))
        frames.send_all(pair[0], Frame("files", {"n": n}, (b"x" * 10,), (read,)))
    found: list[Frame] = []
    reader = FrameReader(pair[1])
    while len(found) < 6:
        found += reader.read(wait=True) or []
    for n, frame in enumerate(frame for frame in found if frame.type == "files"):
        os.write(made[n][1], b"%d" % n)
        assert os.read(frame.fds[0], 10) == b"%d" % n
        os.close(frame.fds[0])
    for fds in made:
        for fd in fds:
            os.close(fd)


def test_descriptors_of_a_frame_that_never_completed_are_closed(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    ((read, write),) = pipes(1)
    data = joined(Frame("files", {}, (b"x" * 100,), (read,)))
    frames.sendmsg(pair[0], [memoryview(data[:50])], (read,))
    reader = FrameReader(pair[1])
    assert reader.read(wait=True) == []
    os.close(read)
    reader.close()
    with pytest.raises(BrokenPipeError):
        os.write(write, b"x")
    os.close(write)


def test_the_header_is_json_that_other_programs_can_read() -> None:
    data = joined(Frame("log", {"text": "é"}))
    size, buffers, fds = struct.unpack_from("!IHH", data)
    assert json.loads(data[8 : 8 + size]) == {"t": "log", "text": "é"}
    assert (buffers, fds) == (0, 0)


@given(st.lists(st.binary(max_size=30_000), max_size=10))
def test_a_kept_frame_is_taken_apart_as_a_reader_does(buffers: list[bytes]) -> None:
    data = joined(Frame("call", {"form": "input"}, tuple(buffers)))
    header, found = frames.take_apart(data)
    assert frames.fields_of(header) == {"form": "input"}
    assert found == buffers
    (read,) = frames.decode(data)
    assert plain(read) == ("call", {"form": "input"}, buffers)


@pytest.mark.parametrize("data", [b"", b"\0" * 7, b"\0\0\0\1\0\0\0\0", b"\0\0\0\0\xff\xff\0\0"])
def test_what_is_no_whole_frame_is_not_taken_apart(data: bytes) -> None:
    with pytest.raises(FrameError):
        frames.take_apart(data)


@pytest.mark.parametrize("end", [-1, 1])
def test_a_frame_that_was_cut_or_grew_is_not_taken_apart(end: int) -> None:
    whole = joined(Frame("call", {}, (b"value",)))
    with pytest.raises(FrameError):
        frames.take_apart((whole + b"x")[: len(whole) + end])
