"""Has `breakpoint()` and `pdb.set_trace()` open a debugger in the terminal of the caller.

Python's own `breakpoint()` calls `pdb.set_trace`, unless PYTHONBREAKPOINT names something else. So
that alone is replaced, as soon as somebody imports pdb, and no worker pays for it before.
"""

from __future__ import annotations

import os
import sys
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import ModuleType

    from runpod_flash.worker.main import Worker


def install(worker: Worker) -> None:
    """Do so for the code of this worker; processes that it forks have no terminal."""
    if "pdb" in sys.modules:
        _adapt(sys.modules["pdb"], worker)
    else:
        sys.meta_path.insert(0, _PdbFinder(worker))


class _PdbFinder:
    """Finds pdb where the import system does, and has it adapted when it is loaded."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != "pdb":
            return None
        spec = PathFinder.find_spec(fullname)
        if spec is not None and isinstance(spec.loader, SourceFileLoader) and _is_standard(spec):
            spec.loader = _PdbLoader(fullname, spec.loader.path)
            spec.loader.worker = self._worker
        return spec


class _PdbLoader(SourceFileLoader):
    worker: Worker

    def exec_module(self, module: ModuleType) -> None:
        super().exec_module(module)
        _adapt(module, self.worker)


def _is_standard(spec: ModuleSpec) -> bool:
    return os.path.dirname(spec.origin or "") == os.path.dirname(os.__file__)  # noqa: PTH120


def _adapt(pdb: Any, worker: Worker) -> None:
    own, inspect_own = pdb.set_trace, pdb.post_mortem

    def set_trace(*, header: str | None = None) -> None:
        frame = sys._getframe().f_back
        assert frame is not None
        if os.getpid() == worker.pid:
            from runpod_flash.worker import debugger

            debugger.debug(worker, frame, header)
        else:
            own(header=header)

    def post_mortem(t: Any = None) -> None:
        if os.getpid() == worker.pid:
            from runpod_flash.worker import debugger

            debugger.post_mortem(worker, t)
        else:
            inspect_own(t)

    pdb.set_trace, pdb.post_mortem = set_trace, post_mortem
