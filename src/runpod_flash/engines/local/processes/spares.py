"""A supervisor that forks ahead: of a large process, that takes longer than all that follows.

Between orders it keeps a *spare*, a minder that has forked a worker's process already:

    zygote ── fork ──▶ minder ── fork ──▶ worker's process
        ├── descriptors ──▶                      │
        └── descriptors ──────────────────────────▶

An order wakes both at once. Each waits on a channel to the zygote, and ends with it. Orders that
come faster are served by forks, as everywhere.
"""

from __future__ import annotations

import os
import select
import socket
from contextlib import suppress
from typing import TYPE_CHECKING, NamedTuple, NoReturn

from runpod_flash.engines.local.processes.beginning import (
    Birth,
    Prepared,
    Seat,
    begin_worker,
    leave_minder,
)
from runpod_flash.engines.local.processes.minder import (
    Charge,
    Parent,
    be_minder,
    run_minder,
    show_own_processes,
)
from runpod_flash.engines.local.processes.own_process import keep_only
from runpod_flash.engines.local.processes.supervisor import MAX_DESCRIPTORS, Supervisor

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from runpod_flash.engines.local.processes.beginning import Begin

# The worker that took the last one has the processor first.
_PAUSE_SECONDS = 0.05
_MAX_LOSSES = 3


class SparingSupervisor(Supervisor):
    """See the module. `rehearse` is called in each worker's process that waits: what this writes to
    is then its own, as all memory becomes that is written to after a fork.
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
        self._spare: _Spare | None = None
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
            spare, self._spare = self._spare, None
            with spare.minder, spare.worker:
                if _sent(spare.worker, fds[:3]):
                    self._losses = 0
                    # Without its minder the worker dies, and may have read its order already.
                    socket.send_fds(spare.minder, [bytes([len(fds), charge.with_all])], fds)
                    return spare.pid
        return super().mind(charge, fds)

    def fork(self) -> int:
        pid = super().fork()
        if pid == 0 and self._spare is not None:
            self._spare.minder.detach()
            self._spare.worker.detach()
        return pid

    def spared(self, reaped: int) -> Collection[int]:
        if self._spare is not None and self._spare.pid == reaped:
            self._losses += 1
            self._drop()
        return () if self._spare is None else (self._spare.pid,)

    def _drop(self) -> None:
        if self._spare is not None:
            self._spare.minder.close()
            self._spare.worker.close()
            self._spare = None

    def _make(self) -> _Spare:
        minder, minders = socket.socketpair()
        worker, workers = socket.socketpair()
        with minders, workers:
            try:
                pid = self.fork()
            except OSError:
                minder.close()
                worker.close()
                raise
            if pid == 0:
                minder.detach()
                worker.detach()
                seat = _Seat(self._begin, self._apart, self._rehearse)
                channels = minders.detach(), workers.detach()
                _be_spare(*channels, seat, self._plane, self._own)
        return _Spare(pid, minder, worker)


class _Spare(NamedTuple):
    """The minder's process, and channels to it and to the one that is to be the worker."""

    pid: int
    minder: socket.socket
    worker: socket.socket


class _Seat(NamedTuple):
    """What a spare knows of its worker."""

    begin: Begin
    apart: bool
    rehearse: Callable[[], None]

    def taken(self, control: socket.socket, link: int, output: int) -> Seat:
        control.setblocking(True)
        return Seat(control, link, output, self.begin, self.apart)


def _sent(channel: socket.socket, fds: list[int]) -> bool:
    with suppress(OSError):
        socket.send_fds(channel, [bytes([len(fds), 0])], fds)
        return True
    return False


def _be_spare(channel: int, workers: int, seat: _Seat, plane: int, parent: Parent) -> NoReturn:
    try:
        be_minder([channel, workers, plane, parent.process])
        outside = show_own_processes(seat.apart)
        prepared = _prepare_worker(seat, workers, outside)
        fds, with_all = _receive(channel, plane, prepared)
    except Birth:
        raise
    except BaseException:
        os._exit(1)
    if not fds:
        os._exit(0)  # the process that waits ends with this one
    charge = Charge(socket.socket(fileno=fds[0]), fds[3:], with_all)
    taken = seat.taken(charge.control, fds[1], fds[2])
    run_minder(charge, taken, plane, parent, prepared)


def _receive(
    channel: int, plane: int = -1, worker: Prepared | None = None
) -> tuple[list[int], bool]:
    """What comes with an order for this process; none where the plane or the worker has ended."""
    poll = select.poll()
    for fd in (channel, plane, worker.failure if worker else -1):
        if fd >= 0:
            poll.register(fd, select.POLLIN)
    ready = {fd for fd, _ in poll.poll()}
    if worker and ready == {worker.failure} and os.waitpid(worker.pid, os.WNOHANG) == (0, 0):
        # Its program runs before this process has heard of the order.
        return _receive(channel, plane)
    if channel not in ready:
        return [], False
    with socket.socket(fileno=channel) as connection:
        data, fds, _, _ = socket.recv_fds(connection, 2, MAX_DESCRIPTORS)
    for fd in fds:
        os.set_inheritable(fd, False)
    return (list(fds), bool(data[1])) if data and len(fds) == data[0] else ([], False)


def _prepare_worker(seat: _Seat, channel: int, outside: int) -> Prepared:
    minder = os.getpid()
    failure, report = os.pipe()
    pid = os.fork()
    if pid == 0:
        _await_order(channel, seat, minder, report)
    os.close(channel)
    os.close(report)
    return Prepared(pid, failure, outside)


def _await_order(channel: int, seat: _Seat, minder: int, report: int) -> NoReturn:
    try:
        keep_only([channel, report])
        leave_minder(minder)
        seat.rehearse()
        fds, _ = _receive(channel)
    except BaseException:
        os._exit(1)
    if not fds:
        os._exit(0)
    taken = seat.taken(socket.socket(fileno=fds[0]), fds[1], fds[2])
    begin_worker(taken, minder, report)
