"""Archives of code that were uploaded: their files, and nothing that would leave their root.

Nothing is unpacked to the disk under a name of the archive's. Packages that were installed beside
the code are no part of it: environments are built here.
"""

from __future__ import annotations

import csv
import tarfile
import zlib
from pathlib import PurePosixPath
from typing import IO, TYPE_CHECKING, NamedTuple

from runpod_flash.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

# What code may have, and what an archive with packages beside it may hold.
MAX_CODE_BYTES = 500_000_000
_MAX_BYTES = 8_000_000_000
_MAX_MEMBERS = 200_000
# Text compresses to a tenth or so, zeros to a thousandth.
_MAX_RATIO = 100
_FREE_BYTES = 50_000_000
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

    Raises `ConfigurationError` for what is no such archive, and for one with a path that leads out
    of it, a link, a device, or far more in it than its size tells.
    """
    installed = _installed(archive)
    size = 0
    for path, member, stream in _members(archive):
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
        yield ArchivedFile(path, stream.read(), bool(member.mode & 0o100))


def _installed(archive: Path) -> set[str]:
    """The paths of packages' files, by what their installer has recorded."""
    found: set[str] = set()
    for path, _, stream in _members(archive):
        parts = PurePosixPath(path).parts
        if len(parts) == 2 and parts[0].endswith(".dist-info") and parts[1] == "RECORD":
            rows = csv.reader(stream.read().decode("utf-8", "replace").splitlines())
            # (Scripts are recorded from where packages usually are: ../../bin/NAME.)
            found.update(row[0].removeprefix("../../") for row in rows if row)
    return found


def _members(archive: Path) -> Iterator[tuple[str, tarfile.TarInfo, IO[bytes]]]:
    """Each file with its path and content. What is refused is refused before it is read."""
    allowed = _FREE_BYTES + _MAX_RATIO * archive.stat().st_size
    size = 0
    try:
        with tarfile.open(archive, "r|gz") as tar:
            for number, member in enumerate(tar):
                size += member.size
                if size > min(allowed, _MAX_BYTES) or number >= _MAX_MEMBERS:
                    raise ConfigurationError("the archive holds far more than its size tells")
                path = _path(member)
                if member.isdir():
                    continue
                if not member.isreg():
                    raise ConfigurationError(
                        f"{path!r} in the archive is no file but a link or device"
                    )
                stream = tar.extractfile(member)
                assert stream is not None
                yield path, member, stream
    except (tarfile.TarError, EOFError, OSError, zlib.error) as error:
        raise ConfigurationError(f"the archive cannot be read as .tar.gz: {error}") from None


def _path(member: tarfile.TarInfo) -> str:
    pure = PurePosixPath(member.name)
    if pure.is_absolute() or ".." in pure.parts or "\\" in member.name or "\0" in member.name:
        raise ConfigurationError(f"{member.name!r:.80} in the archive leads out of it")
    return str(pure)
