"""What a process of the launcher's does to itself. Standard library only."""

# Plain system calls by name, for this runs between fork and exec:
# ruff: noqa: PTH208
from __future__ import annotations

import os
import signal
import sys
from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

LINUX = sys.platform == "linux"

PR_SET_PDEATHSIG = 1
PR_SET_NAME = 15
PR_SET_CHILD_SUBREAPER = 36

if LINUX:
    import ctypes

    _libc = ctypes.CDLL(None, use_errno=True)


def prctl(option: int, value: int | bytes) -> None:
    if LINUX:
        _libc.prctl(option, value if isinstance(value, bytes) else ctypes.c_ulong(value), 0, 0, 0)


def close_all(fds: Iterable[int]) -> None:
    for fd in fds:
        os.close(fd)


def keep_only(fds: Collection[int]) -> None:
    for name in os.listdir("/proc/self/fd" if LINUX else "/dev/fd"):
        if int(name) > 2 and int(name) not in fds:
            with suppress(OSError):  # the listing's own
                os.close(int(name))


def threads() -> int:
    """How many run in this process, by whomever they were started."""
    return len(os.listdir("/proc/self/task")) if LINUX else 1


def check_threads() -> None:
    """A lock that another thread has at a fork stays locked for ever in the child."""
    if (count := threads()) > 1:
        raise OSError(0, f"{count} threads run in the process to fork")


def reset_signals() -> None:
    """Give the worker the defaults: what is ignored here stays ignored over exec."""
    signal.set_wakeup_fd(-1)
    for number in signal.valid_signals():
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, signal.SIG_DFL)


def pidfd() -> int:
    """This process as a descriptor; -1 where the system has none.

    It tells the process's end even where a fork has a copy of every other descriptor.
    """
    try:
        return os.pidfd_open(os.getpid())
    except (AttributeError, OSError):
        return -1
