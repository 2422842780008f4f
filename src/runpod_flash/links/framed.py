"""The framed link: Flash's own worker over any stream socket (docs/protocol.md)."""

from __future__ import annotations

import threading
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from runpod_flash.links.base import JobRef, LogLine, Part, WorkerCall
from runpod_flash.links.lending import Reading
from runpod_flash.wire import failures, frames
from runpod_flash.wire.carried import buffers_of, carried
from runpod_flash.wire.codec import payload_of
from runpod_flash.wire.frames import PROTOCOL, Frame, FrameError, FrameReader
from runpod_flash.wire.shared_memory import Sharing

if TYPE_CHECKING:
    import asyncio
    import socket
    from collections.abc import Callable, Mapping, Sequence

    from runpod_flash.links.base import LinkEvents
    from runpod_flash.plane.store.base import Job
    from runpod_flash.spec import EndpointSpec
    from runpod_flash.wire.codec import Payload
    from runpod_flash.wire.shared_memory import SharedMemory

# Frames handled before other work on the loop gets its turn.
_READS_PER_TURN = 8
_SMALL = 4096
# What may be handled on a borrower's thread; all else is the plane's loop's.
_ANYWHERE = frozenset({"result", "failed", "chunk", "log", "copied"})


@dataclass(slots=True)
class _Unsent:
    pieces: list[memoryview]
    fds: tuple[int, ...]


class FramedLink:
    """`WorkerLink` over a stream socket. Created on `loop`'s thread.

    A write goes straight to the socket, so that a call costs its caller's thread no hop; what the
    socket does not take at once is queued and written by the loop. Reading is the loop's as well,
    unless it is lent to a caller's (`lending`).

    `on_imported` hears of the modules that the worker has imported from its environment. With
    `memory`, large buffers go by that; the worker's own end must be that of `sock` then.
    """

    def __init__(
        self,
        sock: socket.socket,
        loop: asyncio.AbstractEventLoop,
        worker_id: str,
        token: str,
        on_imported: Callable[[Sequence[str]], None] | None = None,
        memory: SharedMemory | None = None,
    ) -> None:
        sock.setblocking(False)
        self._sock = sock
        self._loop = loop
        self._worker_id = worker_id
        self._token = token
        self._on_imported = on_imported
        self._sharing = None if memory is None else Sharing(memory)
        self._reader = FrameReader(sock)
        self._lock = threading.Lock()
        self._outbox: deque[_Unsent] = deque()
        self._turn: list[frames.Buffer] = []
        self._closed = False
        self._ended = False
        self._greeted = False
        self._home_thread = threading.get_ident()
        self._reading = Reading(sock, loop, self._readable)
        # Held by the thread that reads. Both loops may be woken while a loan begins or ends.
        self._reads = threading.RLock()

    def open(self, events: LinkEvents, spec: EndpointSpec, caller_env: Mapping[str, str]) -> None:
        self._events = events
        self._reading.start()
        start: dict[str, Any] = {"spec": spec.to_wire(), "caller_env": dict(caller_env)}
        if self._sharing is not None:
            start["shares"] = True
        self._send(Frame("start", start))

    def run(self, job: Job, *, trusted: bool) -> None:
        call = job.call
        more = f',"form":"{call.form}","trusted":{"true" if trusted else "false"}'
        if job.credits:
            more += f',"credits":{job.credits}'
        if call.method:
            more += f',"method":{frames.quoted(call.method)}'
        buffers, count = buffers_of(call.payload, call.constructor)
        if count:
            more += f',"constructor":{count}'
        self._send_pieces(*frames.of_job("job", job.id, job.attempt, more, buffers, self._sharing))

    def lend(self, loop: asyncio.AbstractEventLoop) -> None:
        self._reading.lend(loop)

    def cancel(self, ref: JobRef) -> None:
        self._send(Frame("cancel", {"job": ref.job_id, "attempt": ref.attempt}))

    def grant(self, ref: JobRef, chunks: int) -> None:
        self._send(Frame("credit", {"job": ref.job_id, "attempt": ref.attempt, "chunks": chunks}))

    def exchange(self, part: Part) -> None:
        # What a turn of the loop brings goes in one write: each wakes the worker's process.
        fields = {"exchange": part.exchange, **part.fields}
        frame = Frame(f"asgi_{part.kind}", fields, (part.data,) if part.data else ())
        if not self._turn:
            self._loop.call_soon(self._end_turn)
        self._turn += frames.encode(frame)

    def _end_turn(self) -> None:
        pieces, self._turn = self._turn, []
        if sum(map(len, pieces)) <= _SMALL:
            pieces = [b"".join(pieces)]
        self._send_pieces(pieces, ())

    def answer(self, call_id: int, fields: Mapping[str, Any], payload: Payload | None) -> None:
        buffers = () if payload is None else (payload.body, *payload.buffers)
        self._send(Frame("answer", {"call": call_id, **fields}, buffers))

    def stop(self) -> None:
        self._send(Frame("stop"))

    def drain(self) -> None:
        with self._reads:
            while not self._closed and self._read():
                pass

    def close(self) -> None:
        with self._lock:
            if self._closed:
                return
            self._closed = True
            self._outbox.clear()
        if self._sharing is not None:
            self._sharing.close()
        self._reading.end()
        self._loop.remove_writer(self._sock.fileno())
        self._dispose()

    def _dispose(self) -> None:
        # Not under a thread that reads: the descriptor's number could be another file's by then.
        if self._reads.acquire(blocking=False):
            self._reader.close()
            self._sock.close()
            self._reads.release()
        else:
            self._loop.call_later(0.01, self._dispose)

    # Writing, from any thread

    def _send(self, frame: Frame) -> None:
        if self._sharing is not None and len(frame.buffers) > 1:  # (the first are bodies)
            frame = self._sharing.refer(frame)
        self._send_pieces(frames.encode(frame), frame.fds)

    def _send_pieces(self, pieces: list[frames.Buffer], fds: tuple[int, ...]) -> None:
        with self._lock:
            if self._closed or self._sent_whole(pieces, fds):
                return
            unsent = _Unsent([memoryview(piece).cast("B") for piece in pieces], fds)
            if not self._outbox:
                if self._write(unsent):
                    return
                self._loop.call_soon_threadsafe(self._await_room)
            self._outbox.append(unsent)

    def _sent_whole(self, pieces: list[frames.Buffer], fds: tuple[int, ...]) -> bool:
        """Write a small frame at once, as nearly all are; false leaves it unsent."""
        if self._outbox or fds or len(pieces) != 1 or len(pieces[0]) > _SMALL:
            return False
        try:
            # A stream socket with room for it takes a small write whole; if it took a part, the
            # rest goes the long way.
            sent = self._sock.send(pieces[0])
        except (BlockingIOError, InterruptedError):
            return False
        except OSError:
            return True  # the reader sees the end of the stream and reports it
        pieces[0] = memoryview(pieces[0])[sent:]
        return sent > 0 and not len(pieces[0])

    def _write(self, unsent: _Unsent) -> bool:
        """Write what the socket takes now; true when nothing is left."""
        while unsent.pieces:
            try:
                sent = frames.sendmsg(self._sock, unsent.pieces, unsent.fds)
            except (BlockingIOError, InterruptedError):
                return False
            except OSError:
                return True  # the reader sees the end of the stream and reports it
            unsent.pieces, unsent.fds = frames.rest(unsent.pieces, sent), ()
        return True

    def _await_room(self) -> None:
        if not self._closed:
            self._loop.add_writer(self._sock.fileno(), self._writable)

    def _writable(self) -> None:
        with self._lock:
            while self._outbox:
                if not self._write(self._outbox[0]):
                    return
                self._outbox.popleft()
            if not self._closed:
                self._loop.remove_writer(self._sock.fileno())

    # Reading, on the loop or on a borrower's

    def _readable(self) -> None:
        if not self._reads.acquire(blocking=False):
            return
        try:
            for _ in range(_READS_PER_TURN):
                if self._closed or not self._read() or self._reader.drained:
                    return
        finally:
            self._reads.release()

    def _read(self) -> bool:
        """Read once and hand over what is complete; whether there was anything."""
        arrived: list[Frame] | None = None
        try:
            arrived = self._reader.read()
            for frame in arrived or ():
                if frame.fds:
                    self._resolve(frame)
        except frames.FrameError:
            for frame in arrived or ():
                frames.close_fds(frame.fds)
            arrived = None
        if arrived is None:
            self._end()
            return False
        for frame in arrived:
            if not self._closed:
                self._dispatch(frame)
        return bool(arrived) or not self._reader.drained

    def _resolve(self, frame: Frame) -> None:
        if self._sharing is not None:
            copied = self._sharing.resolve(frame)
            if copied is not None:
                self._send(copied)
        frames.close_fds(frame.fds)  # (nothing else brings any to this end)
        frame.fds = ()

    def _copied(self, frame: Frame) -> None:
        if self._sharing is not None:
            self._sharing.copied(frame)

    def _end(self) -> None:
        if threading.get_ident() != self._home_thread:
            self._loop.call_soon_threadsafe(self._end)
        elif not self._ended:
            self._ended = True
            self.close()
            self._events.closed()

    def _dispatch(self, frame: Frame) -> None:
        if frame.type not in _ANYWHERE and threading.get_ident() != self._home_thread:
            self._loop.call_soon_threadsafe(self._dispatch, frame)
            return
        handler = _HANDLERS.get(frame.type)
        if handler is None or (not self._greeted and frame.type != "hello"):
            self._end()
            return
        try:
            handler(self, frame)
        except Exception as error:
            # A frame without its fields, or a fault here: either way this worker is lost.
            text = f"a {frame.type!r} frame of worker {self._worker_id} could not be handled"
            self._loop.call_exception_handler({"message": text, "exception": error})
            self._end()

    def _hello(self, frame: Frame) -> None:
        given = (frame.fields.get("version"), frame.fields.get("token"))
        if given == (PROTOCOL, self._token):
            self._greeted = True
        else:
            self._end()

    def _ready(self, frame: Frame) -> None:
        self._events.ready()

    def _imported(self, frame: Frame) -> None:
        if self._on_imported is not None:
            self._on_imported([str(name) for name in frame.fields["modules"]])

    def _start_failed(self, frame: Frame) -> None:
        self._events.start_failed(failures.from_wire(frame.fields["failure"]))

    def _chunk(self, frame: Frame) -> None:
        self._events.chunk(_ref(frame), frame.fields["index"], _payload(frame))

    def _result(self, frame: Frame) -> None:
        self._events.finished(_ref(frame), _payload(frame))

    def _failed(self, frame: Frame) -> None:
        self._events.failed(_ref(frame), failures.from_wire(frame.fields["failure"]))

    def _stopped(self, frame: Frame) -> None:
        self._events.stopped(_ref(frame))

    def _log(self, frame: Frame) -> None:
        fields = frame.fields
        self._events.log(
            LogLine(self._worker_id, fields["text"], fields.get("job", ""), fields["stream"])
        )

    def _call(self, frame: Frame) -> None:
        fields = frame.fields
        payload, constructor = carried(frame)
        self._events.call(
            WorkerCall(
                call_id=fields.pop("call"),
                operation=fields.pop("operation"),
                fields=fields,
                payload=payload,
                constructor=constructor,
            )
        )

    def _exchange(self, frame: Frame) -> None:
        data = frame.buffers[0] if frame.buffers else b""
        exchange = frame.fields.pop("exchange")
        kind = frame.type.removeprefix("asgi_")
        self._events.exchange(Part(exchange, kind, frame.fields, data))


def _payload(frame: Frame) -> Payload:
    found = payload_of(frame.buffers)
    if found is None:
        raise FrameError(f"a {frame.type!r} frame without a value")
    return found


def _ref(frame: Frame) -> JobRef:
    return JobRef(frame.fields["job"], frame.fields["attempt"])


_HANDLERS: dict[str, Callable[[FramedLink, Frame], None]] = {
    "hello": FramedLink._hello,
    "ready": FramedLink._ready,
    "imported": FramedLink._imported,
    "start_failed": FramedLink._start_failed,
    "chunk": FramedLink._chunk,
    "result": FramedLink._result,
    "failed": FramedLink._failed,
    "stopped": FramedLink._stopped,
    "log": FramedLink._log,
    "copied": FramedLink._copied,
    "call": FramedLink._call,
    "asgi_response": FramedLink._exchange,
    "asgi_body": FramedLink._exchange,
    "asgi_websocket": FramedLink._exchange,
    "asgi_credit": FramedLink._exchange,
    "asgi_end": FramedLink._exchange,
}
