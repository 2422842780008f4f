"""Copies of a store: taken while it is in use, and put back while it is not."""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING

from runpod_flash.errors import ConfigurationError
from runpod_flash.plane.store.database import migrations

if TYPE_CHECKING:
    from pathlib import Path

# What every SQLite file begins with.
_MAGIC = b"SQLite format 3\0"


def copy(database: Path, target: Path) -> int:
    """Write a whole and consistent copy; the number of jobs in it.

    Raises `ConfigurationError` where there is no store, where the copy cannot be written, and where
    it would replace a file that is no copy.
    """
    if not database.exists():
        raise ConfigurationError(f"there is no store at {database}; name it with --data-dir")
    if _is_another_file(target):
        raise ConfigurationError(f"{target} is there, and no copy of a store; name another file")
    part = target.with_name(f"{target.name}.part")
    try:
        return _copied(database, part, target)
    except (sqlite3.Error, OSError) as error:
        raise ConfigurationError(f"{database} cannot be copied to {target}: {error}") from None
    finally:
        part.unlink(missing_ok=True)


def _is_another_file(target: Path) -> bool:
    """Whether the file has content that is no database's. (One that is damaged may be replaced.)"""
    try:
        with target.open("rb") as file:
            begin = file.read(len(_MAGIC))
    except OSError:
        return False
    return bool(begin) and begin != _MAGIC


def _copied(database: Path, part: Path, target: Path) -> int:
    part.unlink(missing_ok=True)
    part.touch(mode=0o600)
    # (A backup that is put back may lie where nothing can be written.)
    with closing(_opened(database)) as source, closing(sqlite3.connect(part)) as copied:
        source.backup(copied)
        # One file, without a log beside it.
        copied.execute("PRAGMA journal_mode=DELETE")
    jobs = check(part)
    _sync(part)
    part.replace(target)
    _sync(target.parent)
    return jobs


def put_back(backup: Path, database: Path) -> int:
    """Replace the store by a copy of `backup`; the number of jobs in it.

    The caller has the data directory. Raises `ConfigurationError` for a file that is no backup.
    """
    check(backup)
    jobs = copy(backup, database.with_name("restored.db"))
    for suffix in ("-wal", "-shm"):
        database.with_name(database.name + suffix).unlink(missing_ok=True)
    database.with_name("restored.db").replace(database)
    _sync(database.parent)
    return jobs


def check(file: Path) -> int:
    """The number of jobs in a store's file; raises `ConfigurationError` if it is none."""
    try:
        with closing(_opened(file)) as opened:
            (found,) = opened.execute("PRAGMA quick_check(1)").fetchone()
            (version,) = opened.execute("PRAGMA user_version").fetchone()
            (jobs,) = opened.execute("SELECT count(*) FROM jobs").fetchone()
    except sqlite3.Error as error:
        raise ConfigurationError(f"{file} is no backup of a server's store: {error}") from None
    if found != "ok":
        raise ConfigurationError(f"{file} is damaged: {found}")
    if version > len(migrations()):
        raise ConfigurationError(
            f"{file} was written by a newer version of Flash; update this one first"
        )
    return int(jobs)


def _opened(file: Path) -> sqlite3.Connection:
    return sqlite3.connect(f"{file.resolve().as_uri()}?mode=ro", uri=True)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
