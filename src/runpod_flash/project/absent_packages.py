"""Packages that only workers have: the program's own files may import them at their top level.

A worker installs the placeholders before it loads any module. Here that happens when `Endpoint` is
imported, so that import comes first in a file.
"""

from __future__ import annotations

import sys

TYPE_CHECKING = False  # importing typing takes longer than all of this package

if TYPE_CHECKING:
    from importlib.machinery import ModuleSpec
    from types import FrameType, ModuleType
    from typing import Any

_REMEDY = "use it inside an endpoint that lists it in dependencies=[...], or install it here"


def expect_absent_packages() -> None:
    """Give placeholders to the files of the running program's project. Nothing in a worker."""
    from runpod_flash import context

    if context.current is None and _Watch not in map(type, sys.meta_path):
        sys.meta_path.append(_Watch())


class _Watch:
    """Is asked for what no other finder has found, and sets the real one up when that matters."""

    _done = False

    def find_spec(
        self, fullname: str, path: Any = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if not self._done and path is None and _at_top_level(sys._getframe(1)):
            self._done = True
            from runpod_flash.placeholders import finder

            # It becomes the last of `sys.meta_path`, and so is the next to be asked.
            for root in _roots():
                finder.install(root, _REMEDY)
        return None


def _at_top_level(frame: FrameType | None) -> bool:
    """Whether a file that no package manager put there runs the import at its top level."""
    while frame is not None and frame.f_code.co_filename.startswith("<frozen importlib"):
        frame = frame.f_back
    if frame is None or frame.f_code.co_name != "<module>":
        return False
    return not any(part in frame.f_code.co_filename for part in ("site-packages", "dist-packages"))


def _roots() -> list[str]:
    """The project of the script that runs (its folder, where it is in none), and the one here."""
    from pathlib import Path

    from runpod_flash.project.root import find_root

    roots = []
    script = getattr(sys.modules["__main__"], "__file__", None)
    if script:
        folder = Path(script).absolute().parent
        roots.append(str(find_root(folder) or folder))
    here = find_root(Path.cwd())
    if here is not None:
        roots.append(str(here))
    return roots
