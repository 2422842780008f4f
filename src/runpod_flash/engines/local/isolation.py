"""What keeps the workers of one app from the data of another, where a plane serves several."""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from runpod_flash.engines.local.processes.launcher import Mount

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from runpod_flash.spec import Entry

_TEMPORARY = Path("/tmp")
_SHARED_MEMORY = Path("/dev/shm")


@dataclass(frozen=True)
class User:
    """Whom workers are where the plane is root."""

    name: str
    uid: int
    gid: int


@dataclass(frozen=True)
class Isolation:
    """Each app has a home and temporary files of its own, in a folder of `folder`.

    In the place of this process's `home` and of /tmp, its workers see those; `hidden` they do not
    see, but for what they need of it, which may be where their user could not go (as in /root).
    Processes are the launcher's to keep apart.
    """

    folder: Path
    home: Path
    hidden: tuple[Path, ...] = ()
    user: User | None = None

    def mounts(self, app: str, needed: Iterable[Path], own: Iterable[Path]) -> tuple[Mount, ...]:
        """For a worker that is to see also what is `needed`, and may change what is its `own`."""
        place = self._place(app)
        private = [(place / "home", self.home), (place / "tmp", _TEMPORARY)]
        private = [(source, target.resolve()) for source, target in private if target != Path("/")]
        covered = [target for _, target in private]
        shown = [*((path, True) for path in needed), *((path, False) for path in own)]
        shown = [(path.resolve(), fixed) for path, fixed in shown]
        kept = [path for path, _ in shown]
        places = (*self.hidden, _SHARED_MEMORY)
        hidden = {path.resolve() for path in places if path.is_dir()}
        if self.user is not None:
            closed = (_closed_folder(path, self.user) for path in kept)
            hidden.update(folder for folder in closed if folder is not None)
        # What is covered needs no cover, unless it would be shown again.
        hidden = {path for path in hidden if not _in(path, covered) or _in(path, kept)}
        shown = [(path, fixed) for path, fixed in shown if _in(path, [*covered, *hidden])]
        return (
            *(Mount(source, str(target)) for source, target in private),
            *(Mount(None, str(path)) for path in sorted(hidden)),
            *(Mount(path, str(path), fixed) for path, fixed in shown),
        )

    def unreadable(self, entry: Entry) -> str:
        """What of an entry's code the workers' user may not read, as a sentence with a remedy.

        Empty where they may, by the modes of files and folders.
        """
        if self.user is None or not entry.root:
            return ""
        root = Path(entry.root).resolve()
        files = [root / file for file in (entry.file, *entry.others) if file]
        folders = {folder for file in files for folder in file.parents if root in folder.parents}
        for path in (root, *sorted(folders), *files):
            if path.exists() and not _may(path, self.user, "rx" if path.is_dir() else "r"):
                return _unreadable(path, self.user)
        return ""

    def forget(self, app: str) -> None:
        """Remove what an app has kept in its home."""
        shutil.rmtree(self.folder / _name(app), ignore_errors=True)

    def keep_only(self, apps: Iterable[str]) -> None:
        """Remove the homes of all other apps."""
        kept = {_name(app) for app in apps}
        for place in self.folder.iterdir() if self.folder.is_dir() else ():
            if place.name not in kept:
                shutil.rmtree(place, ignore_errors=True)

    def give(self, path: Path) -> None:
        """Let workers write to a directory that was made for them."""
        if self.user is not None and path.stat().st_uid == 0:
            os.chown(path, self.user.uid, self.user.gid)

    def _place(self, app: str) -> Path:
        place = self.folder / _name(app)
        for path in (place / "home", place / "tmp"):
            path.mkdir(parents=True, exist_ok=True, mode=0o700)
            self.give(path)
        return place


def interpreter_folder(python: Path) -> Path:
    """Where the Python that an environment's program leads to is installed."""
    return python.resolve().parent.parent


def packages_in(support: Path) -> Iterator[Path]:
    """The folders that the links of a support tree lead to, and the tree itself."""
    yield support
    for link in support.iterdir():
        yield link.resolve()


def _name(app: str) -> str:
    """A folder's name: apps are called by their users, and some by nothing."""
    return hashlib.sha256(app.encode()).hexdigest()[:32]


def _closed_folder(path: Path, user: User) -> Path | None:
    """The first of the folders that lead there which the user may not pass through."""
    return next((each for each in reversed(path.parents) if not _may(each, user, "x")), None)


def _may(path: Path, user: User, wanted: str) -> bool:
    """Whether the mode lets the user read what is there (`r`), and pass through it (`x`)."""
    found = path.stat()
    shift = 6 if found.st_uid == user.uid else 3 if found.st_gid == user.gid else 0
    bits = sum({"r": 4, "x": 1}[each] for each in wanted)
    return found.st_mode >> shift & bits == bits


def _unreadable(path: Path, user: User) -> str:
    kind, right = ("folder", "rx") if path.is_dir() else ("file", "r")
    mode = f"{stat.S_IMODE(path.stat().st_mode):04o}"
    return (
        f"workers are the user {user.name}, who may not read the {kind} {path} (mode {mode}): run "
        f"`chmod a+{right} {path}`, or start the server with a --worker-user who may"
    )


def _in(path: Path, folders: Iterable[Path]) -> bool:
    return any(path == folder or folder in path.parents for folder in folders)
