"""The parent of one worker, which ends it and all below it. See supervisor.py.

Standard library only, one thread.
"""

from __future__ import annotations

import os
import select
import signal
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, NoReturn

from runpod_flash.engines.local.processes import namespaces
from runpod_flash.engines.local.processes.beginning import Birth, StartError, start_worker, step
from runpod_flash.engines.local.processes.children import Waker, children, kill, reap
from runpod_flash.engines.local.processes.control import end, send
from runpod_flash.engines.local.processes.own_process import (
    PR_SET_CHILD_SUBREAPER,
    PR_SET_NAME,
    close_all,
    keep_only,
    prctl,
)

if TYPE_CHECKING:
    import socket
    from collections.abc import Collection

    from runpod_flash.engines.local.processes.beginning import Prepared, Seat


@dataclass
class Charge:
    """What belongs to one worker here until it and all below it are gone."""

    control: socket.socket
    held: list[int]
    with_all: bool

    def release(self) -> None:
        # Held first: a plane that sees the end may take the lock again at once.
        close_all(self.held)
        end(self.control)


class Parent(NamedTuple):
    """The supervisor, as its minders know it: `process` is a pidfd, -1 where there are none."""

    pid: int
    process: int

    def gone(self) -> bool:
        if self.process < 0:
            return os.getppid() != self.pid
        poll = select.poll()
        poll.register(self.process, select.POLLIN)
        return bool(poll.poll(0))


def run_minder(
    charge: Charge, seat: Seat, plane: int, supervisor: Parent, prepared: Prepared | None = None
) -> NoReturn:
    try:
        if prepared is None:
            # The descriptors of other workers among them: a lock must not wait for their end.
            kept = (charge.control.fileno(), seat.link, seat.output, plane, supervisor.process)
            be_minder([*kept, *charge.held])
        _mind(charge, seat, plane, prepared)
    except Birth:
        raise
    except BaseException as error:
        send(charge.control, {"errno": 0, "error": f"{type(error).__name__}: {error}"})
    try:
        _clear_children(0)
        if supervisor.gone():
            charge.release()  # else the supervisor does
    finally:
        os._exit(0)


def be_minder(fds: Collection[int]) -> None:
    """Become one that has no other descriptors than these."""
    signal.set_wakeup_fd(-1)
    keep_only(fds)
    prctl(PR_SET_CHILD_SUBREAPER, 1)
    prctl(PR_SET_NAME, b"flash-minder")


def _mind(charge: Charge, seat: Seat, plane: int, prepared: Prepared | None) -> None:
    control, waker = charge.control, Waker()
    try:
        outside = prepared.outside if prepared else show_own_processes(seat.apart)
        worker, without_mounts = start_worker(seat, prepared)
    except StartError as error:
        send(control, {"errno": error.errno, "error": error.what})
        return
    close_all([seat.link, seat.output])
    pid = worker if outside < 0 else int(os.read(outside, 64).split()[0])
    send(control, {"pid": pid, "mounts_error": without_mounts})
    status = _wait_for_worker(worker, waker, [control.fileno(), plane], charge.with_all)
    last = _clear_children(worker)
    send(control, {"returncode": os.waitstatus_to_exitcode(last if status is None else status)})


def show_own_processes(apart: bool) -> int:
    """What lists this process's children by the ids that they have outside; -1 where all have."""
    if not apart:
        return -1
    with step("its own processes"):
        return namespaces.show_own_processes()


def _wait_for_worker(
    worker: int, waker: Waker, watched: Collection[int], with_all: bool
) -> int | None:
    """The worker's wait status, or None when a watched descriptor says that it shall end.

    `with_all` waits for all other children too.
    """
    found = None
    while True:
        # Others are daemons that left the worker's tree: theirs to run, ours to bury.
        ended, others = reap()
        for pid, status in ended:
            if pid == worker:
                found = status
        if found is not None and not (with_all and others):
            return found
        if waker.wait(watched, None):
            return found


def _clear_children(worker: int) -> int:
    """Kill and reap all there is below this process; the worker's wait status if it was there.

    Only direct children are killed, again and again, since their own children then become ours:
    the id of a child that was not reaped cannot have passed to another process.
    """
    result, pause = signal.SIGKILL.value, 0.0005
    while True:
        alive = children(worker)
        killed = [pid for pid in alive if kill(pid)]
        ended, more = reap()
        for pid, status in ended:
            if pid == worker:
                result = status
        # What became another user's (sudo) cannot be killed; nothing is won by staying for it.
        if not more or (alive and not killed):
            return result
        time.sleep(pause)
        pause = min(2 * pause, 0.02)
