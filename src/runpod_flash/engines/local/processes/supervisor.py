"""The program that parents the worker processes of one plane, and lets nothing of them be left.

An order is two bytes, the number of descriptors that come with it and whether to wait for all that
the worker starts: its control socket, its link, its output, and those to hold. For each the
supervisor forks a *minder*, and that the worker's process, which reads what to run from the control
socket:

    plane ── orders ──▶ supervisor ── fork ──▶ minder ── fork, exec ──▶ worker ──▶ its children
      └──────────────── control ─────────────────┘

A minder kills its worker and all descendants when its control socket ends or the plane's process
does. Each failure is covered by another process: a killed minder's worker has a parent-death
signal, its orphans fall to the supervisor; minders outlive a killed supervisor. The plane sees
the control socket end only when all of that is done and the held descriptors are closed.

Standard library only, one thread, nothing of it is ever seen by a worker. On macOS there are no
subreapers and no parent-death signals: process groups and the control socket remain. (Untested.)
"""

from __future__ import annotations

import gc
import os
import signal
import socket
from typing import TYPE_CHECKING

from runpod_flash.engines.local.processes import namespaces
from runpod_flash.engines.local.processes.beginning import Seat
from runpod_flash.engines.local.processes.children import Waker, children, kill, reap
from runpod_flash.engines.local.processes.control import send
from runpod_flash.engines.local.processes.minder import Charge, Parent, run_minder
from runpod_flash.engines.local.processes.own_process import (
    PR_SET_CHILD_SUBREAPER,
    check_threads,
    close_all,
    pidfd,
    prctl,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from runpod_flash.engines.local.processes.beginning import Begin

MAX_DESCRIPTORS = 250  # what one message can carry is a little more


class Supervisor:
    def __init__(self, orders: socket.socket, plane: int, begin: Begin, apart: bool) -> None:
        self._orders = orders
        self._plane = plane
        self._begin = begin
        self._apart = apart
        self._own = Parent(os.getpid(), pidfd())
        self._open = True
        self._minders: dict[int, Charge] = {}
        self._ended: list[Charge] = []
        self._waker = Waker()

    def run(self) -> None:
        while self._open or self._minders or self._ended:
            watched = (self._orders.fileno(), self._plane) if self._open else ()
            ready = self._waker.wait(watched, 0.01 if self._ended else self.patience())
            if self._plane in ready:
                self._open = False
            elif ready:
                self._receive()
            self.turn()
            self._settle()

    def patience(self) -> float | None:
        """For how many seconds nothing but news needs a turn."""
        return None

    def turn(self) -> None:
        """What else there is to do now."""

    def _receive(self) -> None:
        try:
            data, fds, _, _ = socket.recv_fds(self._orders, 2, MAX_DESCRIPTORS)
        except ConnectionError:
            data, fds = b"", []
        for fd in fds:
            os.set_inheritable(fd, False)
        if not data:
            self._open = False
        elif len(fds) == data[0]:
            self._take(fds, bool(data[1]))
        else:
            close_all(fds)  # out of descriptors; the plane sees the control socket end

    def _take(self, fds: list[int], with_all: bool) -> None:
        charge = Charge(socket.socket(fileno=fds[0]), fds[3:], with_all)
        charge.control.setblocking(True)
        try:
            pid = self.mind(charge, fds)
        except OSError as error:
            send(charge.control, {"errno": error.errno, "error": f"fork: {error.strerror}"})
            charge.release()
        else:
            self._minders[pid] = charge
        close_all(fds[1:3])

    def mind(self, charge: Charge, fds: list[int]) -> int:
        """Have a minder for the worker of these descriptors; its process id. Raises OSError."""
        pid = self.fork()
        if pid == 0:
            seat = Seat(charge.control, fds[1], fds[2], self._begin, self._apart)
            run_minder(charge, seat, self._plane, self._own)
        return pid

    def fork(self) -> int:
        """As `os.fork`, for a minder."""
        check_threads()
        pid = namespaces.fork_apart() if self._apart else os.fork()
        if pid == 0:
            # Sockets must not close numbers that something else may have by then.
            for other in (*self._minders.values(), *self._ended):
                other.control.detach()
            self._orders.detach()
        return pid

    def spared(self, reaped: int) -> Collection[int]:
        """Other children to let live; `reaped` is one that has ended."""
        return ()

    def _settle(self) -> None:
        """Reap; when no orphan of a minder that was killed is left, let the ended ones go."""
        spared = self.spared(0)
        for pid, _ in reap()[0]:
            if pid in self._minders:
                self._ended.append(self._minders.pop(pid))
            spared = self.spared(pid)
        orphans = {*children()} - {*self._minders, *spared}
        if not [pid for pid in orphans if kill(pid)]:
            for charge in self._ended:
                charge.release()
            self._ended.clear()


def serve(
    orders: int,
    plane: int,
    begin: Begin,
    apart: bool,
    kind: Callable[[socket.socket, int, Begin, bool], Supervisor] = Supervisor,
) -> None:
    """Supervise until the plane is gone and all minders have ended."""
    # A terminal or a service manager may signal all processes at once: the plane answers that,
    # and when it is done or dead, this program and its minders see it.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_SETMASK, [])  # the plane's thread may block signals
    for fd in (orders, plane):
        if fd >= 0:
            os.set_inheritable(fd, False)
    prctl(PR_SET_CHILD_SUBREAPER, 1)
    ordered = socket.socket(fileno=orders)
    ordered.setblocking(True)
    gc.disable()
    gc.freeze()  # forks share what the collector never touches
    kind(ordered, plane, begin, apart).run()
