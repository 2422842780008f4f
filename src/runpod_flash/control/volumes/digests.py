"""The SHA-256 of files, remembered for as long as a file stays as it is."""

from __future__ import annotations

import hashlib
import os
import sqlite3
import threading
import time
from contextlib import closing
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

_PIECE = 1 << 20
# The system counts such times in steps of milliseconds: of two changes in one, it notes one.
_QUIET_SECONDS = 0.1
# So that none has the file open that another removes.
_ONE_AT_A_TIME = threading.Lock()
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
        statement = "SELECT sha256 FROM digests WHERE inode = ? AND state = ?"
        row = self._execute(statement, found.st_ino, _state(found))
        if row is not None:
            return str(row[0])
        quiet = time.time() - found.st_ctime > _QUIET_SECONDS
        digest = sha256_of(descriptor)
        if quiet:
            self.note(found, digest)
        return digest

    def note(self, found: os.stat_result, digest: str) -> None:
        """Remember that of a file in this state."""
        row = (found.st_ino, _state(found), digest)
        self._execute("INSERT OR REPLACE INTO digests VALUES (?, ?, ?)", *row)

    def _execute(self, statement: str, *values: int | str) -> tuple[str] | None:
        """Its first row; None as well where the file is damaged, which is lost then."""
        with _ONE_AT_A_TIME:
            try:
                with closing(sqlite3.connect(self._path, timeout=30, isolation_level=None)) as file:
                    file.execute("PRAGMA journal_mode=WAL")
                    file.execute("PRAGMA synchronous=OFF")
                    file.execute(_SCHEMA)
                    row: tuple[str] | None = file.execute(statement, values).fetchone()
                    return row
            except sqlite3.OperationalError:  # (a full disk, or another process: it is whole)
                return None
            except sqlite3.DatabaseError:
                for end in ("-wal", "-shm", ""):
                    self._path.with_name(f"{self._path.name}{end}").unlink(missing_ok=True)
                return None


def sha256_of(descriptor: int) -> str:
    """Of the whole file, wherever the descriptor stands."""
    digest, at = hashlib.sha256(), 0
    while piece := os.pread(descriptor, _PIECE, at):
        digest.update(piece)
        at += len(piece)
    return digest.hexdigest()


def _state(found: os.stat_result) -> str:
    return f"{found.st_dev} {found.st_size} {found.st_mtime_ns} {found.st_ctime_ns}"
