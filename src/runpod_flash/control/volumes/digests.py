"""The SHA-256 of files, remembered for as long as a file stays as it is."""

from __future__ import annotations

import hashlib
import os
import sqlite3
import time
from contextlib import closing
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

_PIECE = 1 << 20
# The system counts such times in steps of milliseconds: of two changes in one, it notes one.
_QUIET_SECONDS = 0.1
_SCHEMA = "CREATE TABLE IF NOT EXISTS digests (inode INTEGER PRIMARY KEY, state TEXT, sha256 TEXT)"


class Digests:
    """Safe to lose, and to use from several threads. What a worker changes is read again: the
    system notes in a file's state that it was, and no worker can undo that.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def of(self, descriptor: int) -> str:
        """That of an open file; reads it whole where it is not known."""
        found = os.fstat(descriptor)
        with closing(self._opened()) as opened:
            statement = "SELECT sha256 FROM digests WHERE inode = ? AND state = ?"
            row = opened.execute(statement, (found.st_ino, _state(found))).fetchone()
        if row is not None:
            return str(row[0])
        quiet = time.time() - found.st_ctime > _QUIET_SECONDS
        digest = sha256_of(descriptor)
        if quiet:
            self.note(found, digest)
        return digest

    def note(self, found: os.stat_result, digest: str) -> None:
        """Remember that of a file in this state."""
        with closing(self._opened()) as opened:
            row = (found.st_ino, _state(found), digest)
            opened.execute("INSERT OR REPLACE INTO digests VALUES (?, ?, ?)", row)

    def _opened(self) -> sqlite3.Connection:
        opened = sqlite3.connect(self._path, timeout=30, isolation_level=None)
        opened.execute("PRAGMA journal_mode=WAL")
        opened.execute("PRAGMA synchronous=OFF")
        opened.execute(_SCHEMA)
        return opened


def sha256_of(descriptor: int) -> str:
    """Of the whole file, wherever the descriptor stands."""
    digest, at = hashlib.sha256(), 0
    while piece := os.pread(descriptor, _PIECE, at):
        digest.update(piece)
        at += len(piece)
    return digest.hexdigest()


def _state(found: os.stat_result) -> str:
    return f"{found.st_dev} {found.st_size} {found.st_mtime_ns} {found.st_ctime_ns}"
