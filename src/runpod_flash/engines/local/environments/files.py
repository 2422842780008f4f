"""Small files that processes share: written whole or not at all, and locks between processes."""

from __future__ import annotations

import fcntl
import json
import os
import tempfile
from pathlib import Path
from typing import Any


def write_atomically(path: Path, text: str) -> None:
    """Replace the file with `text`; readers see the old or the new content, never a part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=".new-")
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        file.write(text)
    Path(name).replace(path)


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file; empty where there is no file or no object in it."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


class FileLock:
    """A held lock on a file, freed by `release` or by the end of this process.

    Shared and exclusive, which is why this is flock itself and not the filelock package.
    """

    def __init__(self, path: Path, descriptor: int) -> None:
        self._path = path
        self._descriptor = descriptor

    @classmethod
    def try_acquire(cls, path: Path, *, shared: bool = False) -> FileLock | None:
        """The lock, or None while another (also of this process) is in its way. Never waits."""
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
            # The holder before may have removed the file: then this locks nothing that others see.
            if os.fstat(descriptor).st_ino == path.stat().st_ino:
                return cls(path, descriptor)
        except (BlockingIOError, FileNotFoundError):
            pass
        os.close(descriptor)
        return None

    def release(self, *, remove: bool = False) -> None:
        """Free the lock; with `remove` (exclusive holders only) the file goes as well."""
        if remove:
            self._path.unlink(missing_ok=True)
        # Unlocked by name: a forked child may have a copy of the descriptor.
        fcntl.flock(self._descriptor, fcntl.LOCK_UN)
        os.close(self._descriptor)

    def touch(self) -> None:
        """Set the file's time to now: the last use of what it guards."""
        os.utime(self._path)
