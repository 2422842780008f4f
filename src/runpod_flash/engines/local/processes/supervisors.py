"""The plane's side of a supervisor: its process, and the socket that orders go to."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from runpod_flash.engines.local.processes.descriptors import Descriptors


class SupervisorLostError(OSError):
    """The supervisor ended before it could start a worker."""


class Supervisor:
    """The supervisor's process, as long as it runs."""

    def __init__(self, descriptors: Descriptors) -> None:
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


def _pidfd() -> int:
    """This process as a descriptor: tells its end even where a fork copied all the others."""
    try:
        return os.pidfd_open(os.getpid())
    except (AttributeError, OSError):
        return -1
