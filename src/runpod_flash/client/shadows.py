"""Imports of our own, in programs whose files are called as standard modules are."""

from __future__ import annotations

import importlib
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator


def import_undisturbed(name: str) -> None:
    """Import a package of ours, where the script's `calendar.py` must not be taken for Python's."""
    if name not in sys.modules:
        with _without_shadows():
            importlib.import_module(name)


@contextmanager
def _without_shadows() -> Iterator[None]:
    """Look for modules elsewhere than in the script's folder, if files there would be mistaken.

    Only then: other threads may be about to import something from that folder.
    """
    if not sys.path or not _shadows(sys.path[0]):
        yield
        return
    folder = sys.path.pop(0)
    try:
        yield
    finally:
        sys.path.insert(0, folder)


def _shadows(folder: str) -> bool:
    try:
        names = [path.stem for path in Path(folder or ".").iterdir()]
    except OSError:
        return False
    return any(name in sys.stdlib_module_names for name in names)
