"""Imports of our own, in programs whose files are called as standard modules are."""

from __future__ import annotations

import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

# httpx imports its own command line where it can, which takes as long as all else in it.
_COMMAND_LINE = "httpx._main"


def import_httpx() -> None:
    """Have httpx imported: quickly, and with Python's `calendar`, not with the script's."""
    if "httpx" in sys.modules:
        return
    with _without_shadows(), _without(_COMMAND_LINE):
        import httpx  # noqa: F401


@contextmanager
def _without(module: str) -> Iterator[None]:
    sys.modules[module] = None  # type: ignore[assignment]  # which makes its import fail
    try:
        yield
    finally:
        sys.modules.pop(module, None)


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
