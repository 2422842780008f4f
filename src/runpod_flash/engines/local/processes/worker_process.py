"""A started worker: its control socket, which says how it started and ended, and its output."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import struct
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runpod_flash.engines.local.processes.launcher import Process, ProcessExit
from runpod_flash.engines.local.processes.lines import Lines
from runpod_flash.engines.local.processes.supervisors import SupervisorLostError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from runpod_flash.engines.local.processes.descriptors import Descriptors
    from runpod_flash.engines.local.processes.launcher import LaunchOrder, Mount, ProcessEvents
    from runpod_flash.engines.local.processes.supervisors import Forker

_CREDENTIALS = struct.Struct("iII")  # process, user, group
_LONGEST_MESSAGE = 1 << 20
LINK_FD = 3  # where a worker finds its link, beside 0, 1 and 2; no other descriptor is open in it


class WorkerProcess(Process):
    """See the module."""

    def __init__(
        self,
        order: LaunchOrder,
        events: ProcessEvents,
        descriptors: Descriptors,
        forget: Callable[[WorkerProcess], None],
    ) -> None:
        self.program = order.argv[0]
        self._loop = asyncio.get_running_loop()
        self._id = order.worker_id
        self._events = events
        self._descriptors = descriptors
        self._forget = forget
        self._control, self._minders_control = descriptors.socketpair()
        try:
            self._output, self._workers_output = descriptors.pipe()
        except OSError:
            descriptors.close(self._control, self._minders_control)
            raise
        self._control.setblocking(False)
        os.set_blocking(self._output, False)
        self._received = b""
        self._lines = Lines()
        self._ended = False
        self._slow_start = self._no_snapshot = ""
        self._left_out: Mapping[str, str] = {}
        self._reporting = False
        self._outer_pid = 0
        self._reply: asyncio.Future[dict[str, Any]] = self._loop.create_future()
        self._returncode = -signal.SIGKILL  # what a killed minder's worker dies of
        self.gone: asyncio.Future[None] = self._loop.create_future()

    @property
    def pid(self) -> int:
        # A minder in another namespace tells the id that the worker has there.
        return self._outer_pid or int(self._reply.result()["pid"])

    @property
    def mounts_error(self) -> str:
        return str(self._reply.result()["mounts_error"])

    @property
    def slow_start(self) -> str:
        return self._slow_start

    @property
    def left_out(self) -> Mapping[str, str]:
        return self._left_out

    @property
    def no_snapshot(self) -> str:
        return self._no_snapshot

    def explain(self, slow_start: str, left_out: Mapping[str, str], no_snapshot: str) -> None:
        self._slow_start, self._left_out = slow_start, left_out
        self._no_snapshot = no_snapshot

    def kill(self) -> None:
        # The minder cannot tell this from the end of the plane, and need not.
        with suppress(OSError):
            self._control.shutdown(socket.SHUT_WR)

    async def start(self, order: LaunchOrder, supervisor: Forker) -> None:
        fds = [self._minders_control.fileno(), order.link.fileno(), self._workers_output]
        if supervisor.is_inside:
            self._control.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        # There when it is looked for, unless it is very long.
        unsent = _encode(order)
        unsent = unsent[self._control.send(unsent) :]
        try:
            supervisor.order([*fds, *order.held], order.zygote)
        finally:
            self._descriptors.close(self._minders_control, self._workers_output)
        self._loop.add_reader(self._control, self._on_control)
        with suppress(BrokenPipeError, ConnectionResetError):  # then there is no reply either
            await self._loop.sock_sendall(self._control, unsent)
        reply = await self._reply
        if "error" in reply:
            text = f"worker {self._id} could not be started: {reply['error']}"
            raise OSError(reply["errno"], text) if reply["errno"] else OSError(text)
        if "pid" not in reply:
            raise SupervisorLostError(
                f"worker {self._id} could not be started: its parent process was killed"
            )

    def report(self) -> None:
        """Begin to report events, also of what was heard before: never before `launch` returns."""
        self._reporting = True
        if self._ended:
            self._loop.call_soon(self._finish)
        else:
            self._loop.add_reader(self._output, self._on_output)

    def abandon(self) -> None:
        """Let go of a worker; if it still runs, its minder ends it and nobody hears of it."""
        self.kill()
        self._loop.remove_reader(self._control)
        self._loop.remove_reader(self._output)
        self._descriptors.close(self._control, self._output)
        self._forget(self)
        if not self.gone.done():
            self.gone.set_result(None)

    def _on_control(self) -> None:
        try:
            data, ancillary, _, _ = self._control.recvmsg(
                65536, socket.CMSG_SPACE(_CREDENTIALS.size)
            )
        except BlockingIOError:
            return
        except OSError:
            data, ancillary = b"", []
        *messages, self._received = (self._received + data).split(b"\n")
        for message in map(_decode, messages):
            if not self._reply.done():
                self._outer_pid = _only_child(ancillary)
                self._reply.set_result(message)
            self._returncode = int(message.get("returncode", self._returncode))
        if not data or len(self._received) > _LONGEST_MESSAGE:
            self._on_end()

    def _on_end(self) -> None:
        self._ended = True
        self._loop.remove_reader(self._control)
        if not self._reply.done():
            self._reply.set_result({})
        if self._reporting:
            self._finish()

    def _on_output(self) -> bool:
        """Pass on what is there; False when there is nothing more, now or ever."""
        try:
            data = os.read(self._output, 65536)
        except BlockingIOError:
            return False
        if not data:
            self._loop.remove_reader(self._output)
        for line in self._lines.feed(data):
            self._events.output(self._id, line)
        return bool(data)

    def _finish(self) -> None:
        """Everything is gone: pass on the rest of the output, then the exit."""
        try:
            self._drain()
        finally:
            self.abandon()
            self._events.exited(ProcessExit(self._id, self._returncode))

    def _drain(self) -> None:
        # Bounded: something that could not be killed may still hold the other end.
        for _ in range(64):
            if not self._on_output():
                break
        for line in self._lines.rest():
            self._events.output(self._id, line)


def _decode(message: bytes) -> dict[str, Any]:
    try:
        found = json.loads(message)
    except ValueError:
        found = None
    return found if isinstance(found, dict) else {}


def _only_child(ancillary: list[tuple[int, int, bytes]]) -> int:
    """The process whose parent has sent a message with these credentials; 0 where none is known."""
    for level, kind, data in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_CREDENTIALS):
            minder = _CREDENTIALS.unpack(data[: _CREDENTIALS.size])[0]
            with suppress(OSError, ValueError):
                children = Path(f"/proc/{minder}/task/{minder}/children").read_text()
                return int(children.split()[0]) if children else 0
    return 0


def _mount(mount: Mount) -> tuple[str, str, bool]:
    source = "" if mount.source is None else str(mount.source.resolve())
    return source, mount.target, mount.read_only


def _encode(order: LaunchOrder) -> bytes:
    body = json.dumps(
        {
            "argv": [str(LINK_FD) if word == "{link}" else word for word in order.argv],
            "env": dict(order.env),
            "cwd": str(order.cwd),
            "link": LINK_FD,
            "cpus": sorted(order.cpus),
            "mounts": [_mount(mount) for mount in order.mounts],
            "user": order.user,
        }
    ).encode()
    return struct.pack("!I", len(body)) + body
