"""Looks at wheels and source archives before anything unpacks them."""

from __future__ import annotations

import bz2
import gzip
import lzma
import stat
import tarfile
import zipfile
import zlib
from typing import IO, TYPE_CHECKING, Any, NamedTuple, cast

from runpod_flash.errors import EnvironmentBuildError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

# Code packs to a fifth or so, weights to what they were; a bomb to a thousandth.
_MAX_RATIO = 100
_SMALL = 50_000_000  # what may be unpacked whatever its ratio
_MAX_BYTES = 20_000_000_000
_MAX_MEMBERS = 200_000
_OPENERS: dict[str, Any] = {
    ".gz": gzip.open,
    ".tgz": gzip.open,
    ".bz2": bz2.open,
    ".xz": lzma.open,
}
_UNREADABLE = (zipfile.BadZipFile, tarfile.TarError, lzma.LZMAError, zlib.error)


class _Member(NamedTuple):
    name: str
    size: int
    kind: str  # "" for a plain file or folder


def check_archive(path: Path) -> None:
    """Raise `EnvironmentBuildError` for an archive that would unpack to more than plain files
    below one folder, or to far more bytes than it has."""
    size = 0
    try:
        for number, member in enumerate(_members(path)):
            _check_member(path, member)
            size += member.size
            _check_size(path, size, number)
    except (*_UNREADABLE, OSError, EOFError, ValueError) as error:
        raise EnvironmentBuildError(f"{path.name} cannot be read: {error}; build it anew") from None


def _members(path: Path) -> Iterator[_Member]:
    """What is in it, by its own account; of a compressed tar, not more than it may have."""
    if path.suffix in (".whl", ".zip"):
        with zipfile.ZipFile(path) as archive:
            for info in archive.infolist():
                mode = info.external_attr >> 16
                plain = not stat.S_IFMT(mode) or stat.S_ISREG(mode) or stat.S_ISDIR(mode)
                kind = "" if plain else "a link" if stat.S_ISLNK(mode) else "a device"
                yield _Member(info.filename, info.file_size, kind)
        return
    with _OPENERS.get(path.suffix, open)(path, "rb") as stream:
        bounded = cast("IO[bytes]", _Bounded(stream, path))
        yield from _tar_members(bounded)


def _tar_members(stream: IO[bytes]) -> Iterator[_Member]:
    with tarfile.open(fileobj=stream, mode="r|") as archive:
        for entry in archive:
            linked = entry.issym() or entry.islnk()
            kind = "" if entry.isfile() or entry.isdir() else "a link" if linked else "a device"
            # (Python's own filter "data" refuses links that lead out, and lets others pass.)
            yield _Member(entry.name, entry.size, kind)


class _Bounded:
    """Of a stream only as much as an archive may become: a header can be a bomb by itself."""

    def __init__(self, stream: IO[bytes], path: Path) -> None:
        self._stream = stream
        self._path = path
        self._size = 0

    def read(self, size: int) -> bytes:
        data = self._stream.read(size)
        self._size += len(data)
        _check_size(self._path, self._size, 0)
        return data


def _check_member(path: Path, member: _Member) -> None:
    name = member.name
    parts = name.replace("\\", "/").split("/")
    if member.kind:
        raise _refused(path, f"{name!r:.80} is {member.kind}")
    if name.startswith(("/", "\\")) or ".." in parts or ":" in parts[0] or "\0" in name:
        raise _refused(path, f"{name!r:.80} leads out of it")


def _check_size(path: Path, size: int, number: int) -> None:
    packed = path.stat().st_size
    if number >= _MAX_MEMBERS:
        raise _refused(path, f"it has more than {_MAX_MEMBERS} files")
    if size > _MAX_BYTES or (size > _SMALL and size > packed * _MAX_RATIO):
        raise _refused(path, f"its {packed} bytes would become {size / 1e6:.0f} MB or more")


def _refused(path: Path, why: str) -> EnvironmentBuildError:
    return EnvironmentBuildError(f"{path.name} is not unpacked: {why}")
