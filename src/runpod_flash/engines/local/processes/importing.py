"""What a zygote imports ahead, and whether it can be forked after that."""

# Plain system calls by name: this is a supervisor's program.
# ruff: noqa: PTH115, PTH123, PTH208
from __future__ import annotations

import os
import sys
import time
from contextlib import contextmanager, suppress
from importlib import import_module
from typing import TYPE_CHECKING, Any

from runpod_flash.engines.local.processes.children import children
from runpod_flash.engines.local.processes.own_process import threads

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Sequence

_THREADS_END_SECONDS = 0.2


def import_ahead(
    modules: Sequence[str], learned: Sequence[str], before: Collection[str]
) -> dict[str, Any]:
    """The top-level names that are new, as `names`; or an `error`, and the `module` that is its
    cause where it is one of `learned`."""
    try:
        for module in modules:
            import_module(module)
    except Exception as error:
        return {"error": f"{type(error).__name__}: {error}"}
    if reason := unfit():  # of which none of the following is the cause
        return {"error": reason}
    for module in learned:
        if module not in sys.modules:
            with suppress(Exception):  # it is the worker's to fail, if it imports it at all
                import_module(module)
            if reason := unfit():
                return {"error": f"after an import of {module}, {reason}", "module": module}
    reseed()
    return {"names": sorted(_top(sys.modules) - _top(before))}


def unfit() -> str:
    """Why this process must not be forked, as a clause; empty where it may be."""
    if any(name.startswith("/dev/nvidia") for name in _open_files().values()):
        return "the process to fork has a GPU open"
    if threads() > 1:
        # OpenBLAS's threads end at a fork and come back when they are needed. Any other stays.
        pid = os.fork()
        if pid == 0:
            os._exit(0)
        os.waitpid(pid, 0)
        # (One that has ended is counted for a moment more.)
        deadline = time.monotonic() + _THREADS_END_SECONDS
        while threads() > 1 and time.monotonic() < deadline:
            time.sleep(0.002)
        if threads() == 1:
            return ""
        return f"{threads()} threads run in the process to fork"
    return ""


def reseed() -> None:
    """Give libraries' own random numbers a new start, as in a new process. (Python does its.)

    The first time takes longest, since NumPy imports what it needs for that: not in a fork.
    """
    if random := sys.modules.get("numpy.random"):
        random.seed()
    if torch := sys.modules.get("torch"):
        torch.default_generator.seed()


def unfit_to_share(allowed: Collection[int]) -> str:
    """Why forks of this process, which has run user code, would not do, as a clause.

    `allowed` are descriptors that may be open. So may files be that are mapped: they are read by
    address, where others have a position that all would share.
    """
    if reason := unfit():
        return reason
    if children():
        return "it has started a process"
    mapped = _mapped()
    for number, name in _open_files().items():
        if number > 2 and number not in allowed and name != os.devnull and name not in mapped:
            return f"it has {name} open"
    return ""


@contextmanager
def single_threaded_torch() -> Iterator[Callable[[], None]]:
    """Have torch compute without threads, which no fork would have; gives what undoes that."""
    torch = sys.modules.get("torch")
    if torch is None:
        yield lambda: None
        return
    count = torch.get_num_threads()
    torch.set_num_threads(1)

    def restore() -> None:
        if torch.get_num_threads() == 1:  # else the user's code has chosen
            torch.set_num_threads(count)

    yield restore


def _open_files() -> dict[int, str]:
    found = {}
    for number in map(int, os.listdir("/proc/self/fd")):
        with suppress(OSError):  # the listing's own
            found[number] = os.readlink(f"/proc/self/fd/{number}")
    return found


def _mapped() -> set[str]:
    with open("/proc/self/maps", errors="surrogateescape") as lines:
        fields = [line.rstrip("\n").split(None, 5) for line in lines]
    return {each[5] for each in fields if len(each) == 6}


def _top(modules: Collection[str]) -> set[str]:
    return {name.partition(".")[0] for name in modules}
