"""Large buffers between two ends of a link: what travels, what is used again, what is let go of."""

from __future__ import annotations

import contextlib
import gc
import os
import socket
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from runpod_flash.wire import frames
from runpod_flash.wire.codec import Payload, decode, encode, payload_of
from runpod_flash.wire.frames import Frame, FrameError, FrameReader
from runpod_flash.wire.shared_memory import MOST_SEGMENTS, SMALLEST, SharedMemory, Sharing

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="has no memory files")

MB = 1_000_000
PLENTY = 1 << 30


class Timer:
    """`later`, on a clock that stands still until it is told to go on."""

    def __init__(self) -> None:
        self.due: list[Callable[[], None]] = []

    def __call__(self, seconds: float, function: Callable[[], None]) -> None:
        self.due.append(function)

    def go_on(self) -> None:
        due, self.due = self.due, []
        for function in due:
            function()


class End:
    """One end of a link, its process's memory with it."""

    def __init__(self, sock: socket.socket, most: int = PLENTY) -> None:
        self.timer = Timer()
        self.memory = SharedMemory(most, self.timer)
        self.sharing = Sharing(self.memory)
        self._sock = sock
        self._reader = FrameReader(sock)

    def encode(self, value: Any) -> Payload:
        return encode(value, room=self.memory.room)

    def send(self, payload: Payload) -> Frame:
        """What goes over the link for a value."""
        frame = self.sharing.refer(Frame("result", {}, (payload.body, *payload.buffers)))
        frames.send_all(self._sock, frame)
        return frame

    def receive(self) -> list[Frame]:
        arrived = self._reader.read(wait=True)
        assert arrived is not None
        return [frame for frame in arrived if not self.sharing.copied(frame)]

    def value(self, *, answer: bool = True) -> Any:
        """The value that has arrived."""
        (frame,) = self.receive()
        copied = self.sharing.resolve(frame)
        if copied is not None and answer:
            frames.send_all(self._sock, copied)
        payload = payload_of(frame.buffers)
        assert payload is not None
        return decode(payload, trusted=True)


@dataclass
class Pair:
    here: End
    there: End

    def carry(self, value: Any) -> Any:
        """The value at the other end; what it took here is free again."""
        self.here.send(self.here.encode(value))
        found = self.there.value()
        self.here.receive()
        return found


@pytest.fixture
def pair() -> Iterator[Pair]:
    ours, theirs = socket.socketpair()
    both = Pair(End(ours), End(theirs))
    with ours, theirs:
        yield both
    both.here.memory.close()
    both.there.memory.close()


def memory_files() -> int:
    """How many descriptors of this process are of memory files of Flash."""
    gc.collect()
    found = 0
    for path in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):
            found += "memfd:flash" in str(path.readlink())
    return found


def numbers(frame: Frame) -> list[int]:
    """The segments that a frame refers to."""
    return [segment for _, _, segment, _ in frame.fields.get("shared", ())]


ARRAYS = {
    "plain": np.arange(MB, dtype=np.float64),
    "just large enough": np.ones(SMALLEST, np.uint8),
    "transposed": np.arange(2 * MB, dtype=np.int32).reshape(1000, 2000).T,
    "every other": np.arange(4 * MB, dtype=np.int32)[::2],
    "of dates": np.arange(MB).astype("M8[s]"),
    "of text": np.array(["a", "longer"] * MB),
    "big-endian": np.arange(MB, dtype=">f8"),
    "read-only": np.broadcast_to(np.float64(1), (1000, 1000)),
}


@pytest.mark.parametrize("array", ARRAYS.values(), ids=ARRAYS)
def test_a_large_array_travels_as_a_descriptor_and_is_the_readers_own(
    pair: Pair, array: Any
) -> None:
    frame = pair.here.send(pair.here.encode(array))
    found = pair.there.value()

    assert len(frame.fds) == 1 and sum(map(len, frame.buffers)) < 1000
    assert found.dtype == array.dtype and found.flags.writeable
    assert found.flags.f_contiguous or not array.flags.f_contiguous
    assert np.array_equal(found, array)


def test_arrays_anywhere_in_a_value_travel_so_and_what_is_small_goes_with_the_frame(
    pair: Pair,
) -> None:
    large, small = np.arange(MB), np.arange(10)
    value = {"a": [large, small], "b": (large + 1, {"c": b"bytes" * 1000})}
    frame = pair.here.send(pair.here.encode(value))
    found = pair.there.value()

    assert len(frame.fds) == 2
    assert np.array_equal(found["a"][0], large) and np.array_equal(found["a"][1], small)
    assert np.array_equal(found["b"][0], large + 1) and found["b"][1] == value["b"][1]


@dataclass
class Model:
    weights: Any


def test_arrays_in_a_pickled_value_travel_so_too(pair: Pair) -> None:
    model = Model(np.arange(MB, dtype=np.float32))
    payload = pair.here.encode(model)
    frame = pair.here.send(payload)
    found = pair.there.value()

    assert payload.pickled and len(frame.fds) == 1
    assert type(found) is Model and np.array_equal(found.weights, model.weights)
    assert found.weights.flags.writeable


def test_objects_go_with_the_frame(pair: Pair) -> None:
    frame = pair.here.sharing.refer(
        Frame("result", {}, pair.here.encode(np.array([{}] * MB, dtype=object)).buffers)
    )

    assert not frame.fds and "shared" not in frame.fields


@pytest.mark.parametrize("items", [SMALLEST // 8, MB, 3 * MB])
def test_what_was_copied_is_used_again(pair: Pair, items: int) -> None:
    array = np.arange(items)
    first = numbers(pair.here.send(pair.here.encode(array)))
    address = pair.there.value().ctypes.data
    pair.here.receive()

    assert numbers(pair.here.send(pair.here.encode(array + 1))) == first
    found = pair.there.value()
    assert np.array_equal(found, array + 1)
    assert found.ctypes.data == address


def test_a_segment_that_was_not_copied_yet_is_not_used_again(pair: Pair) -> None:
    first = numbers(pair.here.send(pair.here.encode(np.zeros(MB))))

    assert numbers(pair.here.send(pair.here.encode(np.ones(MB)))) != first
    assert not pair.there.value().any() and pair.there.value().all()


def test_a_value_that_is_kept_can_be_sent_again_and_is_as_it_was(pair: Pair) -> None:
    array = np.arange(MB)
    kept = pair.here.encode(array)
    pair.here.send(kept)
    found = pair.there.value()
    pair.here.receive()
    found[:] = 0  # what the first attempt has made of it
    array[:] = 0
    pair.carry(np.full(MB, 7))
    pair.here.send(kept)

    assert np.array_equal(pair.there.value(), np.arange(MB))


def test_what_the_reader_keeps_does_not_change_when_more_arrives(pair: Pair) -> None:
    kept = [pair.carry(np.full(MB, number)) for number in range(5)]
    slices = [pair.carry(np.full(MB, number))[10:20] for number in range(5)]

    assert [int(array[-1]) for array in kept] == list(range(5))
    assert [int(array[-1]) for array in slices] == list(range(5))


def test_a_payload_that_is_decoded_where_it_was_encoded_is_copied(pair: Pair) -> None:
    payload = pair.here.encode(np.arange(MB))
    found = decode(payload, trusted=False)
    found[:] = 0

    assert np.array_equal(decode(payload, trusted=False), np.arange(MB))


def test_the_end_of_a_link_frees_what_was_not_copied(pair: Pair) -> None:
    first = numbers(pair.here.send(pair.here.encode(np.zeros(MB))))
    pair.here.sharing.close()
    later = Sharing(pair.here.memory)
    payload = pair.here.encode(np.ones(MB))

    assert numbers(later.refer(Frame("result", {}, payload.buffers))) == first


def test_a_python_that_was_built_with_an_old_libc_has_memory_files_too(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(os, "memfd_create")
    frame = pair.here.send(pair.here.encode(np.arange(MB)))

    assert len(frame.fds) == 1 and not os.get_inheritable(frame.fds[0])
    assert np.array_equal(pair.there.value(), np.arange(MB))


def test_no_more_memory_is_taken_than_is_allowed() -> None:
    memory = SharedMemory(24 * MB, Timer())
    first, second = memory.room(8 * MB), memory.room(8 * MB)
    assert first is not None and second is not None
    assert memory.room(8 * MB) is None  # (whole pages, and a bit more)

    del first
    assert memory.room(3 * MB) is not None, "what nobody uses makes room for another size"
    assert memory.room(30 * MB) is None
    memory.close()


def test_no_more_descriptors_are_taken_than_is_allowed() -> None:
    before, memory = memory_files(), SharedMemory(PLENTY, Timer())
    held = [memory.room(SMALLEST) for _ in range(MOST_SEGMENTS + 1)]

    assert held[-1] is None and None not in held[:-1]
    assert memory_files() - before == 2 * MOST_SEGMENTS
    held.clear()
    memory.close()
    assert memory_files() == before


def test_what_does_not_fit_any_more_goes_with_its_frame() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        here, array = End(ours, most=0), np.arange(MB)
        payload = here.encode(array)
        frame = here.sharing.refer(Frame("result", {}, payload.buffers))

    assert not frame.fds and bytes(frame.buffers[0]) == array.tobytes()


def test_what_is_not_used_is_let_go_of_at_both_ends(pair: Pair) -> None:
    before = memory_files()
    held = pair.carry(np.arange(MB))
    assert memory_files() > before
    for end in (pair.here, pair.there):
        end.timer.go_on()
    assert memory_files() > before, "it was used since the last look"
    for end in (pair.here, pair.there):
        end.timer.go_on()

    assert memory_files() == before and not pair.here.timer.due
    assert pair.there.timer.due, "what the reader still has is looked after"
    del held
    pair.there.timer.go_on()
    pair.there.timer.go_on()
    assert not pair.there.timer.due
    assert np.array_equal(pair.carry(np.arange(MB)), np.arange(MB))


def memory_file(size: int, *, sealed: bool) -> int:
    import fcntl

    fd = os.memfd_create("foreign", os.MFD_ALLOW_SEALING)
    os.ftruncate(fd, size)
    if sealed:
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK)
    return fd


@pytest.mark.parametrize(
    ("shared", "make"),
    [
        ([[1, 0, 1, MB]], lambda: (memory_file(MB, sealed=False),)),
        ([[1, 0, 1, MB + 1]], lambda: (memory_file(MB, sealed=True),)),
        ([[1, 0, 1, -1]], lambda: (memory_file(MB, sealed=True),)),
        ([[1, 5, 1, MB]], lambda: (memory_file(MB, sealed=True),)),
        ([[1, 0, 1, MB]], lambda: ()),
        ([[1, 0, 1, MB]], lambda: (os.open("/dev/null", os.O_RDONLY),)),
        ([["x"]], lambda: (memory_file(MB, sealed=True),)),
        (7, lambda: (memory_file(MB, sealed=True),)),
    ],
    ids=[
        "not sealed",
        "too short",
        "negative",
        "no buffer",
        "no file",
        "no memory",
        "odd",
        "odder",
    ],
)
def test_a_reference_that_makes_no_sense_is_refused_and_its_files_are_closed(
    pair: Pair, shared: Any, make: Callable[[], tuple[int, ...]]
) -> None:
    fds = make()
    with pytest.raises(FrameError):
        pair.there.sharing.resolve(Frame("result", {"shared": shared}, (b"",), fds))

    for fd in fds:
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(fd)
