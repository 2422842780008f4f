"""The frame: what a framed link carries, for both of its ends.

    prefix   !IHH   header length, number of buffers, number of file descriptors
    lengths  !Q     of each buffer
    header   JSON   {"t": type, ...}
    buffers         raw bytes, as long as announced

The types, their fields and who sends them are listed in docs/protocol.md. A worker's first frame is
`hello` with the protocol version; a peer of another version is refused by name.
"""

from __future__ import annotations

import array
import contextlib
import os
import socket
import struct
from dataclasses import dataclass, field
from json.encoder import encode_basestring_ascii
from typing import TYPE_CHECKING, Any

from runpod_flash.wire.json_text import dumper, scan

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from runpod_flash.wire.shared_memory import Sharing

PROTOCOL = 1
# Of HTTP bodies that hold frames.
MEDIA_TYPE = "application/x-flash-frames"

Buffer = bytes | bytearray | memoryview

_PREFIX = struct.Struct("!IHH")
_ONE_BUFFER = struct.Struct("!IHHQ")  # prefix and length of a frame with one, as most have
_JOINED = 16384
_MAX_HEADER = 16 << 20
_MAX_BUFFERS = 0xFFFF
_MAX_FDS = 64
_READ = 256 << 10
# (Numbers: an operation on enum members takes as long as to read a header.)
_CLOEXEC = int(getattr(socket, "MSG_CMSG_CLOEXEC", 0))
_DONTWAIT = int(socket.MSG_DONTWAIT)
_ANCILLARY = socket.CMSG_SPACE(_MAX_FDS * array.array("i").itemsize)

_dumps = dumper(ensure_ascii=True, allow_nan=True)
# The text of a string as JSON.
quoted = encode_basestring_ascii
_LENGTHS = [struct.Struct(f"!{count}Q") for count in range(8)]


class FrameError(ValueError):
    """The bytes on the link are not frames of this protocol."""


@dataclass(slots=True)
class Frame:
    """One message: its type, JSON fields, raw buffers and the file descriptors that go with it."""

    type: str
    fields: dict[str, Any] = field(default_factory=dict)
    buffers: tuple[Buffer, ...] = ()
    fds: tuple[int, ...] = ()


def encode(frame: Frame) -> list[Buffer]:
    """The frame as pieces for `sendmsg`; large buffers are not copied."""
    return assemble(header_of(frame.type, frame.fields), frame.buffers, len(frame.fds))


def header_of(kind: str, fields: Mapping[str, Any]) -> bytes:
    """The header of a frame, for whoever has many with the same."""
    return _dumps({"t": kind, **fields}).encode()


def of_job(
    kind: str,
    job: str,
    attempt: int,
    more: str,
    buffers: tuple[Buffer, ...],
    sharing: Sharing | None,
) -> tuple[list[Buffer], tuple[int, ...]]:
    """A frame about one attempt at a job, and its descriptors; `more` is the text of other fields.

    (Written by hand, since every call has two of them.)
    """
    fds: tuple[int, ...] = ()
    if sharing is not None and len(buffers) > 1:  # (the first is the value's text)
        shared, buffers, fds = sharing.lend(buffers)
        more += f',"shared":{_dumps(shared)}' if shared else ""
    header = f'{{"t":"{kind}","job":{quoted(job)},"attempt":{attempt}{more}}}'.encode()
    return assemble(header, buffers, len(fds)), fds


def assemble(header: bytes, buffers: tuple[Buffer, ...], fds: int = 0) -> list[Buffer]:
    """A frame with this header, as pieces; see `encode`."""
    if len(buffers) > _MAX_BUFFERS or len(header) > _MAX_HEADER or fds > _MAX_FDS:
        raise FrameError(
            f"a frame of {len(buffers)} buffers, {len(header)} header bytes and {fds} descriptors "
            f"({header[:80]!r}); at most {_MAX_BUFFERS}, {_MAX_HEADER} and {_MAX_FDS} travel"
        )
    if len(buffers) == 1 and (size := _size(buffers[0])) <= _JOINED:
        return [_ONE_BUFFER.pack(len(header), 1, fds, size) + header + buffers[0]]
    prefix = _PREFIX.pack(len(header), len(buffers), fds)
    if not buffers:
        return [prefix + header]
    sizes = [_size(buffer) for buffer in buffers]
    head = prefix + _lengths(len(buffers)).pack(*sizes) + header
    if sum(sizes) <= _JOINED:
        return [b"".join([head, *buffers])]
    return [head, *(b for b in buffers if _size(b))]


def _lengths(count: int) -> struct.Struct:
    return _LENGTHS[count] if count < len(_LENGTHS) else struct.Struct(f"!{count}Q")


def _size(buffer: Buffer) -> int:
    return buffer.nbytes if isinstance(buffer, memoryview) else len(buffer)


def send_all(sock: socket.socket, frame: Frame) -> None:
    """Write a frame to a blocking socket, whole."""
    send_pieces(sock, encode(frame), frame.fds)


def send_pieces(sock: socket.socket, encoded: list[Buffer], fds: tuple[int, ...] = ()) -> None:
    """Write what was encoded to a blocking socket, whole."""
    if not fds and len(encoded) > 1 and sum(map(_size, encoded)) <= _JOINED:
        encoded = [b"".join(encoded)]
    if len(encoded) == 1 and not fds:
        sock.sendall(encoded[0])
        return
    pieces = [memoryview(piece).cast("B") for piece in encoded]
    while pieces:
        sent = sendmsg(sock, pieces, fds)
        fds = ()
        pieces = rest(pieces, sent)


def sendmsg(
    sock: socket.socket, pieces: list[memoryview], fds: tuple[int, ...] = (), flags: int = 0
) -> int:
    """One `sendmsg` of as many pieces as the system takes; the descriptors go with the first."""
    if not fds and len(pieces) == 1:
        return sock.send(pieces[0], flags)
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
    return sock.sendmsg(pieces[:512], rights, flags)


def rest(pieces: list[memoryview], sent: int) -> list[memoryview]:
    """What remains of `pieces` after `sent` bytes."""
    for index, piece in enumerate(pieces):
        if sent < len(piece):
            return [piece[sent:], *pieces[index + 1 :]]
        sent -= len(piece)
    return []


def _header(text: bytes | bytearray) -> Frame:
    try:
        fields, end = scan(text.decode(), 0)
        type_ = fields.pop("t")
    except StopIteration:
        raise FrameError(f"a frame header that is not JSON: {text[:80]!r}") from None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise FrameError(f"a frame header that is not JSON with a type: {error}") from None
    if not isinstance(type_, str) or end != len(text):
        raise FrameError(f"a frame of type {type_!r:.80}, with {len(text)} bytes of header")
    return Frame(type_, fields)


def decode(data: bytes | bytearray) -> list[Frame]:
    """The frames of a message that holds whole ones, as in an HTTP body; none has descriptors.

    Raises `FrameError` on foreign bytes, and where a frame is cut off.
    """
    reader, view = FrameReader(None), memoryview(data)
    found: list[Frame] = []
    for at in range(0, len(view), _READ):  # (what is larger goes to its place at once)
        found += reader.feed(view[at : at + _READ])
    if not reader.between_frames:
        raise FrameError(f"{len(data)} bytes that end within a frame")
    return found


def take_apart(data: bytes) -> tuple[bytes, list[bytes]]:
    """The header and the buffers of one whole frame, for whoever has many with the same header.

    Raises `FrameError` where it is none.
    """
    try:
        size, count, _ = _PREFIX.unpack_from(data)
        lengths = _lengths(count).unpack_from(data, _PREFIX.size)
    except struct.error:
        raise FrameError(f"{len(data)} bytes that are no frame") from None
    start = _PREFIX.size + 8 * count
    at = start + size
    if at + sum(lengths) != len(data):
        raise FrameError(f"{len(data)} bytes that are no frame")
    header, buffers = data[start:at], []
    for length in lengths:
        buffers.append(data[at : at + length])
        at += length
    return header, buffers


def fields_of(header: bytes) -> dict[str, Any]:
    """What a header says, without its type."""
    return _header(header).fields


def close_fds(fds: Iterable[int]) -> None:
    """Let go of descriptors that have come."""
    for fd in fds:
        with contextlib.suppress(OSError):
            os.close(fd)


class FrameReader:
    """Takes frames off a socket without copying large buffers twice.

    `drained` says that the last read left the socket empty, so that trying again is in vain.
    """

    def __init__(self, sock: socket.socket | None) -> None:
        self._sock = sock
        self._takes_fds = sock is not None and sock.family == getattr(socket, "AF_UNIX", None)
        self.drained = True
        self._scratch = bytearray(_READ if sock is not None else 0)
        self._head = bytearray()
        self._fds: list[int] = []
        self._frame: Frame | None = None
        self._wanted_fds = 0
        self._filling: list[bytearray] = []
        self._bulk: memoryview | None = None
        self._bulk_index = 0
        self._bulk_at = 0

    @property
    def between_frames(self) -> bool:
        """Whether no frame is open."""
        return self._frame is None and not self._head

    def feed(self, data: Buffer) -> list[Frame]:
        """The frames that these bytes complete, for a reader without a socket."""
        self._head += data
        return self._frames()

    def read(self, *, wait: bool = False) -> list[Frame] | None:
        """The frames that one read completes; None at the end of the stream.

        Without `wait` an empty socket gives an empty list. Raises `FrameError` on foreign bytes.
        """
        try:
            received = self._receive(0 if wait else _DONTWAIT)
        except (BlockingIOError, InterruptedError):
            self.drained = True
            return []
        except OSError:  # reset by the other end, or closed at this one
            return None
        if received < 0:
            return None
        return self._frames()

    def _receive(self, flags: int) -> int:
        """Read once, into the open buffer if there is one; -1 at the end of the stream."""
        assert self._sock is not None
        if self._bulk is not None:
            count = self._sock.recv_into(self._bulk[self._bulk_at :], 0, flags)
            self._bulk_at += count
            self.drained = False
            return count or -1
        if not self._takes_fds:
            count = self._sock.recv_into(self._scratch, 0, flags)
        else:
            count, ancillary, _, _ = self._sock.recvmsg_into(
                [self._scratch], _ANCILLARY, flags | _CLOEXEC
            )
            for level, kind, data in ancillary:
                if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                    fds = array.array("i")
                    fds.frombytes(data[: len(data) - len(data) % fds.itemsize])
                    self._fds.extend(fds)
        if self._head:
            self._head += memoryview(self._scratch)[:count]
        else:
            self._head = self._scratch[:count]
        self.drained = count < _READ
        return count or -1

    def _frames(self) -> list[Frame]:
        frames: list[Frame] = []
        while True:
            if self._frame is None:
                whole = self._open_frame()
                if whole is not None:
                    frames.append(whole)
                    if not self._head:
                        return frames
                    continue
                if self._frame is None:
                    return frames
            if not self._fill():
                return frames
            frames.append(self._close_frame())

    def _open_frame(self) -> Frame | None:
        """The next frame if all of it is there; else it is left open, once its header is known."""
        head = self._head
        if len(head) < _PREFIX.size:
            return None
        header_size, buffer_count, fd_count = _PREFIX.unpack_from(head)
        if header_size > _MAX_HEADER or fd_count > _MAX_FDS:
            raise FrameError(f"a frame header of {header_size} bytes and {fd_count} descriptors")
        start = _PREFIX.size + 8 * buffer_count
        end = start + header_size
        if len(head) < end:
            return None
        lengths = _lengths(buffer_count).unpack_from(head, _PREFIX.size)
        frame = _header(head[start:end])
        if end + sum(lengths) <= len(head):
            return self._take_whole(frame, end, lengths, fd_count)
        del head[:end]
        self._frame, self._wanted_fds = frame, fd_count
        try:
            self._filling = [bytearray(length) for length in lengths]
        except (MemoryError, OverflowError):
            raise FrameError(f"a frame of {sum(lengths)} bytes, more than fits here") from None
        self._bulk_index = self._bulk_at = 0
        return None

    def _take_whole(self, frame: Frame, at: int, lengths: tuple[int, ...], fd_count: int) -> Frame:
        head, buffers = self._head, []
        for length in lengths:
            buffers.append(head[at : at + length])
            at += length
        frame.buffers = tuple(buffers)
        if fd_count:
            frame.fds = self._take_fds(fd_count)
        if at == len(head):
            self._head = bytearray()
        else:
            del head[:at]
        return frame

    def _fill(self) -> bool:
        while self._bulk_index < len(self._filling):
            target = self._filling[self._bulk_index]
            missing = len(target) - self._bulk_at
            if missing and self._head:
                taken = self._head[:missing]
                target[self._bulk_at : self._bulk_at + len(taken)] = taken
                del self._head[:missing]
                self._bulk_at += len(taken)
            if self._bulk_at < len(target):
                self._bulk = memoryview(target)
                return False
            self._bulk = None
            self._bulk_index += 1
            self._bulk_at = 0
        return True

    def _close_frame(self) -> Frame:
        frame = self._frame
        assert frame is not None
        frame.buffers = tuple(self._filling)
        frame.fds = self._take_fds(self._wanted_fds)
        self._frame, self._filling = None, []
        return frame

    def _take_fds(self, count: int) -> tuple[int, ...]:
        if count > len(self._fds):
            raise FrameError(f"a frame of {count} descriptors, of which {len(self._fds)} came")
        taken = tuple(self._fds[:count])
        del self._fds[:count]
        return taken

    def close(self) -> None:
        """Close descriptors that arrived for frames that never completed."""
        close_fds(self._fds)
        self._fds.clear()
