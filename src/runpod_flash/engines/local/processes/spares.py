"""A supervisor that forks ahead: of a large process, that takes longer than all that follows.

Between orders it keeps a *spare*, a minder that has forked a worker's process already:

    zygote ── fork ──▶ minder ── fork ──▶ worker's process
        └── descriptors ──▶ └── descriptors, order ──▶

Each of the two waits on a channel to its parent, and ends with it. Orders that come faster are
served by forks, as everywhere.
"""

from __future__ import annotations

import os
import select
import signal
import socket
from contextlib import suppress
from typing import TYPE_CHECKING, NamedTuple, NoReturn

from runpod_flash.engines.local.processes import supervisor
from runpod_flash.engines.local.processes.supervisor import Charge, Parent, Prepared, Seat

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from runpod_flash.engines.local.processes.supervisor import Begin

# The worker that took the last one has the processor first.
_PAUSE_SECONDS = 0.05
_MAX_LOSSES = 3


class SparingSupervisor(supervisor.Supervisor):
    """See the module. `rehearse` is called in each worker's process that waits: what this writes to
    is then its own, as all memory becomes that is written to after a fork.

    `_spare` is the id of the minder, and its channel.
    """

    def __init__(
        self,
        orders: socket.socket,
        plane: int,
        begin: Begin,
        apart: bool,
        rehearse: Callable[[], None],
    ) -> None:
        super().__init__(orders, plane, begin, apart)
        self._rehearse = rehearse
        self._spare: tuple[int, socket.socket] | None = None
        self._busy = False
        self._losses = 0

    def patience(self) -> float | None:
        wanted = self._open and self._spare is None and self._losses < _MAX_LOSSES
        return _PAUSE_SECONDS if wanted else None

    def turn(self) -> None:
        if not self._open:
            self._drop()
        elif self._busy:
            self._busy = False
        elif self.patience() is not None:
            try:
                self._spare = self._make()
            except OSError:
                self._losses += 1

    def mind(self, charge: Charge, fds: list[int]) -> int:
        self._busy = True
        if self._spare is not None:
            (pid, channel), self._spare = self._spare, None
            with suppress(OSError), channel:
                socket.send_fds(channel, [bytes([len(fds)])], fds)
                self._losses = 0
                return pid
        return super().mind(charge, fds)

    def fork(self) -> int:
        pid = super().fork()
        if pid == 0 and self._spare is not None:
            self._spare[1].detach()
        return pid

    def spared(self, reaped: int) -> Collection[int]:
        if self._spare is not None and self._spare[0] == reaped:
            self._losses += 1
            self._drop()
        return () if self._spare is None else (self._spare[0],)

    def _drop(self) -> None:
        if self._spare is not None:
            self._spare[1].close()
            self._spare = None

    def _make(self) -> tuple[int, socket.socket]:
        ours, theirs = socket.socketpair()
        with theirs:
            try:
                pid = self.fork()
            except OSError:
                ours.close()
                raise
            if pid == 0:
                ours.detach()
                seat = _Seat(self._begin, self._apart, self._rehearse)
                _be_spare(theirs.detach(), seat, self._plane, self._own)
        return pid, ours


class _Seat(NamedTuple):
    """What a spare knows of its worker."""

    begin: Begin
    apart: bool
    rehearse: Callable[[], None]

    def taken(self, link: int, output: int) -> Seat:
        return Seat(link, output, self.begin, self.apart)


def _be_spare(channel: int, seat: _Seat, plane: int, parent: Parent) -> NoReturn:
    try:
        supervisor.be_minder([channel, plane, parent.process])
        outside = supervisor.show_own_processes(seat.apart)
        prepared = _prepare_worker(seat, outside)
        fds = _receive(channel, plane)
    except supervisor.Birth:
        raise
    except BaseException:
        os._exit(1)
    if not fds:
        os._exit(0)  # the process that waits ends with this one
    charge = Charge(socket.socket(fileno=fds[0]), held=fds[3:])
    charge.control.setblocking(True)
    supervisor.run_minder(charge, seat.taken(fds[1], fds[2]), plane, parent, prepared)


def _receive(channel: int, plane: int) -> list[int]:
    """The descriptors of a worker to mind; none where nobody will send any."""
    poll = select.poll()
    for fd in (channel, plane):
        if fd >= 0:
            poll.register(fd, select.POLLIN)
    if channel not in {fd for fd, _ in poll.poll()}:
        return []
    with socket.socket(fileno=channel) as connection:
        data, fds, _, _ = socket.recv_fds(connection, 1, supervisor.MAX_DESCRIPTORS)
    for fd in fds:
        os.set_inheritable(fd, False)
    return list(fds) if data and len(fds) == data[0] else []


def _prepare_worker(seat: _Seat, outside: int) -> Prepared:
    ours, theirs = socket.socketpair()
    minder = os.getpid()
    pid = os.fork()
    if pid == 0:
        ours.detach()
        _await_order(theirs.detach(), seat, minder)
    theirs.close()
    return Prepared(pid, ours, outside)


def _await_order(channel: int, seat: _Seat, minder: int) -> NoReturn:
    try:
        supervisor.keep_only([channel])
        supervisor.prctl(supervisor.PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != minder:
            os._exit(0)
        seat.rehearse()
        with socket.socket(fileno=channel) as connection:
            _, fds, _, _ = socket.recv_fds(connection, 1, 3)
            order = supervisor.read_order(connection)
    except BaseException:
        os._exit(1)
    if order is None or len(fds) != 3:
        os._exit(0)
    link, output, report = fds
    supervisor.begin_worker(order, seat.taken(link, output), order["mounts"], minder, report)
