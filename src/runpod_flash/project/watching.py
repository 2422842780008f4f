"""Which of a project's files have changed, as soon as they have."""

from __future__ import annotations

import asyncio
import os
import time
from typing import TYPE_CHECKING

from runpod_flash.project.discovery import discover
from runpod_flash.project.scan import folders

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from runpod_flash.project.catalog import Catalog

    Stamps = dict[str, tuple[int, int]]

_ALSO = frozenset({".env", ".gitignore", ".flashignore", "requirements.txt", "pyproject.toml"})
# Editors write a file in several steps.
_STEP_MS = 10
_DEBOUNCE_MS = 200
# The system tells of changes at once, but not of those in a folder that is newer than the watch.
_LOOK_MS = 1000
# Files that change while they are looked at are looked at again so often.
_TRIES = 5
# One that has been empty for less than this may be about to be written: that is waited for.
_SAVED_NS = 300_000_000
_PAUSE_SECONDS = 0.1


async def discover_settled(root: Path) -> Catalog:
    """What is found while no file changes: one that is just being saved may be empty.

    A tree that never rests is taken as it was found last.
    """
    for _ in range(_TRIES):
        before = stamps(root)
        catalog = await discover(root)
        if stamps(root) == before:
            if not _is_saving(before):
                break
            await asyncio.sleep(_PAUSE_SECONDS)
    return catalog


def _is_saving(found: Stamps) -> bool:
    now = time.time_ns()
    return any(size == 0 and abs(now - changed) < _SAVED_NS for changed, size in found.values())


async def changes(root: Path, known: Stamps) -> AsyncIterator[tuple[str, ...]]:
    """The POSIX paths below the root that changed together; folders that are ignored do not count.

    `known` are the files' `stamps` when they were read. Each folder is watched by itself: a virtual
    environment in the project costs nothing.
    """
    async for _ in _looks(root):
        found = stamps(root)
        changed = {name for name, _ in found.items() ^ known.items()}
        known = found
        if changed:
            yield tuple(sorted(changed))


async def _looks(root: Path) -> AsyncIterator[None]:
    """Whenever it is time to look: as soon as the system tells of a change, and now and then."""
    from watchfiles import awatch

    while True:
        watched = folders(root)
        try:
            async for _ in awatch(
                *watched,
                recursive=False,
                step=_STEP_MS,
                debounce=_DEBOUNCE_MS,
                watch_filter=None,
                rust_timeout=_LOOK_MS,
                yield_on_timeout=True,
            ):
                yield
                if folders(root) != watched:
                    break
        except Exception:
            # A folder has gone since, its name is no UTF-8, or the system watches no more of them.
            # (Some of that comes as the RuntimeError of watchfiles, or in a group of exceptions.)
            await asyncio.sleep(_LOOK_MS / 1000)
            yield


def stamps(root: Path) -> Stamps:
    """Time and size of every file that matters."""
    found = {}
    for folder in folders(root):
        try:
            with os.scandir(folder) as entries:
                there = [e for e in entries if e.name.endswith(".py") or e.name in _ALSO]
        except OSError:  # gone meanwhile: the next look finds it so
            continue
        for entry in there:
            try:
                state = entry.stat()
            except OSError:  # gone meanwhile; or a link to nowhere, as Emacs makes beside a file
                continue
            name = folder.joinpath(entry.name).relative_to(root).as_posix()
            found[name] = (state.st_mtime_ns, state.st_size)
    return found
