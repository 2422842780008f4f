"""The files of a project that its workers may need, for a server that has none of them."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, NamedTuple

from runpod_flash.errors import ConfigurationError
from runpod_flash.project.root import is_root
from runpod_flash.project.scan import kept_files

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

# What may travel: code and the files beside it. Weights and data belong on a volume.
MAX_BYTES = 500_000_000
_NAMED = 10


class TreeFile(NamedTuple):
    """A file by its POSIX path below the root, and the SHA-256 of its content."""

    path: str
    digest: str
    size: int
    executable: bool = False


class Tree:
    """A project's files, looked at anew each time; one that has not changed is not read again."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._known: dict[str, tuple[tuple[int, int, int], TreeFile]] = {}

    def files(self, needed: Iterable[str] = ()) -> list[TreeFile]:
        """All that Git and the project do not ignore, and `needed`, which are paths below the root.

        Where nothing marks the folder as a project's, it may hold anything: only the needed ones
        and `requirements.txt`. Raises `ConfigurationError` where that is more than may travel.
        """
        paths = dict.fromkeys([*needed, "requirements.txt"])
        if is_root(self.root):
            paths |= dict.fromkeys(kept_files(self.root))
        found = [file for path in sorted(paths) if (file := self._file(path)) is not None]
        _check_size(self.root, found)
        return found

    def content(self, file: TreeFile) -> bytes:
        return (self.root / file.path).read_bytes()

    def _file(self, path: str) -> TreeFile | None:
        place = self.root / path
        try:
            if place.is_symlink() and not place.resolve().is_relative_to(self.root.resolve()):
                return None
            state = place.stat()
            stamp = (state.st_mtime_ns, state.st_size, state.st_ino)
            known = self._known.get(path)
            if known is None or known[0] != stamp:
                data = place.read_bytes()
                executable = bool(state.st_mode & 0o100)
                digest = hashlib.sha256(data).hexdigest()
                known = self._known[path] = stamp, TreeFile(path, digest, len(data), executable)
        except OSError:  # gone meanwhile, or not for us
            return None
        return known[1]


def _check_size(root: Path, found: list[TreeFile]) -> None:
    size = sum(file.size for file in found)
    if size <= MAX_BYTES:
        return
    largest = sorted(found, key=lambda file: -file.size)[:_NAMED]
    named = ", ".join(f"{file.path} ({file.size / 1e6:.0f} MB)" for file in largest)
    raise ConfigurationError(
        f"{root} has {size / 1e6:.0f} MB of files, and {MAX_BYTES / 1e6:.0f} MB may go to a "
        "server; put weights and data on a NetworkVolume, or name them in .flashignore; the "
        f"largest are {named}"
    )


def named_variables(
    root: Path, files: Iterable[TreeFile], variables: Mapping[str, str]
) -> dict[str, str]:
    """Those of the variables that the project's code names: its modules may read them."""
    code = b"\0".join(
        (root / file.path).read_bytes() for file in files if file.path.endswith(".py")
    )
    return {
        name: value
        for name, value in variables.items()
        if f'"{name}"'.encode() in code or f"'{name}'".encode() in code
    }
