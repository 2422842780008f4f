"""The directory in which a server keeps everything, held by one server at a time."""

from __future__ import annotations

import fcntl
import os
import shutil
from typing import TYPE_CHECKING

from runpod_flash.errors import ConfigurationError

if TYPE_CHECKING:
    from pathlib import Path


class DataDirectory:
    """Only its owner can read what is in it. As a context manager, no other server can have it.

    The lock ends with the process, however that ends.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = -1

    @property
    def database(self) -> Path:
        """Jobs, keys, and all else that is in tables."""
        return self.path / "flash.db"

    @property
    def logs(self) -> Path:
        """What workers have written."""
        return self.path / "logs"

    @property
    def vault_key(self) -> Path:
        """What values of variables are encrypted with; no copy of the database has it."""
        return self.path / "vault-key"

    @property
    def homes(self) -> Path:
        """What the workers of each app keep, where apps are kept apart."""
        return self.path / "homes"

    @property
    def volumes(self) -> Path:
        """What is on network volumes."""
        return self.path / "volumes"

    def apps(self) -> Path:
        """Where the code of programs' apps is laid out; those of an earlier server are gone."""
        folder = self.path / "apps"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(mode=0o700)
        return folder

    def __enter__(self) -> DataDirectory:
        """Raises `ConfigurationError` where another server has it, or where it cannot be made."""
        try:
            self.path.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._lock = os.open(self.path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise ConfigurationError(
                f"--data-dir {self.path} cannot be used: {error.strerror}"
            ) from None
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            owner = os.pread(self._lock, 32, 0).decode(errors="replace").strip()
            os.close(self._lock)
            raise ConfigurationError(
                f"another server (process {owner or 'unknown'}) uses the data in {self.path}; stop "
                "it, or give this one a --data-dir of its own"
            ) from None
        os.ftruncate(self._lock, 0)
        os.pwrite(self._lock, f"{os.getpid()}\n".encode(), 0)
        return self

    def __exit__(self, *exception: object) -> None:
        os.close(self._lock)
