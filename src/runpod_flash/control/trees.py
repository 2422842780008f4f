"""The code of apps on this machine's disk, a folder for each state that it has had."""

from __future__ import annotations

import os
import shutil
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence
    from pathlib import Path

    from runpod_flash.control.blobs import Blobs

_MAX_FILES = 50_000
_MAX_PATH = 1024
# Nothing here is being edited, whenever it came: workers may keep its bytecode at once. (1980 is
# the earliest that a ZIP archive can hold.)
_MODIFIED_AT = 315_532_800


class StoredFile(NamedTuple):
    """A file of a tree: its POSIX path below the root, and the SHA-256 of its content."""

    path: str
    digest: str
    executable: bool = False


class AppTree:
    """The states of one app's code in a folder of its own, which ends with it.

    Workers of an earlier state may still run, so that none is changed; files that stay the same
    are shared between them.
    """

    def __init__(self, folder: Path, blobs: Blobs) -> None:
        self._folder = folder
        self._blobs = blobs
        self._number = 0
        self._files: dict[str, StoredFile] = {}
        self.root = folder / "0"

    def show(self, files: Sequence[StoredFile]) -> Path:
        """The folder with exactly these files. All of them must be among the blobs.

        Raises `ValueError` for a path that leads out of it, or is two things at once.
        """
        wanted = {file.path: file for file in files}
        if wanted == self._files and self.root.exists():
            return self.root
        check_paths(files)
        before, root = self.root, self._folder / str(self._number + 1)
        root.mkdir(parents=True, mode=0o755)
        for file in wanted.values():
            place = root / file.path
            place.parent.mkdir(parents=True, exist_ok=True)
            if self._files.get(file.path) == file:
                os.link(before / file.path, place)
            else:
                self._blobs.copy(file.digest, place)
                place.chmod(0o755 if file.executable else 0o644)
                os.utime(place, (_MODIFIED_AT, _MODIFIED_AT))
        self._number, self._files, self.root = self._number + 1, wanted, root
        return root

    def forget(self, used: Collection[str]) -> None:
        """Remove earlier states, but for those roots that workers still use."""
        for state in self._folder.iterdir():
            if state != self.root and str(state) not in used:
                shutil.rmtree(state, ignore_errors=True)

    def remove(self) -> None:
        shutil.rmtree(self._folder, ignore_errors=True)


def check_paths(files: Sequence[StoredFile]) -> None:
    """Raise `ValueError` unless they are distinct places below a root."""
    if len(files) > _MAX_FILES:
        raise ValueError(f"{len(files)} files; at most {_MAX_FILES} make an app")
    places = {file.path for file in files}
    if len(places) != len(files):
        raise ValueError("a path is there twice")
    for path in places:
        _check_path(path, places)


def _check_path(path: str, places: set[str]) -> None:
    pure = PurePosixPath(path)
    plain = str(pure) == path and not pure.is_absolute() and ".." not in pure.parts
    if not plain or not path or "\0" in path or "\\" in path or len(path) > _MAX_PATH:
        raise ValueError(f"{path!r:.80} is no plain path below the project")
    for parent in pure.parents:
        if str(parent) in places:
            raise ValueError(f"{parent} is a file and a folder")
