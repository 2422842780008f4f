"""What is below a folder, reached so that neither a link nor `..` leads out of it.

Workers write into volumes, and may put a link into any place of a path at any moment. So each step
is opened from the one before it, and links are followed here, not by the kernel: as openat2 does
with RESOLVE_BENEATH, which Python does not offer.
"""

from __future__ import annotations

import errno
import os
import stat
from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING, NamedTuple

from runpod_flash.descriptor import OpenFile

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE = os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC
_MAX_PATH = 1024
_MAX_DEPTH = 100
_MAX_LINKS = 40


class PathError(ValueError):
    """A path that is none below a volume, or what leads out of it there."""


class Found(NamedTuple):
    """Something below a folder: `kind` is `file`, `folder`, `link` or `other`; size in bytes."""

    path: str
    kind: str
    size: int
    modified_at: float
    executable: bool


def parts_of(path: str) -> tuple[str, ...]:
    """The steps of a relative POSIX path; none for the folder itself. Raises `PathError`."""
    parts = tuple(path.split("/")) if path else ()
    odd = any(part in ("", ".", "..") or not part.isprintable() for part in parts)
    if odd or len(os.fsencode(path)) > _MAX_PATH or len(parts) > _MAX_DEPTH:
        raise PathError(
            f"{path!r:.80} is no path below a volume: write one such as weights/model.bin, without "
            f"'..', '.' and control characters, of at most {_MAX_PATH} bytes"
        )
    return parts


class Beneath:
    """A position below `root`, at first there. A context manager, which holds descriptors."""

    def __init__(self, root: Path) -> None:
        self._open = [os.open(root, _FOLDER)]
        self._links = 0

    def __enter__(self) -> Beneath:
        return self

    def __exit__(self, *exception: object) -> None:
        for descriptor in self._open:
            os.close(descriptor)

    @property
    def folder(self) -> int:
        """The descriptor of the folder that was entered."""
        return self._open[-1]

    def enter(self, parts: Sequence[str], *, make: bool = False) -> None:
        """Go down; with `make`, folders that are absent are made, for the owner of the root.

        Raises `PathError` where links lead out, and `OSError` as opening does.
        """
        pending = deque(parts)
        while pending:
            self._step(pending.popleft(), pending, make)

    def open_file(self, parts: Sequence[str]) -> OpenFile:
        """A plain file, to be read; raises as `enter`."""
        file = OpenFile(os.open(self._end(parts), _FILE, dir_fd=self.folder))
        mode = os.fstat(file.descriptor).st_mode
        if stat.S_ISREG(mode):
            return file
        if stat.S_ISDIR(mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        raise PathError(f"{'/'.join(parts)} is no plain file")

    def found(self, *, deep: bool, after: Sequence[str] = ()) -> Iterator[Found]:
        """What is in the folder, by name; with `deep` also what is in its folders, each after it.

        Only what follows the place `after`. Links are not followed.
        """
        return _found(self.folder, (), deep, tuple(after))

    def own(self, descriptor: int) -> None:
        """Give something new to whoever the volume belongs to."""
        owner = os.fstat(self._open[0])
        if os.geteuid() == 0:
            os.fchown(descriptor, owner.st_uid, owner.st_gid)

    def _step(self, name: str, pending: deque[str], make: bool) -> None:
        if name in ("", "."):
            return
        if name == "..":
            if len(self._open) == 1:
                raise PathError("a link there leads out of the volume")
            os.close(self._open.pop())
            return
        if len(self._open) > _MAX_DEPTH:
            raise PathError("the place is too deep in the volume")
        try:
            self._open.append(os.open(name, _FOLDER, dir_fd=self.folder))
        except FileNotFoundError:
            if not make:
                raise
            with suppress(FileExistsError):
                os.mkdir(name, 0o755, dir_fd=self.folder)
            self._open.append(os.open(name, _FOLDER, dir_fd=self.folder))
            self.own(self.folder)
        except OSError as error:
            # (What a link gives: Linux says the one, macOS the other.)
            target = self._target(name) if error.errno in (errno.ENOTDIR, errno.ELOOP) else None
            if target is None:
                raise
            pending.extendleft(reversed(target))

    def _end(self, parts: Sequence[str]) -> str:
        """Enter the folder that the place is in at last; its name there, which is no link's."""
        if not parts:
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        *folders, name = parts
        self.enter(folders)
        while (target := self._target(name)) is not None:
            *folders, name = target
            self.enter(folders)
        if name in ("", ".", ".."):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        return name

    def _target(self, name: str) -> list[str] | None:
        """The steps that a link stands for; None for anything else."""
        try:
            target = os.readlink(name, dir_fd=self.folder)
        except OSError:
            return None
        self._links += 1
        if target.startswith("/") or self._links > _MAX_LINKS:
            raise PathError(f"the link {name} leads out of the volume, or in a circle")
        return target.split("/")


def _found(
    folder: int, above: tuple[str, ...], deep: bool, after: tuple[str, ...]
) -> Iterator[Found]:
    with os.scandir(folder) as entries:
        names = sorted(entry.name for entry in entries)
    for name in names:
        place = (*above, name)
        if place < after[: len(place)]:
            continue
        try:
            state = os.stat(name, dir_fd=folder, follow_symlinks=False)
        except FileNotFoundError:  # removed meanwhile
            continue
        if place > after:
            runs = bool(state.st_mode & 0o100) and stat.S_ISREG(state.st_mode)
            what = (_kind(state.st_mode), state.st_size, state.st_mtime, runs)
            yield Found("/".join(place), *what)
        if deep and stat.S_ISDIR(state.st_mode) and len(place) < _MAX_DEPTH:
            try:
                below = os.open(name, _FOLDER, dir_fd=folder)
            except OSError:
                continue
            try:
                yield from _found(below, place, deep, after)
            finally:
                os.close(below)


def _kind(mode: int) -> str:
    if stat.S_ISREG(mode):
        return "file"
    if stat.S_ISDIR(mode):
        return "folder"
    return "link" if stat.S_ISLNK(mode) else "other"
