"""Where the user's project begins, and which part of `sys.path` belongs to it."""

from __future__ import annotations

import os
import sys
from pathlib import Path

_MARKS = ("pyproject.toml", ".git")
_PACKAGE_FOLDERS = ("site-packages", "dist-packages")


def find_root(start: Path) -> Path | None:
    """The nearest folder at or above `start` with a `pyproject.toml` or `.git`, below the home."""
    homes = _homes()
    for folder in (start, *start.parents):
        if folder in homes or folder == Path(folder.anchor):
            return None
        if is_root(folder):
            return folder
    return None


def is_root(folder: Path) -> bool:
    """Whether something marks the folder as a project's."""
    return mark_of(folder) is not None


def mark_of(folder: Path) -> str | None:
    """The name of what marks the folder as a project's: `pyproject.toml` or `.git`."""
    return next((mark for mark in _MARKS if (folder / mark).exists()), None)


def _homes() -> set[Path]:
    """The home directory as it is named, and as it is where that name is a link."""
    try:
        home = Path.home()
    except RuntimeError:  # a user without a home, as in many containers
        return set()
    return {home, home.resolve()}


def search_path(root: Path) -> tuple[str, ...]:
    """The entries of this process's `sys.path` inside the project, relative to it, root last.

    Workers get the same, so that a module has the same name here and there.
    """
    found = [
        relative
        for entry in sys.path
        if (relative := _inside(root, Path(os.path.normpath(Path(entry).absolute())))) is not None
    ]
    return tuple(dict.fromkeys([*found, "."]))


def _inside(root: Path, folder: Path) -> str | None:
    if not folder.is_dir() or any(part in _PACKAGE_FOLDERS for part in folder.parts):
        return None
    if not folder.is_relative_to(root) or _is_interpreters(root, folder):
        return None
    return folder.relative_to(root).as_posix()


def _is_interpreters(root: Path, folder: Path) -> bool:
    prefixes = {Path(prefix) for prefix in (sys.prefix, sys.base_prefix)}
    return any(p != root and p.is_relative_to(root) and folder.is_relative_to(p) for p in prefixes)
