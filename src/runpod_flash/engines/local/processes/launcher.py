"""Starts worker processes through the supervisor, and hears when all of a worker is gone.

`Launcher` is the seam: a fresh process now; a fork of a warm one, a container or an actor later.
How processes are parented, and ended however this one dies, is told in supervisor.py.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import struct
import subprocess
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

LINK_FD = 3  # where a worker finds its link, beside 0, 1 and 2; no other descriptor is open in it
LINE_LIMIT = 64 * 1024

_MAX_HELD = 64
_PARALLEL_LAUNCHES = 64  # keeps orders far below what a socket buffers, so that none ever blocks
_CRASHES = {"SIGSEGV", "SIGBUS", "SIGILL", "SIGFPE", "SIGABRT", "SIGTRAP", "SIGSYS"}


@dataclass(frozen=True)
class Mount:
    """A directory that the worker sees at `target`: below `/`, or where a directory exists."""

    source: Path
    target: str


@dataclass(frozen=True)
class LaunchOrder:
    """A process to start: `argv` with the word `{link}` for the link's descriptor, `env` as it is.

    `link` is the worker's end and is closed here by the launch. `held` are descriptors (locks)
    that stay open until the worker and all its descendants are gone, even if this process dies;
    the caller closes its own copies after the launch. Empty `cpus` means all.
    """

    worker_id: str
    argv: tuple[str, ...]
    env: Mapping[str, str]
    cwd: Path
    link: socket.socket
    held: tuple[int, ...] = ()
    cpus: frozenset[int] = frozenset()
    mounts: tuple[Mount, ...] = ()

    def __post_init__(self) -> None:
        if not self.argv:
            raise ValueError("a launch order names no program")
        if len(self.held) > _MAX_HELD:
            raise ValueError(f"{len(self.held)} descriptors to hold are more than {_MAX_HELD}")


@dataclass(frozen=True)
class ProcessExit:
    """A worker and all its descendants are gone; a negative `returncode` is a signal's number."""

    worker_id: str
    returncode: int


class ProcessEvents(Protocol):
    """What is heard of a process after `launch` returned, on the loop; `exited` comes last."""

    def exited(self, exit: ProcessExit) -> None: ...

    def output(self, worker_id: str, line: str) -> None:
        """A line of standard output or error; a line over 64 KiB comes in parts."""


class Process(Protocol):
    """A started process. `mounts_error` says why it runs without its mounts; empty: it has them."""

    @property
    def pid(self) -> int: ...

    @property
    def mounts_error(self) -> str: ...

    def kill(self) -> None:
        """End the process and all its descendants; the exit is reported as an event."""


class Launcher(Protocol):
    async def launch(self, order: LaunchOrder, events: ProcessEvents) -> Process:
        """Start a process; returns when its program runs. Raises OSError, naming what failed."""

    async def close(self) -> None:
        """Kill every process; returns when all are gone and their exits were reported."""

    def close_in_child(self) -> None:
        """Let go of the processes in a forked copy of this one: they are the parent's."""


def describe(returncode: int) -> str:
    """A phrase for how a process ended, to follow "the worker"."""
    if returncode >= 0:
        return f"exited with code {returncode}"
    try:
        name = signal.Signals(-returncode).name
    except ValueError:
        name = f"signal {-returncode}"
    if name == "SIGKILL":
        return "was killed by SIGKILL (out of memory?)"
    return f"crashed with {name}" if name in _CRASHES else f"was killed by {name}"


class FreshProcessLauncher(Launcher):
    """Starts each worker as a new program. Belongs to one event loop and is used on it only."""

    def __init__(self) -> None:
        self._descriptors = _Descriptors()
        self._supervisor: _Supervisor | None = None
        self._workers: set[_Worker] = set()
        self._starting = asyncio.Semaphore(_PARALLEL_LAUNCHES)
        self._closed = False

    async def launch(self, order: LaunchOrder, events: ProcessEvents) -> Process:
        with order.link:
            async with self._starting:
                try:
                    return await self._launch(order, events)
                except _SupervisorLostError:
                    # It was killed between two launches, or during this one: a new one, once.
                    return await self._launch(order, events)

    async def close(self) -> None:
        self._closed = True
        workers = list(self._workers)
        for worker in workers:
            worker.kill()
        await asyncio.gather(*(worker.gone for worker in workers))
        if self._supervisor is not None:
            await self._supervisor.close()

    def close_in_child(self) -> None:
        """For a forked copy of this process: let go of the workers, which are the parent's.

        Give it to `os.register_at_fork(after_in_child=...)`. It touches no event loop, for the
        child's loop shares its selector with the parent's.
        """
        self._closed = True
        self._workers.clear()
        self._descriptors.abandon()
        if self._supervisor is not None:
            self._supervisor.abandon()

    async def _launch(self, order: LaunchOrder, events: ProcessEvents) -> Process:
        if self._closed:
            raise OSError(f"worker {order.worker_id} was not started: its launcher is closed")
        if self._supervisor is None or not self._supervisor.alive():
            await self._replace_supervisor()
        assert self._supervisor is not None
        worker = _Worker(order, events, self._descriptors, self._workers.discard)
        self._workers.add(worker)
        try:
            await worker.start(order, self._supervisor)
        except BaseException:
            worker.abandon()
            raise
        worker.report()
        return worker

    async def _replace_supervisor(self) -> None:
        old, self._supervisor = self._supervisor, _Supervisor(self._descriptors)
        if old is not None:
            await old.close()


class _SupervisorLostError(OSError):
    """The supervisor ended before it could start a worker."""


class _Supervisor:
    """The supervisor's process, as long as it runs."""

    def __init__(self, descriptors: _Descriptors) -> None:
        self._descriptors = descriptors
        self._orders, theirs = descriptors.socketpair()
        plane = _pidfd()
        fds = (theirs.fileno(), plane)
        program = Path(__file__).resolve().with_name("supervisor.py")
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-S", str(program), *map(str, fds)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                pass_fds=[fd for fd in fds if fd >= 0],
                start_new_session=True,
                cwd="/",
            )
        except BaseException:
            descriptors.close(self._orders)
            raise
        finally:
            descriptors.close(theirs)
            if plane >= 0:
                os.close(plane)

    def alive(self) -> bool:
        try:
            # Its end of the socket closes a moment before the process can be waited for.
            return bool(self._orders.recv(1, socket.MSG_DONTWAIT))
        except BlockingIOError:
            return True
        except OSError:
            return False

    def order(self, fds: list[int]) -> None:
        with suppress(BrokenPipeError, ConnectionResetError):  # the worker's socket tells
            socket.send_fds(self._orders, [bytes([len(fds)])], fds)

    async def close(self) -> None:
        """It ends by itself when its minders have; where it hangs, the minders do not need it."""
        self._descriptors.close(self._orders)
        for _ in range(400):
            if self._process.poll() is not None:
                return
            await asyncio.sleep(0.005)
        self._process.kill()
        self._process.wait()

    def abandon(self) -> None:
        self._process.returncode = 0  # not this process's child: nothing to wait for or warn of


class _Worker(Process):
    """One worker: its control socket, which says how it started and ended, and its output."""

    def __init__(
        self,
        order: LaunchOrder,
        events: ProcessEvents,
        descriptors: _Descriptors,
        forget: Callable[[_Worker], None],
    ) -> None:
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
        self._lines = _Lines()
        self._ended = False
        self._reporting = False
        self._reply: asyncio.Future[dict[str, Any]] = self._loop.create_future()
        self._returncode = -signal.SIGKILL  # what a killed minder's worker dies of
        self.gone: asyncio.Future[None] = self._loop.create_future()

    @property
    def pid(self) -> int:
        return int(self._reply.result()["pid"])

    @property
    def mounts_error(self) -> str:
        return str(self._reply.result()["mounts_error"])

    def kill(self) -> None:
        # The minder cannot tell this from the end of the plane, and need not.
        with suppress(OSError):
            self._control.shutdown(socket.SHUT_WR)

    async def start(self, order: LaunchOrder, supervisor: _Supervisor) -> None:
        fds = [self._minders_control.fileno(), order.link.fileno(), self._workers_output]
        try:
            supervisor.order([*fds, *order.held])
        finally:
            self._descriptors.close(self._minders_control, self._workers_output)
        self._loop.add_reader(self._control, self._on_control)
        with suppress(BrokenPipeError, ConnectionResetError):  # then there is no reply either
            await self._loop.sock_sendall(self._control, _encode(order))
        reply = await self._reply
        if "error" in reply:
            text = f"worker {self._id} could not be started: {reply['error']}"
            raise OSError(reply["errno"], text) if reply["errno"] else OSError(text)
        if "pid" not in reply:
            text = f"worker {self._id} could not be started: its parent process was killed"
            raise OSError(text) if supervisor.alive() else _SupervisorLostError(text)

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
            data = self._control.recv(65536)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        *messages, self._received = (self._received + data).split(b"\n")
        for message in map(json.loads, messages):
            if not self._reply.done():
                self._reply.set_result(message)
            self._returncode = message.get("returncode", self._returncode)
        if not data:
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


class _Lines:
    """Cuts a stream of bytes into lines of at most `LINE_LIMIT` bytes."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> list[str]:
        *lines, rest = (self._rest + data).split(b"\n")
        full = max(len(rest) - 1, 0) // LINE_LIMIT * LINE_LIMIT
        self._rest = rest[full:]
        if full:
            lines.append(rest[:full])
        return [part for line in lines for part in _cut(line)]

    def rest(self) -> list[str]:
        """The last line, where nothing ended it."""
        rest, self._rest = self._rest, b""
        return _cut(rest) if rest else []


class _Descriptors:
    """What this side holds open, so that a forked copy of this process can let go of it."""

    def __init__(self) -> None:
        self._open: set[socket.socket | int] = set()

    def socketpair(self) -> tuple[socket.socket, socket.socket]:
        pair = socket.socketpair()
        for each in pair:
            each.setblocking(True)  # whatever the program's default timeout is
        self._open.update(pair)
        return pair

    def pipe(self) -> tuple[int, int]:
        pair = os.pipe()
        self._open.update(pair)
        return pair

    def close(self, *ends: socket.socket | int) -> None:
        """Close what is not closed yet."""
        for each in ends:
            if each in self._open:
                self._open.remove(each)
                os.close(each if isinstance(each, int) else each.detach())

    def abandon(self) -> None:
        self.close(*self._open)


def _cut(line: bytes) -> list[str]:
    starts = range(0, max(len(line), 1), LINE_LIMIT)
    return [line[at : at + LINE_LIMIT].decode(errors="replace") for at in starts]


def _encode(order: LaunchOrder) -> bytes:
    body = json.dumps(
        {
            "argv": [str(LINK_FD) if word == "{link}" else word for word in order.argv],
            "env": dict(order.env),
            "cwd": str(order.cwd),
            "link": LINK_FD,
            "cpus": sorted(order.cpus),
            "mounts": [(str(mount.source.resolve()), mount.target) for mount in order.mounts],
        }
    ).encode()
    return struct.pack("!I", len(body)) + body


def _pidfd() -> int:
    """This process as a descriptor: tells its end even where a fork copied all the others."""
    try:
        return os.pidfd_open(os.getpid())
    except (AttributeError, OSError):
        return -1
