"""The files of a volume, as clients put, get, list and remove them.

All of it blocks. What is on its way lies beside the files that workers see, on the same disk, and
is moved to its place whole and verified, or not at all.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import secrets
import shutil
import time
from contextlib import contextmanager, suppress
from itertools import islice
from typing import TYPE_CHECKING, NamedTuple

from runpod_flash.control.volumes.beneath import Beneath, PathError, parts_of
from runpod_flash.control.volumes.digests import Digests, sha256_of
from runpod_flash.descriptor import OpenFile

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

    from runpod_flash.control.volumes.beneath import Found

# Large files come in parts of this size.
PART_BYTES = 16 << 20
# What of the disk stays free, for jobs and logs.
MIN_FREE_BYTES = 64 << 20
# An upload that nobody has gone on with for so long is dropped.
_KEPT_SECONDS = 7 * 86_400
_DIGEST = re.compile(r"[0-9a-f]{64}")


class NoRoomError(OSError):
    """The disk is full, or would be."""


class ChangedError(ValueError):
    """What came is not what was announced."""


class NoUploadError(LookupError):
    """No such upload was begun, or it has ended."""


class Wanted(NamedTuple):
    """A file that a client has: its place, its size in bytes and its SHA-256."""

    path: str
    size: int
    sha256: str


class VolumeFiles:
    """Those of one volume; `files` is what workers see, `uploads` what is on its way."""

    def __init__(self, files: Path, uploads: Path, min_free: int = MIN_FREE_BYTES) -> None:
        self._files = files
        self._uploads = uploads
        self._min_free = min_free
        self._digests = Digests(uploads / "digests.db")

    # What there is

    def found(self, path: str, *, deep: bool, after: str, limit: int) -> tuple[list[Found], bool]:
        """What is in a folder, after a place there, and whether there is more than `limit`."""
        with Beneath(self._files) as place:
            place.enter(parts_of(path))
            found = list(islice(place.found(deep=deep, after=after.split("/")), limit + 1))
        return found[:limit], len(found) > limit

    def open(self, path: str) -> OpenFile:
        """A file, to be read."""
        with Beneath(self._files) as place:
            return place.open_file(parts_of(path))

    def digest(self, file: OpenFile) -> str:
        """The SHA-256 of an open file."""
        return self._digests.of(file.descriptor)

    def missing(self, wanted: Iterable[Wanted]) -> list[str]:
        """The places of those that are not there as they are wanted."""
        return [each.path for each in wanted if not self._is_there(each)]

    def _is_there(self, wanted: Wanted) -> bool:
        parts_of(wanted.path)
        try:
            file = self.open(wanted.path)
        except (OSError, PathError):
            return False
        same_size = os.fstat(file.descriptor).st_size == wanted.size
        return same_size and self.digest(file) == wanted.sha256

    def remove(self, path: str) -> Path:
        """Take away a file, a link, or a folder with all that is in it: it is gone at once, and
        `delete`d from where it is then.
        """
        *folders, name = parts_of(path) or ("",)
        if not name:
            raise PathError("a path in the volume is needed; `flash volume delete` ends a volume")
        away = self._uploads / f"removed-{secrets.token_hex(8)}"
        with Beneath(self._files) as place:
            place.enter(folders)
            os.rename(name, away, src_dir_fd=place.folder)
        return away

    # In one piece

    @contextmanager
    def coming(self, size: int | None) -> Iterator[Incoming]:
        """A file that comes whole, of so many bytes where that is known; it ends with the block."""
        self._check_room(size or 0)
        part = self._uploads / f"whole-{secrets.token_hex(8)}"
        incoming = Incoming(part, hashed=True)
        try:
            yield incoming
        finally:
            incoming.close()
            part.unlink(missing_ok=True)

    def keep(self, incoming: Incoming, path: str, sha256: str | None, *, executable: bool) -> str:
        """Move what came to its place; its SHA-256. Raises `ChangedError` where it is another."""
        digest = incoming.sha256()
        if sha256 is not None and digest != sha256:
            raise ChangedError(
                f"what came for {path} has another SHA-256 than announced; put it again"
            )
        self._move(incoming.path, path, digest, executable)
        return digest

    # In parts

    def begin(self, sha256: str, size: int) -> list[int]:
        """Take up an upload; the numbers of the parts that are missing."""
        part = self._upload(sha256)
        known = part.exists() and part.stat().st_size == size
        there = self._parts(sha256) if known else set()
        self._check_room(max(size - len(there) * PART_BYTES, 0))
        missing = [number for number in range(-(-size // PART_BYTES)) if number not in there]
        if not known:
            self._forget(sha256)
            with _room(), part.open("wb") as made:
                made.truncate(size)
        os.utime(part)
        return missing

    def coming_part(self, sha256: str, number: int) -> Incoming:
        """A part that comes; raises `NoUploadError` for an upload that was not begun."""
        part = self._begun(sha256)
        size, at = part.stat().st_size, number * PART_BYTES
        if at >= size:
            raise ChangedError(f"an upload of {size} bytes has no part {number}")
        return Incoming(part, at, min(PART_BYTES, size - at))

    def came(self, sha256: str, number: int) -> None:
        """A part is there whole."""
        with self._list(sha256).open("a") as stream:
            stream.write(f"{number}\n")

    def drop(self, sha256: str) -> None:
        """Give up an upload."""
        self._forget(sha256)

    def commit(self, sha256: str, path: str, *, executable: bool) -> None:
        """Move what came to its place, verified; raises `ChangedError`, and then it is dropped."""
        part = self._begun(sha256)
        descriptor = os.open(part, os.O_RDONLY | os.O_CLOEXEC)
        try:
            missing = self.begin(sha256, os.fstat(descriptor).st_size)
            if missing:
                raise ChangedError(f"{len(missing)} parts of {path} have not come")
            if sha256_of(descriptor) != sha256:
                self._forget(sha256)
                raise ChangedError(
                    f"what came for {path} has another SHA-256 than announced; put it again"
                )
        finally:
            os.close(descriptor)
        self._move(part, path, sha256, executable)
        self._forget(sha256)

    def sweep(self, *, started: bool) -> None:
        """Drop what nobody goes on with; when a server has `started`, that is all but uploads in
        parts.
        """
        for path in self._uploads.iterdir():
            with suppress(FileNotFoundError):
                old = time.time() - path.stat().st_mtime > _KEPT_SECONDS
                if path.name.startswith(("removed-", "whole-")) and (old or started):
                    delete(path)
                elif old and _DIGEST.fullmatch(path.stem):
                    self._forget(path.stem)

    def _parts(self, sha256: str) -> set[int]:
        try:
            return set(map(int, self._list(sha256).read_text().split()))
        except (FileNotFoundError, ValueError):
            return set()

    def _upload(self, sha256: str) -> Path:
        if not _DIGEST.fullmatch(sha256):
            raise PathError(f"{sha256!r:.80} is no SHA-256")
        return self._uploads / f"{sha256}.data"

    def _begun(self, sha256: str) -> Path:
        part = self._upload(sha256)
        if not part.exists():
            raise NoUploadError(f"no upload of {sha256[:12]} is here; begin it again")
        return part

    def _list(self, sha256: str) -> Path:
        return self._upload(sha256).with_suffix(".parts")

    def _forget(self, sha256: str) -> None:
        for path in (self._list(sha256), self._upload(sha256)):
            path.unlink(missing_ok=True)

    def _move(self, source: Path, path: str, digest: str, executable: bool) -> None:
        *folders, name = parts_of(path) or ("",)
        if not name:
            raise PathError("a path in the volume is needed")
        with Beneath(self._files) as place, source.open("rb") as file, _room():
            place.enter(folders, make=True)
            os.fchmod(file.fileno(), 0o755 if executable else 0o644)
            place.own(file.fileno())
            os.fsync(file.fileno())
            os.rename(source, name, dst_dir_fd=place.folder)
            self._digests.note(os.fstat(file.fileno()), digest)

    def _check_room(self, size: int) -> None:
        disk = shutil.disk_usage(self._uploads)
        if size + self._min_free > disk.free:
            raise _no_room(size)


class Incoming:
    """A file, or a part of one, that is written as it comes; at most `limit` bytes of it."""

    def __init__(
        self, path: Path, at: int = 0, limit: int | None = None, *, hashed: bool = False
    ) -> None:
        self.path = path
        self.written = 0
        self.limit = limit
        self._at = at
        self._hash = hashlib.sha256() if hashed else None
        flags = os.O_WRONLY | os.O_CLOEXEC | (os.O_CREAT | os.O_EXCL if hashed else 0)
        self._file: OpenFile | None = OpenFile(os.open(path, flags, 0o600))

    def write(self, data: Sequence[bytes]) -> None:
        """The next bytes. Raises `NoRoomError` where the disk is full."""
        file = self._file
        assert file is not None
        try:
            for piece in data:
                with _room():
                    view = memoryview(piece)
                    while view:
                        count = os.pwrite(file.descriptor, view, self._at + self.written)
                        self.written += count
                        view = view[count:]
                if self._hash is not None:
                    self._hash.update(piece)
        finally:
            del file  # the traceback of what went wrong must not keep it open

    def sha256(self) -> str:
        """Of all that was written."""
        assert self._hash is not None
        return self._hash.hexdigest()

    def close(self) -> None:
        """Nothing more is written, but what a thread still writes."""
        self._file = None


@contextmanager
def _room() -> Iterator[None]:
    """Raise `NoRoomError` where the system says so."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT) and not isinstance(error, NoRoomError):
            raise _no_room() from None
        raise


def _no_room(size: int = 0) -> NoRoomError:
    what = f"{size / 1e6:.0f} MB more" if size else "what came"
    return NoRoomError(
        errno.ENOSPC, f"the server's disk has no room for {what}; remove something, or enlarge it"
    )


def delete(path: Path) -> None:
    """Delete a file, a link or a folder."""
    if path.is_dir() and not path.is_symlink():
        with suppress(RecursionError):  # (deeper than any tree that is worth waiting for)
            shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
