"""Archives of code that were uploaded: their files, and nothing that would leave their root.

Nothing is unpacked to the disk under a name of the archive's. Packages that were installed beside
the code are no part of it: environments are built here.
"""

from __future__ import annotations

import csv
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, NamedTuple

from runpod_flash.archives import reading_files, tar_files
from runpod_flash.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

MAX_CODE_BYTES = 500_000_000
_DROPPED = ("__pycache__", ".git", ".venv")
# The SDK itself, which hosted builds have beside the code, in no package's record.
_SDK = ("runpod_flash/", "bin/flash")


class ArchivedFile(NamedTuple):
    """A file by its POSIX path below the root."""

    path: str
    data: bytes
    executable: bool


def read_code(archive: Path) -> Iterator[ArchivedFile]:
    """The files of a .tar.gz that are its project's own.

    Raises `ConfigurationError` for what is no such archive, one that `tar_files` refuses, and for
    more code than a project may have.
    """
    installed = _installed(archive)
    size = 0
    for member, stream in tar_files(archive):
        path = str(PurePosixPath(member.name))
        parts = path.split("/")
        if path in installed or path.startswith(_SDK) or parts[0].endswith(".dist-info"):
            continue
        if any(part in _DROPPED for part in parts):
            continue
        size += member.size
        if size > MAX_CODE_BYTES:
            raise ConfigurationError(
                f"the archive has more than {MAX_CODE_BYTES / 1e6:.0f} MB of code; put weights and "
                "data on a NetworkVolume"
            )
        with reading_files():
            data = stream.read()
        yield ArchivedFile(path, data, bool(member.mode & 0o100))


def _installed(archive: Path) -> set[str]:
    """The paths of packages' files, by what their installer has recorded."""
    found: set[str] = set()
    for member, stream in tar_files(archive):
        parts = PurePosixPath(member.name).parts
        if len(parts) == 2 and parts[0].endswith(".dist-info") and parts[1] == "RECORD":
            with reading_files():
                rows = csv.reader(stream.read().decode("utf-8", "replace").splitlines())
                # (Scripts are recorded from where packages usually are: ../../bin/NAME.)
                found.update(row[0].removeprefix("../../") for row in rows if row)
    return found
