"""Files by their content: what was uploaded once is there for every later upload."""

from __future__ import annotations

import hashlib
import os
import re
import secrets
import shutil
import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

_DIGEST = re.compile(r"[0-9a-f]{64}")
MAX_BYTES = 10 << 30


class Blobs:
    """A folder of files named by the SHA-256 of their content, the least recently used go first.

    Those that are `pinned` stay.
    """

    def __init__(self, folder: Path, max_bytes: int = MAX_BYTES) -> None:
        self.pinned: set[str] = set()
        self._folder = folder
        self._max_bytes = max_bytes
        self._adding = threading.Lock()
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)

    def missing(self, digests: Iterable[str]) -> list[str]:
        """Those that are not here; the others count as used now."""
        return [digest for digest in dict.fromkeys(digests) if not self._touch(digest)]

    def put(self, digest: str, data: bytes | bytearray | memoryview) -> None:
        """Keep a file. Raises `ValueError` if its content is another."""
        if hashlib.sha256(data).hexdigest() != digest:
            raise ValueError(f"the content of {digest[:12]} is another one; upload it again")
        place = self._place(digest)
        place.parent.mkdir(exist_ok=True, mode=0o700)
        part = place.with_suffix(f".{secrets.token_hex(4)}")
        with open(part, "wb") as stream:  # noqa: PTH123
            stream.write(data)
        part.replace(place)

    def add(self, digest: str, offset: int, size: int, data: bytes) -> int:
        """Keep a part of a file of that size; how much of it is here now, from its start.

        A part that begins elsewhere is dropped: its sender goes on from where this says. Raises
        `ValueError` where the whole is another file than its digest says.
        """
        if not 0 <= offset <= size:
            raise ValueError(f"a part at {offset} is none of a file of {size} bytes")
        place = self._place(digest)
        if self._touch(digest):
            return size
        place.parent.mkdir(exist_ok=True, mode=0o700)
        part = place.with_suffix(".part")
        with self._adding:
            there = part.stat().st_size if part.exists() else 0
            if offset == there and there + len(data) <= size:
                with part.open("ab") as stream:
                    stream.write(data)
                there += len(data)
            if there == size:
                self._complete(part, place, digest)
        return there

    def _complete(self, part: Path, place: Path, digest: str) -> None:
        found = hashlib.sha256()
        with part.open("rb") as stream:
            while piece := stream.read(1 << 20):
                found.update(piece)
        if found.hexdigest() != digest:
            part.unlink()
            raise ValueError(f"the content of {digest[:12]} is another one; upload it again")
        part.replace(place)

    def copy(self, digest: str, target: Path) -> None:
        """Write the file; raises `FileNotFoundError` if it is not here."""
        shutil.copyfile(self._place(digest), target)

    def sweep(self) -> None:
        """Remove the least recently used until the rest is within the bound."""
        found = sorted(
            ((state.st_mtime, state.st_size, path) for path, state in self._all()), reverse=True
        )
        kept = 0
        for _, size, path in found:
            kept += size
            if kept > self._max_bytes and f"{path.parent.name}{path.name}" not in self.pinned:
                path.unlink(missing_ok=True)

    def _all(self) -> Iterable[tuple[Path, os.stat_result]]:
        for path in self._folder.glob("??/*"):
            try:
                yield path, path.stat()
            except OSError:  # swept by another
                continue

    def _touch(self, digest: str) -> bool:
        try:
            os.utime(self._place(digest))
        except OSError:
            return False
        return True

    def _place(self, digest: str) -> Path:
        if not _DIGEST.fullmatch(digest):
            raise ValueError(f"{digest!r:.80} is no SHA-256")
        return self._folder / digest[:2] / digest[2:]
