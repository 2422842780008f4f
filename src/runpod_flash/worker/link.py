"""The worker's end of the framed link."""

from __future__ import annotations

import itertools
import os
import socket
import threading
from typing import TYPE_CHECKING, Any

from runpod_flash.context import Answer
from runpod_flash.wire import failures, frames
from runpod_flash.wire.carried import carrying
from runpod_flash.wire.codec import Payload, payload_of
from runpod_flash.wire.frames import PROTOCOL, Frame, FrameReader
from runpod_flash.wire.shared_memory import SharedMemory, Sharing, most_bytes
from runpod_flash.wire.tags import no_room

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Mapping

    from runpod_flash.wire.failures import Failure
    from runpod_flash.wire.tags import Room

# Frames that are, at least in part, for the link itself.
_OWN = frozenset({"start", "copied"})


class PlaneLink:
    """Frames to and from the plane. Any thread may send; sends block while the plane is behind."""

    def __init__(self, fd: int) -> None:
        self._sock = socket.socket(fileno=fd)
        self._sock.setblocking(True)
        self._sock.set_inheritable(False)
        self._lock = threading.Lock()
        self._reader = FrameReader(self._sock)
        self._waiting: dict[int, Callable[[Answer], None]] = {}
        self._call_ids = itertools.count(1)
        self._arrived: list[Frame] = []
        self.on_kept: Callable[[], object] = _nothing
        self.loop: asyncio.AbstractEventLoop | None = None
        self._sharing: Sharing | None = None
        # Where large buffers of values that are sent may be.
        self.room: Room = no_room

    def fileno(self) -> int:
        return self._sock.fileno()

    def close(self) -> None:
        self._reader.close()
        self._sock.close()

    def send(self, *sent: Frame) -> None:
        """Write frames; a plane that is gone is noticed by the reader."""
        self._write([piece for frame in sent for piece in frames.encode(frame)])

    def _write(self, pieces: list[frames.Buffer], fds: tuple[int, ...] = ()) -> None:
        try:
            with self._lock:
                frames.send_pieces(self._sock, pieces, fds)
        except OSError:
            pass

    def receive(self, *, wait: bool) -> list[Frame] | None:
        """Frames that have arrived; None once the plane is gone."""
        if self._arrived:
            arrived, self._arrived = self._arrived, []
            return arrived
        return self._read(wait=wait)

    def _read(self, *, wait: bool) -> list[Frame] | None:
        arrived = self._reader.read(wait=wait)
        return arrived and [
            frame
            for frame in arrived
            if not ((frame.fds or frame.type in _OWN) and self._taken(frame))
        ]

    def _taken(self, frame: Frame) -> bool:
        """Whether a frame is for the link alone; others get what comes by shared memory."""
        if frame.type == "start" and frame.fields.get("shares"):
            self._share()
        if self._sharing is None:
            return False
        copied = self._sharing.resolve(frame) if frame.fds else None
        if copied is not None:
            self.send(copied)
        return self._sharing.copied(frame)

    def _share(self) -> None:
        """Have large buffers go by shared memory: the plane is on this machine, and does so too."""
        memory = SharedMemory(most_bytes(), self._later)
        os.register_at_fork(after_in_child=memory.close)
        self._sharing = Sharing(memory)
        self.room = memory.room

    def _later(self, seconds: float, function: Callable[[], None]) -> None:
        assert self.loop is not None, "values come after it runs"
        self.loop.call_soon_threadsafe(self.loop.call_later, seconds, function)

    def receive_one(self) -> Frame | None:
        """The next frame, waited for; None once the plane is gone."""
        while not self._arrived:
            arrived = self._read(wait=True)
            if arrived is None:
                return None
            self._arrived = arrived
        return self._arrived.pop(0)

    def wait_for(self, done: Callable[[], bool]) -> bool:
        """Read until an answer has made it true; false once the plane is gone.

        For the thread that reads, when user code stops it. Frames that are no answers are kept
        for later, and `on_kept` says so.
        """
        while not done():
            arrived = self._read(wait=True)
            if arrived is None:
                return False
            for frame in arrived:
                if frame.type == "answer":
                    self.answered(frame)
                else:
                    self._arrived.append(frame)
        if self._arrived:
            self.on_kept()
        return True

    def hello(self, worker_id: str, token: str) -> None:
        self.send(Frame("hello", {"version": PROTOCOL, "worker": worker_id, "token": token}))

    def job(self, kind: str, job: str, attempt: int, fields: Mapping[str, Any]) -> None:
        self.send(Frame(kind, {"job": job, "attempt": attempt, **fields}))

    def result(self, job: str, attempt: int, payload: Payload) -> None:
        self._value("result", job, attempt, payload)

    def chunk(self, job: str, attempt: int, payload: Payload, index: int) -> None:
        self._value("chunk", job, attempt, payload, f',"index":{index}')

    def _value(self, kind: str, job: str, attempt: int, payload: Payload, more: str = "") -> None:
        buffers = (payload.body, *payload.buffers)
        self._write(*frames.of_job(kind, job, attempt, more, buffers, self._sharing))

    def failure(self, kind: str, failure: Failure, fields: Mapping[str, Any]) -> None:
        self.send(Frame(kind, {"failure": failures.to_wire(failure), **fields}))

    def call(
        self,
        operation: str,
        fields: Mapping[str, Any],
        payload: Payload | None,
        constructor: Payload | None,
        on_answer: Callable[[Answer], None] | None,
    ) -> None:
        """Ask the plane something on behalf of user code."""
        call_id = next(self._call_ids)
        sent = {**fields, "call": call_id, "operation": operation}
        if on_answer is not None:
            self._waiting[call_id] = on_answer
        self.send(carrying("call", sent, payload, constructor))

    def answered(self, frame: Frame) -> None:
        on_answer = self._waiting.pop(frame.fields.pop("call"), None)
        if on_answer is not None:
            on_answer(Answer(frame.fields, payload_of(frame.buffers)))


def _nothing() -> None:
    pass
