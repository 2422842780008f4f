"""The server's SQLite file: its schema, brought up to date as it is opened, and connections to it.

`migrations/NNNN_what.sql` are the steps of the schema, in their order. A step is never changed once
it was released; `PRAGMA user_version` says how many a file has had.
"""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import closing
from importlib.resources import files
from typing import TYPE_CHECKING, TypeVar

from runpod_flash.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

T = TypeVar("T")

_BUSY_SECONDS = 30.0
# Of a new file. A job of some hundred bytes changes one page, or three where it was written before
# it ended; each is written whole. A value of a megabyte takes a third longer than in 16 KiB pages.
PAGE_BYTES = 4 << 10


def connect(path: Path, busy_seconds: float = _BUSY_SECONDS) -> sqlite3.Connection:
    """A connection that may be used by any thread, one at a time; each statement is a transaction.

    A commit has reached the disk when it returns. Another writer is waited for `busy_seconds`.
    """
    connection = sqlite3.connect(
        path, timeout=busy_seconds, isolation_level=None, check_same_thread=False
    )
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=FULL")
    connection.execute("PRAGMA foreign_keys=ON")
    return connection


async def transact(path: Path, work: Callable[[sqlite3.Connection], T]) -> T:
    """Do this to the file in a thread, wholly or not at all."""

    def done() -> T:
        with closing(connect(path)) as file, file:
            file.execute("BEGIN IMMEDIATE")
            return work(file)

    return await asyncio.to_thread(done)


def prepare(path: Path) -> None:
    """Make the file, or bring its schema up to date.

    Raises `ConfigurationError` for a file that is none, that is another program's, or that a newer
    version has written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        path.touch(mode=0o600)
        # (Before anything is set in the file: it may be another program's.)
        with closing(sqlite3.connect(path)) as connection:
            done = _version(connection, path)
            if not done:
                _begin(connection)
        if done < len(migrations()):
            with closing(connect(path)) as connection:
                _migrate(connection, done)
    except (sqlite3.DatabaseError, OSError) as error:
        raise ConfigurationError(f"{path} cannot be used as the server's store: {error}") from None


def _version(connection: sqlite3.Connection, path: Path) -> int:
    """How many steps the file has had."""
    (done,) = connection.execute("PRAGMA user_version").fetchone()
    tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master")}
    if bool(tables) != bool(done) or (done and "jobs" not in tables):
        raise ConfigurationError(f"{path} is another program's database; name another file")
    known = len(migrations())
    if done > known:
        raise ConfigurationError(
            f"{path} was written by a newer version of Flash (schema {done}, known here: {known}); "
            "update this one, or restore a backup"
        )
    return int(done)


def _begin(connection: sqlite3.Connection) -> None:
    """Settings that a file keeps from its first page on."""
    connection.execute(f"PRAGMA page_size={PAGE_BYTES}")
    connection.execute("PRAGMA auto_vacuum=INCREMENTAL")
    connection.execute("PRAGMA journal_mode=WAL")


def _migrate(connection: sqlite3.Connection, done: int) -> None:
    for number, step in enumerate(migrations()[done:], done + 1):
        connection.executescript(f"BEGIN IMMEDIATE; {step}; PRAGMA user_version={number}; COMMIT;")


def migrations() -> list[str]:
    """The steps of the schema, as SQL."""
    folder = files("runpod_flash.plane.store") / "migrations"
    found = sorted(
        (each for each in folder.iterdir() if each.name.endswith(".sql")),
        key=lambda each: each.name,
    )
    return [each.read_text(encoding="utf-8") for each in found]
