"""Archives from elsewhere: refused before anything of them is unpacked, where they would harm."""

from __future__ import annotations

import bz2
import csv
import gzip
import lzma
import stat
import tarfile
import zipfile
import zlib
from contextlib import contextmanager
from pathlib import PureWindowsPath
from typing import IO, TYPE_CHECKING, Any, cast

from runpod_flash.errors import ConfigurationError, EnvironmentBuildError, FlashError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

# Code packs to a fifth or so, weights to what they were; a bomb to a thousandth.
_MAX_RATIO = 100
_SMALL = 50_000_000  # what may be unpacked whatever its ratio
_MAX_BYTES = 20_000_000_000
_MAX_MEMBERS = 200_000
_OPENERS: dict[str, Callable[..., Any]] = {
    ".gz": gzip.open,
    ".tgz": gzip.open,
    ".bz2": bz2.open,
    ".xz": lzma.open,
}
_UNREADABLE = (
    *(zipfile.BadZipFile, tarfile.TarError, lzma.LZMAError, zlib.error, csv.Error),
    *(OSError, EOFError, ValueError),
    NotImplementedError,  # a later version of the format
    RecursionError,  # headers that are about headers
)


def check_archive(path: Path) -> None:
    """Look at a wheel or source archive, whose suffix says which it is.

    Raises `EnvironmentBuildError` where it would unpack to more than plain files below one folder,
    or to far more bytes than it has.
    """
    check = _Check(path, path.name, EnvironmentBuildError)
    with _readable(path.name, EnvironmentBuildError):
        if path.suffix in (".whl", ".zip"):
            _check_zip(path, check)
        else:
            for _ in _entries(path, _OPENERS.get(path.suffix, open), check):
                pass


def tar_files(path: Path) -> Iterator[tuple[tarfile.TarInfo, IO[bytes]]]:
    """The files of an uploaded .tar.gz and their content, which is there until the next file.

    Raises `ConfigurationError` for what is no such archive, or one that `check_archive` refuses.
    """
    check = _Check(path, "the archive", ConfigurationError)
    with reading_files():
        for archive, entry in _entries(path, gzip.open, check):
            if entry.isfile():
                content = archive.extractfile(entry)
                assert content is not None
                yield entry, content


@contextmanager
def reading_files() -> Iterator[None]:
    """For whoever reads the content of `tar_files`: raise its errors as that does."""
    with _readable("the archive", ConfigurationError, " as .tar.gz"):
        yield


@contextmanager
def _readable(called: str, error: type[FlashError], as_what: str = "") -> Iterator[None]:
    """Have what Python's own readers raise in the block be told as all else."""
    try:
        yield
    except FlashError:
        raise
    except _UNREADABLE as fault:
        raise error(f"{called} cannot be read{as_what}: {fault}; build it anew") from None


def _check_zip(path: Path, check: _Check) -> None:
    with zipfile.ZipFile(path) as archive:
        for info in archive.infolist():
            mode = info.external_attr >> 16
            plain = not stat.S_IFMT(mode) or stat.S_ISREG(mode) or stat.S_ISDIR(mode)
            kind = "" if plain else "a link" if stat.S_ISLNK(mode) else "a device"
            check.member(info.filename, kind, info.file_size)


def _entries(
    path: Path, opened: Callable[..., Any], check: _Check
) -> Iterator[tuple[tarfile.TarFile, tarfile.TarInfo]]:
    with opened(path, "rb") as stream:
        bounded = cast("IO[bytes]", _Bounded(stream, check))
        with tarfile.open(fileobj=bounded, mode="r|") as archive:
            for entry in archive:
                linked = entry.issym() or entry.islnk()
                plain = entry.isfile() or entry.isdir()
                kind = "" if plain else "a link" if linked else "a device"
                if entry.issparse():  # its size is by its own account alone, and not what is there
                    kind = "a sparse file"
                # (Python's own filter "data" refuses links that lead out, and lets others pass.)
                check.member(entry.name, kind, entry.size)
                yield archive, entry


class _Bounded:
    """Of a stream only as much as an archive may become: a header can be a bomb by itself."""

    def __init__(self, stream: IO[bytes], check: _Check) -> None:
        self._stream = stream
        self._check = check
        self._size = 0

    def read(self, size: int) -> bytes:
        data = self._stream.read(size)
        self._size += len(data)
        self._check.size(self._size)
        return data


class _Check:
    """Of one archive, by its own account of its members; refuses by raising `error`."""

    def __init__(self, path: Path, called: str, error: type[FlashError]) -> None:
        self._packed = path.stat().st_size
        self._called = called
        self._error = error
        self._members = 0
        self._bytes = 0

    def member(self, name: str, kind: str, size: int) -> None:
        """`kind` is empty for a plain file or folder."""
        if kind:
            raise self._refused(f"{name!r:.80} is {kind}")
        # Also on systems where a path such as C:/x begins at another root.
        below = PureWindowsPath(name)
        if below.anchor or below.drive or ".." in below.parts or "\0" in name:
            raise self._refused(f"{name!r:.80} leads out of it")
        if size < 0:
            raise self._refused(f"{name!r:.80} has {size} bytes")
        self._members += 1
        if self._members > _MAX_MEMBERS:
            raise self._refused(f"it has more than {_MAX_MEMBERS} files")
        self._bytes += size
        self.size(self._bytes)

    def size(self, size: int) -> None:
        if size > _MAX_BYTES or (size > _SMALL and size > self._packed * _MAX_RATIO):
            raise self._refused(
                f"its {self._packed} bytes would become {size / 1e6:.0f} MB or more"
            )

    def _refused(self, why: str) -> FlashError:
        return self._error(f"{self._called} is not unpacked: {why}")
