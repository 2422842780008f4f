"""Wheels that were built or fetched here, kept for the next build."""

from __future__ import annotations

import os
import shutil
import time
from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

_SECONDS = 30 * 86_400.0


def used(place: Path) -> None:
    """It counts as used now."""
    with suppress(OSError):
        os.utime(place)


def forget_unused(folder: Path) -> None:
    """Remove what no build has used for a month."""
    if not folder.is_dir():
        return
    for place in folder.iterdir():
        with suppress(OSError):  # another build does the same
            if place.stat().st_mtime > time.time() - _SECONDS:
                continue
            if place.is_dir():
                shutil.rmtree(place, ignore_errors=True)
            else:
                place.unlink()
