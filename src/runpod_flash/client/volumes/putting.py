"""Files of this machine to a volume of a server; `gateway/volume_files_api.py` is the other end.

A file up to 16 MiB goes in one request. A larger one goes in parts, which the server keeps: who
tries again after a crash sends those that it lacks.
"""

from __future__ import annotations

import base64
import os
import threading
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import quote

from runpod_flash.client.volumes.transfer import ANSWER_SECONDS, Transfer, sha256_of
from runpod_flash.control.volumes.beneath import PathError, parts_of
from runpod_flash.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from runpod_flash.client.control import ControlClient
    from runpod_flash.client.volumes.transfer import Report

_SMALL_BYTES = 16 << 20
# So many small files are asked about at a time.
_BATCH_FILES = 64
_BATCH_BYTES = 64 << 20


class LocalFile(NamedTuple):
    """A file of this machine, and its place in the volume; size in bytes."""

    source: Path
    place: str
    size: int
    executable: bool


def local_files(source: Path, target: str) -> tuple[list[LocalFile], list[str]]:
    """A file, or all that is in a folder, with places at `target`; and the links and others that
    are no files. Links to files stand for what they lead to.

    Raises `ConfigurationError` for what is not there, and for names that no volume takes.
    """
    if not source.exists():
        raise ConfigurationError(f"there is no {source}; name a file or a folder")
    if source.is_file():
        return [_local(source, target or source.name)], []
    files, skipped = [], []
    for folder, folders, names in os.walk(source):
        below = Path(folder).relative_to(source)
        folders.sort()
        skipped += [str(below / name) for name in folders if Path(folder, name).is_symlink()]
        for name in sorted(names):
            if Path(folder, name).is_file():
                place = (below / name).as_posix()
                files.append(_local(Path(folder, name), f"{target}/{place}" if target else place))
            else:
                skipped.append(str(below / name))
    return files, skipped


def _local(source: Path, place: str) -> LocalFile:
    try:
        parts_of(place)
    except PathError as error:
        raise ConfigurationError(f"{source}: {error}") from None
    found = source.stat()
    return LocalFile(source, place, found.st_size, bool(found.st_mode & 0o100))


def put(
    control: ControlClient,
    volume_id: str,
    files: Sequence[LocalFile],
    sending: Callable[[int, int], None],
) -> Report:
    """Have all of them in the volume; only what differs there travels.

    `sending` is told how many bytes of how many are there. Raises `ConnectionClosedError` where
    the server is away for long, and `ConfigurationError` where it refuses.
    """
    size = sum(each.size for each in files)
    with (
        control.connected(ANSWER_SECONDS) as client,
        Transfer(control, client, volume_id, size, sending) as transfer,
    ):
        for batch in _batches(each for each in files if each.size <= _SMALL_BYTES):
            transfer.spawn(lambda batch=batch: _put_small(transfer, batch))  # type: ignore[misc]
        large = [each for each in files if each.size > _SMALL_BYTES]
        while large:
            large = _put_large(transfer, large)
            transfer.finish()
        transfer.finish()
        return transfer.report(len(files))


def _batches(files: Iterable[LocalFile]) -> Iterator[list[LocalFile]]:
    batch: list[LocalFile] = []
    size = 0
    for each in files:
        if batch and (len(batch) == _BATCH_FILES or size + each.size > _BATCH_BYTES):
            yield batch
            batch, size = [], 0
        batch.append(each)
        size += each.size
    if batch:
        yield batch


def _missing(transfer: Transfer, files: Sequence[tuple[LocalFile, str]]) -> set[str]:
    """The places of those that are not there as they are here."""
    asked = [{"path": f.place, "size": f.size, "sha256": digest} for f, digest in files]
    return set(transfer.ask("POST", "missing", json={"files": asked})["missing"])


@contextmanager
def _about(file: LocalFile) -> Iterator[None]:
    """Say which file the server has refused."""
    try:
        yield
    except ConfigurationError as error:
        raise ConfigurationError(f"{file.place}: {error}") from None


def _put_small(transfer: Transfer, files: Sequence[LocalFile]) -> None:
    known = [(each, sha256_of(each.source)) for each in files]
    missing = _missing(transfer, known)
    for file, digest in known:
        if file.place not in missing:
            transfer.there(file.size)
        else:
            coded = base64.b64encode(bytes.fromhex(digest)).decode()
            runs = {"executable": "true"} if file.executable else {}
            with _about(file):
                transfer.ask(
                    "PUT",
                    f"files/{quote(file.place)}",
                    content=file.source.read_bytes(),
                    params=runs,
                    headers={"content-digest": f"sha-256=:{coded}:"},
                )
            transfer.moved()
            transfer.there(file.size, travelled=True)


def _put_large(transfer: Transfer, files: Sequence[LocalFile]) -> list[LocalFile]:
    """Spawn their parts. Gives those that have to wait: an upload is known by its content, and one
    of the same is on its way."""
    begun: set[str] = set()
    later = []
    for file in files:
        digest = sha256_of(file.source)
        if digest in begun:
            later.append(file)
        elif _missing(transfer, [(file, digest)]):
            begun.add(digest)
            _Upload(transfer, file, digest).begin()
        else:
            transfer.there(file.size)
    return later


class _Upload:
    """A file that goes in parts; the thread that sends the last one has it moved to its place."""

    def __init__(self, transfer: Transfer, file: LocalFile, digest: str) -> None:
        self._transfer = transfer
        self._file = file
        self._digest = digest
        self._lock = threading.Lock()
        self._left = 0
        self._part_bytes = 0

    def begin(self) -> None:
        asked = {"sha256": self._digest, "size": self._file.size}
        told = self._transfer.ask("POST", "uploads", json=asked)
        self._part_bytes, missing = int(told["partBytes"]), [int(n) for n in told["missing"]]
        self._left = len(missing)
        self._transfer.there(self._file.size - sum(map(self._size, missing)))
        for number in missing:
            self._transfer.spawn(lambda number=number: self._send(number))  # type: ignore[misc]
        if not missing:
            self._transfer.spawn(self._commit)

    def _size(self, number: int) -> int:
        return min(self._part_bytes, self._file.size - number * self._part_bytes)

    def _send(self, number: int) -> None:
        with self._file.source.open("rb") as stream:
            stream.seek(number * self._part_bytes)
            data = stream.read(self._size(number))
        self._transfer.ask("PUT", f"uploads/{self._digest}/{number}", content=data)
        self._transfer.there(len(data), travelled=True)
        with self._lock:
            self._left -= 1
            last = not self._left
        if last:
            self._commit()

    def _commit(self) -> None:
        asked = {"path": self._file.place, "executable": self._file.executable}
        try:
            self._transfer.ask("POST", f"uploads/{self._digest}/commit", json=asked)
        except ConfigurationError:
            # (It was asked before, and the answer was lost.)
            if _missing(self._transfer, [(self._file, self._digest)]):
                with _about(self._file):
                    raise
        self._transfer.moved()
