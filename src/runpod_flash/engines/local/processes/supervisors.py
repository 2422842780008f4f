"""The plane's side of a supervisor: its process, and the socket that orders go to."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
from contextlib import suppress
from typing import TYPE_CHECKING, Protocol

from runpod_flash.engines.local.processes.own_process import pidfd

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from runpod_flash.engines.local.processes.descriptors import Descriptors
    from runpod_flash.engines.local.processes.worker_process import WorkerProcess


class SupervisorLostError(OSError):
    """The supervisor or the minder was killed before it had started a worker."""


class Forker(Protocol):
    """Something that starts workers, as the plane knows it.

    One that `is_inside` lives where workers are to be: in their view, and as their user.
    """

    @property
    def is_inside(self) -> bool: ...
    @property
    def pid(self) -> int: ...
    @property
    def orders(self) -> socket.socket: ...
    def alive(self) -> bool: ...
    def order(self, fds: list[int], with_all: bool) -> None: ...
    def read(self) -> bytes:
        """What it has to say; raises BlockingIOError where that is nothing so far."""

    def let_go(self) -> None:
        """Have it end when its minders have."""

    def ended(self) -> bool: ...
    def kill(self) -> None:
        """End it now, whether or not it listens; its minders may end with it."""

    async def gone(self) -> None:
        """Wait for its end."""

    def abandon(self) -> None:
        """In a forked copy of this process: let go of it."""


class _Ordering:
    """How all of them are spoken to."""

    orders: socket.socket
    _descriptors: Descriptors

    def alive(self) -> bool:
        try:
            # Its end of the socket closes a moment before the process can be waited for.
            return bool(self.orders.recv(1, socket.MSG_DONTWAIT))
        except BlockingIOError:
            return True
        except OSError:
            return False

    def order(self, fds: list[int], with_all: bool) -> None:
        with suppress(BrokenPipeError, ConnectionResetError):  # the worker's socket tells
            socket.send_fds(self.orders, [bytes([len(fds), with_all])], fds)

    def read(self) -> bytes:
        try:
            return self.orders.recv(65536, socket.MSG_DONTWAIT)
        except ConnectionError:
            return b""

    def let_go(self) -> None:
        self._descriptors.close(self.orders)


class Supervisor(_Ordering):
    """The process of a supervisor: of `command`, which gets what supervise.py says first.

    Then come `arguments`. The environment is this process's own unless `env` is given.
    """

    is_inside = False

    @property
    def pid(self) -> int:
        return self._process.pid

    def __init__(
        self,
        descriptors: Descriptors,
        command: Sequence[str],
        apart: bool,
        arguments: Sequence[str] = (),
        env: Mapping[str, str] | None = None,
        cwd: Path | str = "/",
    ) -> None:
        self._descriptors = descriptors
        self.orders, theirs = descriptors.socketpair()
        plane = pidfd()
        fds = (theirs.fileno(), plane)
        try:
            self._process = subprocess.Popen(
                [*command, *map(str, fds), str(int(apart)), *arguments],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                pass_fds=[fd for fd in fds if fd >= 0],
                start_new_session=True,
                env=env,
                cwd=cwd,
            )
        except BaseException:
            descriptors.close(self.orders)
            raise
        finally:
            descriptors.close(theirs)
            if plane >= 0:
                os.close(plane)

    def ended(self) -> bool:
        return self._process.poll() is not None

    def kill(self) -> None:
        self.let_go()
        self._process.kill()
        self._process.wait()

    async def gone(self) -> None:
        """It was killed, or others wait for its workers."""

    async def close(self) -> None:
        """It ends by itself when its minders have, unless it hangs."""
        self.let_go()
        for _ in range(400):
            if self.ended():
                return
            await asyncio.sleep(0.005)
        self.kill()

    def abandon(self) -> None:
        self._process.returncode = 0  # not this process's child: nothing to wait for or warn of


class InnerSupervisor(_Ordering):
    """A supervisor that is itself a worker's process: it was started with `orders` as its link."""

    is_inside = True

    def __init__(
        self, descriptors: Descriptors, orders: socket.socket, process: WorkerProcess
    ) -> None:
        self._descriptors = descriptors
        self.orders = orders
        self._process = process

    @property
    def pid(self) -> int:
        return self._process.pid

    def ended(self) -> bool:
        return self._process.gone.done()

    def kill(self) -> None:
        self.let_go()
        self._process.kill()

    async def gone(self) -> None:
        await self._process.gone

    def abandon(self) -> None:
        """Its launcher lets go of all its descriptors."""
