"""A worker's process until its program runs, and how its minder hears of that.

The process reads what to run from its control socket. A pipe to the minder ends when the program
runs; text on it says why it does not. Standard library only.
"""

from __future__ import annotations

import fcntl
import json
import os
import signal
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

from runpod_flash.engines.local.processes import namespaces
from runpod_flash.engines.local.processes.control import read_order
from runpod_flash.engines.local.processes.own_process import (
    LINUX,
    PR_SET_PDEATHSIG,
    prctl,
    reset_signals,
)

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Iterator

    Begin = Callable[[dict[str, Any]], NoReturn]

_MOUNT_VIEW = "the mount view"


class Seat(NamedTuple):
    """Where a worker gets its order, its link, its output, and how its program begins there.

    `apart` says that it is in namespaces of its own.
    """

    control: socket.socket
    link: int
    output: int
    begin: Begin
    apart: bool


class Prepared(NamedTuple):
    """A worker's process that was there before its order; see `_spawn` and `show_own_processes`."""

    pid: int
    failure: int
    outside: int


class Birth(BaseException):
    """Leaves all frames of this program, in the process that goes on as a worker; see zygote.py."""

    def __init__(self, order: dict[str, Any]) -> None:
        self.order = order


class StartError(Exception):
    """`order` comes with it where the worker may do without what has failed."""

    def __init__(self, what: str, errno: int, order: dict[str, Any] | None = None) -> None:
        super().__init__(what, errno)
        self.what = what
        self.errno = errno
        self.order = order


def start_worker(seat: Seat, prepared: Prepared | None) -> tuple[int, str]:
    """Returns the worker's process id, and why it has no mounts where it should."""
    try:
        pid, failure = (prepared.pid, prepared.failure) if prepared else _spawn(seat)
        _started(pid, failure)
    except StartError as error:
        if seat.apart or error.order is None:
            raise
        # A half-made view is no place to be: start over in a new process.
        pid, failure = _spawn(seat, {**error.order, "mounts": []})
        _started(pid, failure)
        return pid, error.what
    return pid, ""


def _spawn(seat: Seat, order: dict[str, Any] | None = None) -> tuple[int, int]:
    """A process that reads its order, unless it is given, and a pipe: its end says that the
    program runs, text why not."""
    minder = os.getpid()
    failure, report = os.pipe()
    pid = os.fork()
    if pid == 0:
        leave_minder(minder)
        begin_worker(seat, minder, report, order)
    os.close(report)
    return pid, failure


def _started(pid: int, failure: int) -> None:
    """Returns when the worker's program runs; raises StartError when it cannot."""
    with open(failure, "rb") as stream:
        text = stream.read()
    if text:
        os.waitpid(pid, 0)
        raise StartError(*json.loads(text))


def leave_minder(minder: int) -> None:
    """What a worker's process need not wait with for its order."""
    prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != minder:
        os._exit(127)
    reset_signals()
    os.setsid()


def begin_worker(
    seat: Seat, minder: int, report: int, order: dict[str, Any] | None = None
) -> NoReturn:
    """In the worker's process: read its order, unless it is given, and follow it."""
    try:
        order = order or read_order(seat.control)
        if order is None:
            os._exit(127)
        # Away from the number that the link will take.
        report = fcntl.fcntl(report, fcntl.F_DUPFD_CLOEXEC, order["link"] + 1)
        _become_worker(order, seat, minder)
    except Birth:
        seat.control.detach()  # it is closed by its number
        raise
    except BaseException as error:
        _give_up(error, order, report)


def _give_up(error: BaseException, order: dict[str, Any] | None, report: int) -> NoReturn:
    told: list[Any] = [repr(error), 0]
    if isinstance(error, StartError):
        again = order if error.what.startswith(_MOUNT_VIEW) else None
        told = [error.what, error.errno, again]
    try:
        with open(report, "wb") as stream:
            stream.write(json.dumps(told).encode())
    finally:
        os._exit(127)


def _become_worker(order: dict[str, Any], seat: Seat, minder: int) -> NoReturn:
    if order["mounts"]:
        with step(_MOUNT_VIEW):
            namespaces.enter(order["mounts"])
    if order["user"]:
        with step(f"the user {order['user'][0]}"):
            namespaces.become(*order["user"])
    with step(f"the working directory {order['cwd']}"):
        os.chdir(order["cwd"])
    if order["cpus"] and LINUX:
        with step(f"the affinity to CPUs {order['cpus']}"):
            os.sched_setaffinity(0, order["cpus"])
    prctl(PR_SET_PDEATHSIG, signal.SIGKILL)  # another user has none
    if os.getppid() != minder:
        os._exit(127)
    os.dup2(seat.output, 1)
    os.dup2(seat.output, 2)
    os.dup2(seat.link, order["link"])
    # A descriptor that was there already keeps its flag otherwise. All others close by exec.
    os.set_inheritable(order["link"], True)
    seat.begin(order)


def begin_program(order: dict[str, Any]) -> NoReturn:
    with step(f"the program {order['argv'][0]}"):
        os.execvpe(order["argv"][0], order["argv"], order["env"])


@contextmanager
def step(what: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StartError(f"{what}: {error.strerror}", error.errno or 0) from error
    except ValueError as error:
        raise StartError(f"{what}: {error}", 22) from error
