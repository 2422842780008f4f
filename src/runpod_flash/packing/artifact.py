"""What is deployed: a project's files, locks and packages, each by its content."""

from __future__ import annotations

import gzip
import io
import json
import secrets
import tarfile
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple

from runpod_flash.spec import PACKED

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from runpod_flash.packing.locking import Package
    from runpod_flash.project.catalog import Catalog
    from runpod_flash.project.tree import TreeFile

MANIFEST = f"{PACKED}/manifest.json"
_SHOWN = 12


class Part(NamedTuple):
    """A part of an artifact, for people: `what` it is, and its bytes."""

    name: str
    what: str
    size: int


@dataclass(frozen=True)
class Artifact:
    """`files` lie below the project's root; `brought` says where those do that are not its own.

    `locks` has the packages of each endpoint, by its name.
    """

    root: Path
    catalog: Catalog
    files: tuple[TreeFile, ...]
    brought: Mapping[str, Path | bytes] = field(default_factory=dict)
    locks: Mapping[str, tuple[Package, ...]] = field(default_factory=dict)

    @property
    def size(self) -> int:
        """Bytes that a server without any of it gets."""
        return sum({file.digest: file.size for file in self.files}.values())

    def content(self, file: TreeFile) -> bytes:
        """The bytes of one of the files."""
        place = self.brought.get(file.path, self.root / file.path)
        return place if isinstance(place, bytes) else place.read_bytes()

    def fetched(self) -> list[Package]:
        """The packages that a server fetches itself."""
        there = {file.digest for file in self.files}
        every = {p.digest or p.url: p for packages in self.locks.values() for p in packages}
        return [package for package in every.values() if package.digest not in there]

    def parts(self) -> list[Part]:
        """The largest first: folders and files of the project, and each package."""
        sizes: dict[tuple[str, str], int] = {}
        for file in self.files:
            key = _part_of(file.path)
            sizes[key] = sizes.get(key, 0) + file.size
        found = (Part(name, what, size) for (name, what), size in sizes.items())
        return sorted(found, key=lambda part: (-part.size, part.name))

    def manifest(self) -> dict[str, Any]:
        """What it serves, without values of variables and places on this machine."""
        wire = self.catalog.to_wire()
        wire["root"] = ""
        for each in wire["endpoints"]:
            each["spec"]["entry"]["root"] = ""
            each["env"] = dict.fromkeys(sorted(each["env"]), "")
        return wire

    def write(self, path: Path) -> None:
        """As one archive; the same content gives the same bytes, whenever and wherever."""
        path.parent.mkdir(parents=True, exist_ok=True)
        # (Of this build alone: another may write to the same place.)
        part = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
        try:
            with part.open("xb") as stream:
                self._pack(stream)
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)

    def _pack(self, stream: BinaryIO) -> None:
        text = json.dumps(self.manifest(), sort_keys=True, indent=1).encode()
        with (
            gzip.GzipFile("", "wb", compresslevel=6, fileobj=stream, mtime=0) as packed,
            tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as archive,
        ):
            _add(archive, MANIFEST, text)
            for file in sorted(self.files):
                _add(archive, file.path, self.content(file), executable=file.executable)


def _add(archive: tarfile.TarFile, name: str, data: bytes, *, executable: bool = False) -> None:
    info = tarfile.TarInfo(name)
    info.size, info.mode = len(data), 0o755 if executable else 0o644
    archive.addfile(info, io.BytesIO(data))


def _part_of(path: str) -> tuple[str, str]:
    if path.startswith(f"{PACKED}/wheels/"):
        return " ".join(path.rpartition("/")[2].split("-")[:2]), "package"
    if path.startswith(f"{PACKED}/"):
        return "locks", "lock"
    top, slash, _ = path.partition("/")
    return f"{top}{slash}", "code"


def shown(parts: Iterable[Part], most: int = _SHOWN) -> list[Part]:
    """So many parts, with the rest as one."""
    every = list(parts)
    if len(every) <= most:
        return every
    rest = every[most - 1 :]
    more = Part(f"{len(rest)} more", "", sum(part.size for part in rest))
    return [*every[: most - 1], more]
