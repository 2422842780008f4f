"""A process's children: hearing of their ends, and ending them. Standard library only."""

# Plain system calls by name, for this runs beside forks:
# ruff: noqa: PTH123, PTH208
from __future__ import annotations

import os
import select
import signal
from contextlib import suppress
from typing import TYPE_CHECKING

from runpod_flash.engines.local.processes.own_process import LINUX

if TYPE_CHECKING:
    from collections.abc import Iterable


class Waker:
    """Makes the end of a child wake up `wait`, in one process at a time."""

    def __init__(self) -> None:
        self._wake, write = os.pipe()
        os.set_blocking(self._wake, False)
        os.set_blocking(write, False)
        signal.set_wakeup_fd(write, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)

    def wait(self, watched: Iterable[int], timeout: float | None) -> set[int]:
        """Which of `watched` are readable; empty after the timeout or the end of a child."""
        poll = select.poll()
        for fd in (self._wake, *watched):
            if fd >= 0:
                poll.register(fd, select.POLLIN)
        ready = {fd for fd, _ in poll.poll(None if timeout is None else 1000 * timeout)}
        if self._wake in ready:
            os.read(self._wake, 4096)
        return ready - {self._wake}


def reap() -> tuple[list[tuple[int, int]], bool]:
    """The wait statuses of the children that ended, and whether there are others."""
    ended: list[tuple[int, int]] = []
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return ended, False
        if pid == 0:
            return ended, True
        ended.append((pid, status))


def children(worker: int = 0) -> list[int]:
    """What to kill to end all children; where there are no subreapers, the worker's group."""
    if not LINUX:
        return [-worker] if worker else []
    try:
        with open("/proc/thread-self/children") as stream:
            return [int(pid) for pid in stream.read().split()]
    except FileNotFoundError:  # a kernel without CONFIG_PROC_CHILDREN
        return [int(pid) for pid in os.listdir("/proc") if pid.isdigit() and _is_child(pid)]


def _is_child(pid: str) -> bool:
    with suppress(OSError), open(f"/proc/{pid}/stat") as stream:
        # "pid (name) state parent …", and the name may hold anything.
        return int(stream.read().rpartition(")")[2].split()[1]) == os.getpid()
    return False


def kill(pid: int) -> bool:
    try:
        os.kill(pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        return False
    return True
