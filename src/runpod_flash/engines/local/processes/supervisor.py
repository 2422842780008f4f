"""The program that parents the worker processes of one plane, and lets nothing of them be left.

Run by file path: `supervisor.py ORDERS PLANE APART`: two descriptors, a stream socket to the plane
and a pidfd of the plane's process (-1 where the system has none); and 1 where each worker is to be
in namespaces of its own, alone with its minder. An order is two bytes, the number of
descriptors that come with it and whether to wait for all that the worker starts: its control
socket, its link, its output, and those to hold. For each the supervisor forks a *minder*, and that
the worker's process, which reads what to run from the control socket:

    plane ── orders ──▶ supervisor ── fork ──▶ minder ── fork, exec ──▶ worker ──▶ its children
      └──────────────── control ─────────────────┘

A minder kills its worker and all descendants when its control socket ends or the plane's process
does. Each failure is covered by another process: a killed minder's worker has a parent-death
signal, its orphans fall to the supervisor; minders outlive a killed supervisor. The plane sees
the control socket end only when all of that is done and the held descriptors are closed.

Standard library only, one thread, nothing of it is ever seen by a worker. On macOS there are no
subreapers and no parent-death signals: process groups and the control socket remain. (Untested.)
"""

# Plain system calls by name, for much of this runs between fork and exec:
# ruff: noqa: PTH100, PTH118, PTH120, PTH123, PTH208
from __future__ import annotations

import fcntl
import gc
import json
import os
import select
import signal
import socket
import struct
import sys
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.util import module_from_spec, spec_from_file_location
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator
    from types import ModuleType

    Begin = Callable[[dict[str, Any]], NoReturn]

LINUX = sys.platform == "linux"
MAX_DESCRIPTORS = 250  # what one message can carry is a little more
MOUNT_VIEW = "the mount view"

PR_SET_PDEATHSIG = 1
PR_SET_NAME = 15
_PR_SET_CHILD_SUBREAPER = 36

if LINUX:
    import ctypes

    _libc = ctypes.CDLL(None, use_errno=True)


# --- the supervisor ------------------------------------------------------------------------------


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


class Seat(NamedTuple):
    """Where a worker gets its order, its link, its output, and how its program begins there.

    `apart` says that it is in namespaces of its own.
    """

    control: socket.socket
    link: int
    output: int
    begin: Begin
    apart: bool


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


class Prepared(NamedTuple):
    """A worker's process that was there before its order; see `spawn` and `show_own_processes`."""

    pid: int
    failure: int
    outside: int


class Birth(BaseException):
    """Leaves all frames of this program, in the process that goes on as a worker; see zygote.py."""

    def __init__(self, order: dict[str, Any]) -> None:
        self.order = order


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


# --- the minder ----------------------------------------------------------------------------------


def run_minder(
    charge: Charge, seat: Seat, plane: int, supervisor: Parent, prepared: Prepared | None = None
) -> NoReturn:
    try:
        if prepared is None:
            # The descriptors of other workers among them: a lock must not wait for their end.
            kept = (charge.control.fileno(), seat.link, seat.output, plane, supervisor.process)
            be_minder([*kept, *charge.held])
        mind(charge, seat, plane, prepared)
    except Birth:
        raise
    except BaseException as error:
        send(charge.control, {"errno": 0, "error": f"{type(error).__name__}: {error}"})
    try:
        clear_children(0)
        if supervisor.gone():
            charge.release()  # else the supervisor does
    finally:
        os._exit(0)


def be_minder(fds: Collection[int]) -> None:
    """Become one that has no other descriptors than these."""
    signal.set_wakeup_fd(-1)
    keep_only(fds)
    prctl(_PR_SET_CHILD_SUBREAPER, 1)
    prctl(PR_SET_NAME, b"flash-minder")


def mind(charge: Charge, seat: Seat, plane: int, prepared: Prepared | None) -> None:
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
    status = wait_for_worker(worker, waker, [control.fileno(), plane], charge.with_all)
    last = clear_children(worker)
    send(control, {"returncode": os.waitstatus_to_exitcode(last if status is None else status)})


def show_own_processes(apart: bool) -> int:
    """What lists this process's children by the ids that they have outside; -1 where all have."""
    if not apart:
        return -1
    with step("its own processes"):
        return namespaces.show_own_processes()


def read_order(control: socket.socket) -> dict[str, Any] | None:
    """The plane's order, or None when the plane ended before it was complete."""
    (length,) = struct.unpack("!I", head) if (head := receive(control, 4)) else (0,)
    body = receive(control, length)
    return dict(json.loads(body)) if body else None


def receive(control: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        part = control.recv(size - len(data))
        if not part:
            return b""
        data += part
    return data


def wait_for_worker(
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


def clear_children(worker: int) -> int:
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


# --- the worker, until its program runs ----------------------------------------------------------


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
        pid, failure = (prepared.pid, prepared.failure) if prepared else spawn(seat)
        started(pid, failure)
    except StartError as error:
        if seat.apart or error.order is None:
            raise
        # A half-made view is no place to be: start over in a new process.
        pid, failure = spawn(seat, {**error.order, "mounts": []})
        started(pid, failure)
        return pid, error.what
    return pid, ""


def spawn(seat: Seat, order: dict[str, Any] | None = None) -> tuple[int, int]:
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


def started(pid: int, failure: int) -> None:
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
        become_worker(order, seat, minder)
    except Birth:
        seat.control.detach()  # it is closed by its number
        raise
    except BaseException as error:
        give_up(error, order, report)


def give_up(error: BaseException, order: dict[str, Any] | None, report: int) -> NoReturn:
    told: list[Any] = [repr(error), 0]
    if isinstance(error, StartError):
        again = order if error.what.startswith(MOUNT_VIEW) else None
        told = [error.what, error.errno, again]
    try:
        with open(report, "wb") as stream:
            stream.write(json.dumps(told).encode())
    finally:
        os._exit(127)


def become_worker(order: dict[str, Any], seat: Seat, minder: int) -> NoReturn:
    if order["mounts"]:
        with step(MOUNT_VIEW):
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


# --- the system ----------------------------------------------------------------------------------


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
        return [int(pid) for pid in os.listdir("/proc") if pid.isdigit() and is_child(pid)]


def is_child(pid: str) -> bool:
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


def prctl(option: int, value: int | bytes) -> None:
    if LINUX:
        _libc.prctl(option, value if isinstance(value, bytes) else ctypes.c_ulong(value), 0, 0, 0)


def send(control: socket.socket, message: dict[str, Any]) -> None:
    with suppress(OSError):  # the plane is gone: nobody to tell
        control.sendall(json.dumps(message).encode() + b"\n")


def end(control: socket.socket) -> None:
    # Also where a process that the plane's program forked has a copy of the other side.
    with suppress(OSError):
        control.shutdown(socket.SHUT_RDWR)
    control.close()


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


def load_namespaces() -> ModuleType:
    """Load the file beside this one by its path: no folder of ours belongs on `sys.path`."""
    path = os.path.join(os.path.dirname(os.path.abspath(__file__)), "namespaces.py")
    spec = spec_from_file_location("namespaces", path)
    assert spec is not None and spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


if TYPE_CHECKING:
    from runpod_flash.engines.local.processes import namespaces
else:
    namespaces = load_namespaces()


def main() -> None:
    apart = sys.argv[3] == "1"
    if apart:
        namespaces.enter_user_namespace()
    serve(int(sys.argv[1]), int(sys.argv[2]), begin_program, apart)


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
    prctl(_PR_SET_CHILD_SUBREAPER, 1)
    ordered = socket.socket(fileno=orders)
    ordered.setblocking(True)
    gc.disable()
    gc.freeze()  # forks share what the collector never touches
    kind(ordered, plane, begin, apart).run()


if __name__ == "__main__":
    main()
