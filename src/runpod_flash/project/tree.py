"""The files of a project that its workers may need, for a server that has none of them."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from runpod_flash.errors import ConfigurationError
from runpod_flash.project.root import is_root
from runpod_flash.project.scan import kept_files

if TYPE_CHECKING:
    import os
    from collections.abc import Collection, Iterable, Mapping

# What may travel: code and the files beside it. Weights and data belong on a volume.
MAX_BYTES = 500_000_000
_NAMED = 10
_PIECE = 1 << 20


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
        self._known: dict[str, tuple[tuple[int, ...], TreeFile]] = {}

    def files(self, needed: Iterable[str] = (), without: Collection[str] = ()) -> list[TreeFile]:
        """All that Git and the project do not ignore, and `needed`, which are paths below the root.

        Paths of `without` do not count, but where they are needed.

        Where nothing marks the folder as a project's, it may hold anything: only the needed ones
        and `requirements.txt`. Links that lead out of the project are left out. Raises
        `ConfigurationError` where a needed file is behind one, or all is more than may travel.
        """
        needed, inside = tuple(needed), self.root.resolve()
        paths = dict.fromkeys([*needed, "requirements.txt"])
        if is_root(self.root):
            paths |= dict.fromkeys(path for path in kept_files(self.root) if path not in without)
        states = ((path, self._state(path, inside)) for path in sorted(paths))
        found = {path: state for path, state in states if state is not None}
        for path in needed:
            if path not in found:
                self._check_link(path, inside)
        check_size(self.root, {path: state.st_size for path, state in found.items()})
        files = (self._file(path, state) for path, state in found.items())
        return [file for file in files if file is not None]

    def content(self, file: TreeFile) -> bytes:
        return (self.root / file.path).read_bytes()

    def _state(self, path: str, inside: Path) -> os.stat_result | None:
        place = self.root / path
        try:
            state = place.stat()
        except OSError:  # gone meanwhile, or not for us
            return None
        return state if place.resolve().is_relative_to(inside) else None

    def _check_link(self, path: str, inside: Path) -> None:
        """Raise `ConfigurationError`, which names the link, where the file is behind one."""
        if not (self.root / path).exists():
            return
        place = self.root
        for part in Path(path).parts:
            place /= part
            if not place.resolve().is_relative_to(inside):
                raise ConfigurationError(
                    f"{place.relative_to(self.root)} is a link that leads out of {self.root}, to "
                    f"{place.resolve()}, so that workers would be without {path}, which endpoints "
                    "import: put a copy in its place, or make a package of it and name its folder "
                    "in dependencies=; if it is only there for something else, name it in "
                    ".flashignore"
                )

    def _file(self, path: str, state: os.stat_result) -> TreeFile | None:
        stamp = (state.st_mtime_ns, state.st_size, state.st_ino, state.st_mode)
        known = self._known.get(path)
        if known is None or known[0] != stamp:
            try:
                digest, size = _digest(self.root / path)
            except OSError:
                return None
            executable = bool(state.st_mode & 0o100)
            known = self._known[path] = stamp, TreeFile(path, digest, size, executable)
        return known[1]


def _digest(path: Path) -> tuple[str, int]:
    digest, size = hashlib.sha256(), 0
    with path.open("rb") as stream:
        while piece := stream.read(_PIECE):
            digest.update(piece)
            size += len(piece)
    return digest.hexdigest(), size


def check_size(root: Path, sizes: Mapping[str, int]) -> None:
    """Raise `ConfigurationError`, which names the largest, where these are more than may travel."""
    size = sum(sizes.values())
    if size <= MAX_BYTES:
        return
    largest = sorted(sizes, key=lambda path: -sizes[path])[:_NAMED]
    named = ", ".join(f"{path} ({sizes[path] / 1e6:.0f} MB)" for path in largest)
    raise ConfigurationError(
        f"{root} has {size / 1e6:.0f} MB of files, and {MAX_BYTES / 1e6:.0f} MB may go to a "
        "server; put weights and data on a NetworkVolume, heavy packages in an image, or name "
        f"what is not needed in .flashignore; the largest are {named}"
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
