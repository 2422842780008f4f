"""What a zygote imports ahead, and whether it can still be forked after that."""

# Plain system calls by name: this is a supervisor's program.
# ruff: noqa: PTH115, PTH208
from __future__ import annotations

import os
import sys
from contextlib import suppress
from importlib import import_module
from typing import TYPE_CHECKING, Any

from runpod_flash.engines.local.processes import supervisor

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence


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
    for module in learned:
        if module not in sys.modules:
            with suppress(Exception):  # it is the worker's to fail, if it imports it at all
                import_module(module)
            if reason := unfit():
                return {"error": f"after an import of {module}, {reason}", "module": module}
    return {"names": sorted(_top(sys.modules) - _top(before))}


def unfit() -> str:
    """Why this process must not be forked, as a clause; empty where it may be."""
    if any(name.startswith("/dev/nvidia") for name in _open_files()):
        return "the process to fork has a GPU open"
    if supervisor.threads() > 1:
        # OpenBLAS's threads end at a fork and come back when they are needed. Any other stays.
        pid = os.fork()
        if pid == 0:
            os._exit(0)
        os.waitpid(pid, 0)
        with suppress(OSError):
            supervisor.check_threads()
            return ""
        return f"{supervisor.threads()} threads run in the process to fork"
    return ""


def reseed() -> None:
    """Give libraries' own random numbers a new start, as in a new process. (Python does its.)"""
    if random := sys.modules.get("numpy.random"):
        random.seed()
    if torch := sys.modules.get("torch"):
        torch.default_generator.seed()


def _open_files() -> list[str]:
    found = []
    for number in os.listdir("/proc/self/fd"):
        with suppress(OSError):  # the listing's own
            found.append(os.readlink(f"/proc/self/fd/{number}"))
    return found


def _top(modules: Collection[str]) -> set[str]:
    return {name.partition(".")[0] for name in modules}
