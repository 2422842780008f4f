"""Disks that are soon full."""

from __future__ import annotations

import os
import subprocess
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@contextmanager
def disk(path: Path, megabytes: int) -> Iterator[Path]:
    """A small file system in memory."""
    path.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", str(path)]
    try:
        done = subprocess.run(mount, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        pytest.skip("there is no mount command")
    if done.returncode:
        pytest.skip(f"no file system may be mounted here: {done.stderr.strip()}")
    try:
        yield path
    finally:
        subprocess.run(["umount", str(path)], check=True)


def take_all_but(path: Path, left: int) -> Path:
    """A file that takes what the disk has."""
    filler = path / "filler"
    status = os.statvfs(path)
    with filler.open("wb") as file:
        file.write(bytes(max(status.f_bavail * status.f_frsize - left, 0)))
    return filler
