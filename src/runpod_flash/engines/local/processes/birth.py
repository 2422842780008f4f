"""How a fork of a zygote becomes a worker: as if its program had been started by exec."""

# Plain system calls by name, for this runs between fork and the worker's program:
# ruff: noqa: PTH120, PTH123
from __future__ import annotations

import ctypes
import functools
import gc
import io
import os
import signal
import socket
import sys
import threading
import time
from importlib import import_module
from importlib.machinery import SourceFileLoader
from types import CodeType, ModuleType
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

from runpod_flash.engines.local.processes import namespaces, supervisor
from runpod_flash.engines.local.processes.beginning import Birth, step
from runpod_flash.engines.local.processes.control import read_order, send
from runpod_flash.engines.local.processes.importing import (
    import_ahead,
    reseed,
    single_threaded_torch,
    unfit_to_share,
)
from runpod_flash.engines.local.processes.own_process import (
    PR_SET_NAME,
    PR_SET_PDEATHSIG,
    keep_only,
    prctl,
)
from runpod_flash.engines.local.processes.spares import SparingSupervisor

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence


def supervise(
    orders: int, plane: int, apart: bool, program: str, before: Collection[str]
) -> dict[str, Any] | None:
    """Import and supervise. Returns twice: in each worker with its order, and None at the end."""
    name = _own_name()
    prctl(PR_SET_NAME, b"flash-zygote")
    # An import may hang; later, the plane's end is seen as by every supervisor.
    prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    gc.disable()
    if apart:
        namespaces.enter_user_namespace()  # an import may start threads: then it is too late
    with socket.socket(fileno=os.dup(orders)) as plane_end:
        told = read_order(plane_end)
        if told is None:
            return None
        ready = import_ahead(told["modules"], told["learned"], before)
        _compiled(told["script"])
        _shown_area()
        send(plane_end, ready)
    if "error" in ready:
        return None
    prctl(PR_SET_PDEATHSIG, 0)
    try:
        supervisor.serve(orders, plane, functools.partial(begin, name), apart, _kind(program))
    except Birth as birth:
        return birth.order
    return None


def supervise_snapshot(orders: int, program: str, path: Sequence[str]) -> None:
    """Load and supervise; in each worker, run it to its end. `path` is the Python's own."""
    name = _own_name()
    prctl(PR_SET_NAME, b"flash-snapshot")
    base = dict(os.environ)
    with socket.socket(fileno=os.dup(orders)) as plane_end:
        told = read_order(plane_end)
        if told is None:
            os._exit(0)
        with single_threaded_torch() as restore:
            answer = import_module(program).load_ahead(told)
        reseed()
        reason = answer and not answer.get("error") and unfit_to_share({orders, plane_end.fileno()})
        send(plane_end, {"error": reason} if reason else answer)
    if reason or "names" not in answer:
        os._exit(0)  # what the user's code has planned for the end is for workers
    state = _State.take(name, base, restore)
    try:
        supervisor.serve(orders, -1, state.begin, False, _kind(program))
    except Birth as birth:
        order = birth.order
    else:
        os._exit(0)
    # (Out of its handling: else it would be the context of all that user code raises.)
    run_script(order["argv"], path, collects=state.collects)


def _kind(program: str) -> Callable[[socket.socket, int, Any, bool], SparingSupervisor]:
    """A program may have `rehearse`, which does without effect what its start does."""
    rehearse_program = getattr(sys.modules[program], "rehearse", lambda: None)

    def rehearse() -> None:
        global _reseeded
        reseed()
        _reseeded = True
        rehearse_program()

    return functools.partial(SparingSupervisor, rehearse=rehearse)


# Whether this process has random numbers of its own already, as a spare has that waits.
_reseeded = False


class _State(NamedTuple):
    """What user code has made of its process, beside its memory, and its forks are to have."""

    name: bytes
    env: Mapping[str, str]
    signals: Mapping[int, Any]
    collects: bool
    restore: Callable[[], None]

    @classmethod
    def take(cls, name: bytes, env: Mapping[str, str], restore: Callable[[], None]) -> _State:
        """`env` is what it was started with."""
        signals: dict[int, Any] = {n: signal.getsignal(n) for n in signal.valid_signals()}
        return cls(name, env, signals, gc.isenabled(), restore)

    def begin(self, order: dict[str, Any]) -> NoReturn:
        """Be what a worker is when its code was loaded."""
        with step("the environment"):
            for key, value in order["env"].items():
                if self.env.get(key) != value:  # the worker's own; what code has set stays
                    os.environ[key] = value
        signal.set_wakeup_fd(-1)
        for number, handler in self.signals.items():
            if handler is not None and signal.getsignal(number) is not handler:
                signal.signal(number, handler)
        self.restore()
        _go_on(self.name, order)


def _own_name() -> bytes:
    with open("/proc/self/comm", "rb") as stream:
        return stream.read().strip()


def begin(name: bytes, order: dict[str, Any]) -> NoReturn:
    """Be as a Python is when its program starts. `name` is that of such a process."""
    with step("the environment"):
        _replace_environment(order["env"])
    if order["mounts"] or order["user"]:
        namespaces.leave_privileges()
    _reset_signals()
    _go_on(name, order)


def _go_on(name: bytes, order: dict[str, Any]) -> NoReturn:
    prctl(PR_SET_NAME, name)
    _show(order["argv"])
    # The minder's pipe among them, whose end says that the program runs.
    keep_only([order["link"]])
    raise Birth(order)


def run_script(argv: Sequence[str], path: Sequence[str], *, collects: bool = True) -> None:
    """As `argv` would: a Python, a script, and its arguments. `path` is the Python's own."""
    global _reseeded
    if collects:
        gc.enable()
    if not _reseeded:
        reseed()
    _reseeded = False  # (it may be forked itself)
    # (Python before 3.11.4 leaves it that of the process that has forked.)
    threading.main_thread()._set_native_id()  # type: ignore[attr-defined]
    script = argv[1]
    sys.orig_argv[:], sys.argv[:] = argv, argv[1:]
    sys.path[:] = [os.path.dirname(script), *path[1:]]
    main = ModuleType("__main__")
    main.__file__ = script
    main.__loader__ = SourceFileLoader("__main__", script)
    sys.modules["__main__"] = main
    exec(_compiled(script), vars(main))


def _compiled(script: str) -> CodeType:
    return _compiled_at(script, os.stat(script).st_mtime_ns)  # noqa: PTH116


@functools.lru_cache(maxsize=4)
def _compiled_at(script: str, _time: int) -> CodeType:
    """Once for all forks of the process that has done it."""
    with io.open_code(script) as file:
        return compile(file.read(), script, "exec")


def _replace_environment(env: Mapping[str, str]) -> None:
    # Python sets it by itself where there is no locale.
    coerced = {key: value for key, value in os.environ.items() if key == "LC_CTYPE"}
    os.environ.clear()
    os.environ.update({**env, **coerced})
    time.tzset()


def _reset_signals() -> None:
    """What Python sets when it starts; the rest by default."""
    own: dict[int, Any] = {
        signal.SIGINT: signal.default_int_handler,
        signal.SIGPIPE: signal.SIG_IGN,
        signal.SIGXFSZ: signal.SIG_IGN,
    }
    signal.set_wakeup_fd(-1)
    for number in signal.valid_signals():
        wanted = own.get(number, signal.SIG_DFL)
        if signal.getsignal(number) not in (wanted, None):
            signal.signal(number, wanted)


def _show(argv: Sequence[str]) -> None:
    """Have `ps` show the worker's command line: written over the zygote's, as far as it goes."""
    start, end = _shown_area()
    text = "\0".join(argv).encode(errors="surrogateescape") + b"\0"
    if start:
        ctypes.memmove(start, text[: end - start].ljust(end - start, b"\0"), end - start)


@functools.lru_cache(maxsize=1)
def _shown_area() -> tuple[int, int]:
    """Where the command line lies in memory, here and in all forks."""
    with open("/proc/self/stat") as stream:
        # Numbers 48 and 49 of "pid (name) state parent …", and the name may hold anything.
        start, end = map(int, stream.read().rpartition(")")[2].split()[45:47])
    return start, end
