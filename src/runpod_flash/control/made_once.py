"""Secrets that a server makes for itself, each once, and keeps in a file of its own."""

from __future__ import annotations

import os
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


def made_once(file: Path, make: Callable[[], bytes]) -> bytes:
    """What the file has: made by the first call, whichever thread or process that is in.

    It is written whole or not at all. Raises OSError where it can be neither read nor written.
    """
    if found := _read(file):
        return found
    file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    descriptor, part = tempfile.mkstemp(dir=file.parent, prefix=".new-")
    try:
        with open(descriptor, "wb") as stream:  # noqa: PTH123 - (a descriptor)
            stream.write(make())
            stream.flush()
            os.fsync(stream.fileno())
        with suppress(FileExistsError):  # another call was first
            os.link(part, file)
        if not _read(file):  # what a write that did not end has left
            Path(part).replace(file)
        return _read(file)
    finally:
        Path(part).unlink(missing_ok=True)


def _read(file: Path) -> bytes:
    try:
        return file.read_bytes().strip()
    except FileNotFoundError:
        return b""
