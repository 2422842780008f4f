"""Which of a project's files have changed, as soon as they have."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

_ALSO = (".env", ".gitignore", ".flashignore", "requirements.txt", "pyproject.toml")
# Editors write a file in several steps.
_STEP_MS = 10
_DEBOUNCE_MS = 200


async def changes(root: Path) -> AsyncIterator[tuple[str, ...]]:
    """The POSIX paths below the root that changed together; folders that are ignored do not count.

    Each folder is watched by itself: a virtual environment in the project costs nothing.
    """
    from watchfiles import awatch

    from runpod_flash.project.scan import folders

    while True:
        watched = folders(root)
        async for seen in awatch(
            *watched,
            recursive=False,
            step=_STEP_MS,
            debounce=_DEBOUNCE_MS,
            watch_filter=None,
            stop_event=None,
            raise_interrupt=False,
        ):
            paths = [Path(path) for _, path in seen]
            relevant = sorted({_name(root, path) for path in paths if _matters(path)})
            if relevant:
                yield tuple(relevant)
            if any(path.is_dir() for path in paths) or set(folders(root)) != set(watched):
                break


def _matters(path: Path) -> bool:
    return path.suffix == ".py" or path.name in _ALSO


def _name(root: Path, path: Path) -> str:
    try:
        return path.relative_to(root).as_posix()
    except ValueError:
        return path.as_posix()
