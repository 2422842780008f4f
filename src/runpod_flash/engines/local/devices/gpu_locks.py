"""A directory of locked files, one for each thing that only one program of the machine may have.

A lock belongs to the open file, not to a process: it is free once everything that holds a duplicate
of the descriptor is gone, however it ended. Containers that do not share the directory cannot see
each other's locks.
"""

from __future__ import annotations

import fcntl
import os
import time
from contextlib import closing, contextmanager, suppress
from typing import TYPE_CHECKING

from runpod_flash.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

# How long to wait for a program that is choosing. It takes microseconds, unless stopped.
GATE_PATIENCE = 0.5


class LockDirectory:
    """Locked files by name, made so that every user of the machine can open them.

    `fs.protected_regular` forbids O_CREAT on another user's file in a sticky directory, even to
    root: so an existing file is opened without it, and a new one is made exclusively.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def take(self, name: str) -> int | None:
        """A descriptor that holds the lock, or None where somebody else has it."""
        try:
            with closing(_Directory(self._path)) as directory:
                return directory.lock(_file_name(name))
        except OSError as error:
            raise ConfigurationError(
                f"GPUs cannot be locked in {self._path}: {error.strerror}; it has to be a"
                " directory that every user can write to (mode 1777)"
            ) from error

    def give_up(self, fd: int) -> None:
        """Free a lock that nobody else was given.

        Unlocking reaches the copies too that another thread's fork holds until it executes.
        """
        fcntl.flock(fd, fcntl.LOCK_UN)
        os.close(fd)

    @contextmanager
    def gate(self) -> Iterator[None]:
        """One program at a time chooses devices, so that none is refused by another's attempt."""
        deadline = time.monotonic() + GATE_PATIENCE
        while (fd := self.take("gate")) is None and time.monotonic() < deadline:
            time.sleep(0.002)
        try:
            yield
        finally:
            if fd is not None:
                self.give_up(fd)

    def pid(self, name: str) -> int | None:
        """The process that last took the lock, as it wrote itself."""
        with suppress(OSError, ValueError):
            return int((self._path / _file_name(name)).read_text())
        return None


class _Directory:
    """The lock directory, opened: a link put in its place is refused."""

    def __init__(self, path: Path) -> None:
        with suppress(FileExistsError):
            path.mkdir()
            path.chmod(0o1777)  # mkdir's own mode passes through the umask
        self._fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)

    def close(self) -> None:
        os.close(self._fd)

    def lock(self, name: str) -> int | None:
        while True:
            fd = self._open(name)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if self._is_current(fd, name):
                    return fd
                os.close(fd)
            except OSError as error:
                os.close(fd)
                if isinstance(error, BlockingIOError):
                    return None
                raise

    def _is_current(self, fd: int, name: str) -> bool:
        # Cleaners of temporary files may have removed it: then the lock is worth nothing.
        with suppress(FileNotFoundError):
            there = os.stat(name, dir_fd=self._fd, follow_symlinks=False)
            return os.path.samestat(os.fstat(fd), there)
        return False

    def _open(self, name: str) -> int:
        while True:
            # A lock needs no right to write; only the holder's pid does.
            for access in (os.O_RDWR, os.O_RDONLY):
                with suppress(FileNotFoundError, PermissionError):
                    return os.open(name, access | os.O_NOFOLLOW, dir_fd=self._fd)
            with suppress(FileExistsError):
                return self._create(name)
            # It exists: either it was made this moment, or this user may not even read it.
            os.close(os.open(name, os.O_RDONLY | os.O_NOFOLLOW, dir_fd=self._fd))

    def _create(self, name: str) -> int:
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
        fd = os.open(name, flags, 0o666, dir_fd=self._fd)
        os.fchmod(fd, 0o666)  # past the umask
        return fd


def _file_name(name: str) -> str:
    return name.replace("/", "_") + ".lock"


def write_pid(fd: int) -> None:
    # Only a hint for `holders`: a file that this user cannot write keeps what it says.
    with suppress(OSError):
        os.ftruncate(fd, 0)
        os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)
