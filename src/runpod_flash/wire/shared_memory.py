"""Large buffers between two processes of one machine, by reused shared memory.

Such a buffer is written to a *segment*, a sealed memory file, when its value is encoded. A frame
has the file's descriptor in its place; the reader copies it out at once, and says so with a
`copied` frame. So the reader's values are its own as ever, to keep and to change; a job that is run
again finds its arguments as they were; and memory files end with the processes that hold them.

To touch new memory takes longer than to copy it. Hence segments stay mapped at both ends, and are
used again.
"""

from __future__ import annotations

import itertools
import os
import sys
import threading
import weakref
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, TypeVar

from runpod_flash.wire.frames import Frame, FrameError, close_fds

if TYPE_CHECKING:
    from collections.abc import Callable
    from mmap import mmap

    from runpod_flash.wire.frames import Buffer

# What is smaller goes with its frame.
SMALLEST = 1_000_000
# Memory that was not used for so long is let go of, before it was not for twice as long.
IDLE_SECONDS = 10.0
# Segments of one process; each takes two descriptors here, and one where it is read.
MOST_SEGMENTS = 48
_MOST_BYTES = 4 << 30
_ROUND = 256 << 10
# Copied at a time, so that other threads get their turns.
_STEP = 16 << 20
# Numbers of Linux, which Pythons that were built with an old libc do not know by name.
_F_ADD_SEALS, _F_GET_SEALS = 1033, 1034
_F_SEAL_SEAL, _F_SEAL_SHRINK, _F_SEAL_GROW = 1, 2, 4
_MFD_CLOEXEC, _MFD_ALLOW_SEALING = 1, 2


def most_bytes() -> int:
    """What one process may keep for sending, and for receiving: an eighth of the memory."""
    return min(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 8, _MOST_BYTES)


class _Block:
    """Memory that is used again and again. `user` gives what refers to it now, if anything."""

    def __init__(self, mapping: mmap) -> None:
        self._mapping = mapping
        self.size = len(mapping)
        self.user: Callable[[], Any] = _nobody
        self.recent = True

    def lend(self, nbytes: int, numpy: Any) -> memoryview:
        # (Nothing in the standard library that has memory of another can be referred to weakly.)
        array = numpy.frombuffer(self._mapping, numpy.uint8, nbytes)
        self.user, self.recent = weakref.ref(array), True
        return memoryview(array)

    def close(self) -> None:
        """Nothing refers to it, and nothing will: it ends with this object."""


class _Segment(_Block):
    """A memory file of ours."""

    def __init__(self, number: int, size: int) -> None:
        import fcntl
        import mmap

        self.number = number
        self.fd = _memory_file()
        try:
            os.ftruncate(self.fd, size)
            fcntl.fcntl(self.fd, _F_ADD_SEALS, _F_SEAL_SEAL | _F_SEAL_SHRINK | _F_SEAL_GROW)
            super().__init__(mmap.mmap(self.fd, size))
        except BaseException:
            os.close(self.fd)
            raise

    def close(self) -> None:
        os.close(self.fd)


class _Foreign:
    """A memory file of the other end, mapped."""

    def __init__(self, fd: int) -> None:
        import fcntl
        import mmap

        # One that shrinks would end its reader by a SIGBUS.
        if not fcntl.fcntl(fd, _F_GET_SEALS) & _F_SEAL_SHRINK:
            raise ValueError("a memory file that may shrink")
        self.size = os.fstat(fd).st_size
        self.mapping = mmap.mmap(fd, self.size, prot=mmap.PROT_READ)
        self.recent = True


B = TypeVar("B", bound=_Block)


class _Pool(Generic[B]):
    """Blocks in the order of their last use: so many at most, of `most` bytes together."""

    def __init__(self, make: Callable[[int], B], most: int) -> None:
        self._make = make
        self._most = most
        self.blocks: list[B] = []

    def take(self, nbytes: int) -> B | None:
        """One that nobody uses; None where there can be no other. Raises OSError."""
        fitting = [each for each in self._unused() if nbytes <= each.size <= 2 * nbytes]
        block = min(fitting, key=lambda each: each.size, default=None)
        if block is not None:
            self.blocks.remove(block)
        else:
            block = self._new(-(-nbytes // _ROUND) * _ROUND)
        if block is not None:
            self.blocks.append(block)
        return block

    def _new(self, size: int) -> B | None:
        unused = self._unused()
        while unused and not self._fits(size):
            self._drop(unused.pop(0))
        return self._make(size) if self._fits(size) else None

    def _fits(self, size: int) -> bool:
        taken = sum(each.size for each in self.blocks)
        return len(self.blocks) < MOST_SEGMENTS and taken + size <= self._most

    def _unused(self) -> list[B]:
        return [each for each in self.blocks if each.user() is None]

    def _drop(self, block: B) -> None:
        self.blocks.remove(block)
        block.close()

    def drop_unused(self) -> None:
        """Let go of what was not used since the last time."""
        for block in self._unused():
            if not block.recent:
                self._drop(block)
        for block in self.blocks:
            block.recent = False

    def drop_all(self) -> None:
        for block in list(self.blocks):
            self._drop(block)


class SharedMemory:
    """What this process has for large buffers, to send them and to receive them. For any thread.

    For each of the two it has `most` bytes at most: what does not fit to be sent goes with its
    frame. `later` has a function called once, in so many seconds, on any thread.
    """

    def __init__(self, most: int, later: Callable[[float, Callable[[], None]], object]) -> None:
        self._later = later
        self._lock = threading.Lock()
        numbers = itertools.count(1)
        self._segments = _Pool(lambda size: _Segment(next(numbers), size), most)
        self._received = _Pool(lambda size: _Block(_huge_pages(size)), most)
        # In the order of their last use.
        self._foreign: dict[tuple[Sharing, int], _Foreign] = {}
        self._watched = False

    def room(self, nbytes: int) -> memoryview | None:
        """Memory for a buffer that is to be sent; None where it is to go with its frame.

        It is in use for as long as anything refers to it.
        """
        if nbytes < SMALLEST or sys.platform != "linux":
            return None
        return self._lend(self._segments, nbytes)

    def _lend(self, pool: _Pool[Any], nbytes: int) -> memoryview | None:
        numpy = sys.modules.get("numpy")  # without it, there are no arrays to send or to make
        if numpy is None:
            return None
        with self._lock:
            try:
                block = pool.take(nbytes)
            except OSError:  # too many open files, or a system that has none of these
                return None
            self._watch()
            return None if block is None else block.lend(nbytes, numpy)

    def segment_of(self, buffer: Buffer) -> _Segment | None:
        """The segment of a buffer that `room` has given."""
        if type(buffer) is not memoryview or buffer.nbytes < SMALLEST:
            return None
        owner = buffer.obj
        with self._lock:
            return next((s for s in self._segments.blocks if s.user() is owner is not None), None)

    def copy(self, sharing: Sharing, number: int, fd: int, nbytes: int) -> Buffer:
        """What begins the other end's segment of that number, in memory of our own.

        Raises `ValueError` and `OSError` where it has no so many bytes, or is no such file.
        """
        source = self._mapped(sharing, number, fd)
        if not 0 < nbytes <= source.size:
            raise ValueError(f"{nbytes} bytes of a segment of {source.size}")
        target = self._own(nbytes)
        with memoryview(source.mapping) as whole, memoryview(target) as into:
            for at in range(0, nbytes, _STEP):
                end = min(at + _STEP, nbytes)
                into[at:end] = whole[at:end]
        return target

    def _own(self, nbytes: int) -> Buffer:
        return self._lend(self._received, nbytes) or memoryview(_huge_pages(nbytes))

    def _mapped(self, sharing: Sharing, number: int, fd: int) -> _Foreign:
        with self._lock:
            found = self._foreign.pop((sharing, number), None) or _Foreign(fd)
            found.recent = True
            self._foreign[sharing, number] = found
            while len(self._foreign) > MOST_SEGMENTS:
                del self._foreign[next(iter(self._foreign))]
            self._watch()
            return found

    def forget(self, sharing: Sharing) -> None:
        """Let go of the other end's segments."""
        with self._lock:
            for key in [key for key in self._foreign if key[0] is sharing]:
                del self._foreign[key]

    def _watch(self) -> None:
        if not self._watched:
            self._watched = True
            self._later(IDLE_SECONDS, self._look)

    def _look(self) -> None:
        with self._lock:
            self._watched = False
            self._segments.drop_unused()
            self._received.drop_unused()
            for key in [key for key, each in self._foreign.items() if not each.recent]:
                del self._foreign[key]
            for each in self._foreign.values():
                each.recent = False
            if self._segments.blocks or self._received.blocks or self._foreign:
                self._watch()

    def close(self) -> None:
        """Let go of all. In a forked child, of what is the parent's."""
        self._lock = threading.Lock()
        self._segments.drop_all()
        self._received.drop_all()
        self._foreign.clear()


class Lent(NamedTuple):
    """What of a frame's buffers travels, and what its field `shared` says of the rest."""

    shared: list[list[int]]
    buffers: tuple[Buffer, ...]
    fds: tuple[int, ...]


class Sharing:
    """The shared memory of one link's two ends, as one of them sees it. For any thread."""

    def __init__(self, memory: SharedMemory) -> None:
        self._memory = memory
        self._numbers = itertools.count(1)
        # What the other end has yet to copy, which keeps it in use.
        self._sent: dict[int, Buffer] = {}
        self._closed = False

    def refer(self, frame: Frame) -> Frame:
        """The frame with descriptors in the place of buffers that are in segments."""
        shared, buffers, fds = self.lend(frame.buffers)
        if not shared:
            return frame
        return Frame(frame.type, {**frame.fields, "shared": shared}, buffers, fds)

    def lend(self, given: tuple[Buffer, ...]) -> Lent:
        """The buffers of a frame, with descriptors in the place of those that are in segments."""
        segments = [self._memory.segment_of(buffer) for buffer in given]
        if not any(segments):
            return Lent([], given, ())
        shared, buffers = [], list(given)
        for index, segment in enumerate(segments):
            if segment is not None:
                number = next(self._numbers)
                self._sent[number] = buffers[index]
                shared.append([number, index, segment.number, len(buffers[index])])
                buffers[index] = b""
        if self._closed:
            self._sent.clear()
        fds = tuple(segment.fd for segment in segments if segment is not None)
        return Lent(shared, tuple(buffers), fds)

    def resolve(self, frame: Frame) -> Frame | None:
        """Put copies of what came by descriptors in their places; the answer that says so.

        Raises `FrameError` where that cannot be.
        """
        shared = frame.fields.pop("shared", None)
        if not shared:
            return None
        buffers = list(frame.buffers)
        try:
            for (_, index, segment, nbytes), fd in zip(shared, frame.fds, strict=True):
                buffers[index] = self._memory.copy(self, segment, fd, nbytes)
        except (TypeError, LookupError, ValueError, OSError, MemoryError) as error:
            raise FrameError(f"shared memory that cannot be read: {error}") from error
        finally:
            close_fds(frame.fds)
            frame.fds = ()
        frame.buffers = tuple(buffers)
        return Frame("copied", {"numbers": [each[0] for each in shared]})

    def copied(self, frame: Frame) -> bool:
        """Take a frame by which the other end says that it has copied; false for any other."""
        if frame.type != "copied":
            return False
        for number in frame.fields["numbers"]:
            self._sent.pop(number, None)
        return True

    def close(self) -> None:
        """The link has ended."""
        self._closed = True
        self._sent.clear()
        self._memory.forget(self)


def _memory_file() -> int:
    flags = _MFD_CLOEXEC | _MFD_ALLOW_SEALING
    if hasattr(os, "memfd_create"):
        return os.memfd_create("flash", flags)
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    fd = int(libc.memfd_create(b"flash", flags)) if hasattr(libc, "memfd_create") else -1
    if fd < 0:
        raise OSError(ctypes.get_errno(), "there can be no memory file")
    return fd


def _huge_pages(nbytes: int) -> mmap:
    import mmap

    memory = mmap.mmap(-1, nbytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    with suppress(OSError):
        memory.madvise(mmap.MADV_HUGEPAGE)
    return memory


def _nobody() -> None:
    return None
