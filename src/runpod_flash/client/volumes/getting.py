"""Files of a server's volume to this machine; `gateway/volume_files_api.py` is the other end."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Any

from runpod_flash.client.volumes.transfer import ANSWER_SECONDS, PIECE, Transfer, sha256_of
from runpod_flash.control.volumes.beneath import PathError, parts_of
from runpod_flash.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    import httpx

    from runpod_flash.client.control import ControlClient
    from runpod_flash.client.volumes.transfer import Report

_WANT_DIGEST = {"want-repr-digest": "sha-256=10", "accept-encoding": "identity"}


def listed(
    control: ControlClient, volume_id: str, path: str, *, deep: bool
) -> Iterator[dict[str, Any]]:
    """What is in a folder of a volume, as the server lists it, with paths from there."""
    cursor = ""
    with control.connected(ANSWER_SECONDS) as client:
        while True:
            asked = {"path": path, "deep": "true" if deep else "false", "cursor": cursor}
            url = f"{control.origin}/v2/network-volumes/{volume_id}/files"
            told = control.read(client.get(url, params=asked))
            yield from told["files"]
            if not told["pagination"]["hasNextPage"]:
                return
            cursor = told["pagination"]["nextCursor"]


def get(
    control: ControlClient,
    volume_id: str,
    path: str,
    target: Path,
    sending: Callable[[int, int], None],
) -> Report:
    """Have a file or a folder of the volume at `target`; only what differs there travels.

    One file comes into `target`, where that is a folder. Raises as `put` does. What is no file, or
    a link that leads out of the volume, is skipped.
    """
    with control.connected(ANSWER_SECONDS) as client:
        alone = _alone(control, client, volume_id, path)
        found = list(listed(control, volume_id, path, deep=True)) if alone is None else [alone]
        files = [each for each in found if each["type"] in ("file", "link")]
        skipped = [each["path"] for each in found if each["type"] == "other"]
        size = sum(each["size"] for each in files)
        if alone is None:
            target.mkdir(parents=True, exist_ok=True)
        elif target.is_dir():
            target /= path.rpartition("/")[2]
        with Transfer(control, client, volume_id, size, sending) as transfer:
            getting = _Getting(transfer, path, target, skipped)
            for each in found:
                if each["type"] == "folder" and getting.may(each["path"]):
                    (target / each["path"]).mkdir(parents=True, exist_ok=True)
            for each in files:
                transfer.spawn(lambda each=each: getting.one(each))  # type: ignore[misc]
            transfer.finish()
            return transfer.report(getting.count, skipped)


def _alone(
    control: ControlClient, client: httpx.Client, volume_id: str, path: str
) -> dict[str, Any] | None:
    """What a listing would say of a file; None for a folder, which the server has no file for."""
    if not path:
        return None
    from urllib.parse import quote

    url = f"{control.origin}/v2/network-volumes/{volume_id}/files/{quote(path)}"
    told = client.head(url, headers={"accept-encoding": "identity"})
    if not told.is_success:
        return None
    size = int(told.headers["content-length"])
    return {"path": "", "type": "file", "size": size, "executable": False}


class _Getting:
    """Files below `path` of the volume to the folder `target`, or one file to the file `target`."""

    def __init__(self, transfer: Transfer, path: str, target: Path, skipped: list[str]) -> None:
        self._transfer = transfer
        self._path = path
        self._target = target
        self._skipped = skipped
        self.count = 0

    def may(self, place: str) -> bool:
        """Whether it is a place below the target, whatever the server says."""
        try:
            parts_of(place)
        except PathError:
            self._skipped.append(place)
            return False
        return True

    def one(self, each: dict[str, Any]) -> None:
        """Have one file there."""
        place = each["path"]
        if not self.may(place):
            return
        there = "/".join(part for part in (self._path, place) if part)
        target = self._target / place if place else self._target
        told = self._transfer.head(there, _WANT_DIGEST)
        if told.status_code in (400, 404, 409):
            self._skipped.append(place)
            return
        if not told.is_success:
            raise ConfigurationError(f"{there} cannot be read: HTTP status {told.status_code}")
        size, digest = int(told.headers["content-length"]), _digest(told)
        if not _same(target, size, digest):
            part = target.with_name(f".{target.name}.{digest[:16]}.part")
            before = part.stat().st_size if part.exists() else 0
            self._transfer.patiently(lambda: self._fetch(there, part, told.headers["etag"], size))
            if sha256_of(part) != digest:
                part.unlink()
                raise ConfigurationError(f"{there} was changed while it came; get it again")
            part.chmod(part.stat().st_mode | (0o111 if each["executable"] else 0))
            part.replace(target)
            self._transfer.moved()
            self._transfer.there(size - before, travelled=True)
            size = before
        self._transfer.there(size)
        self.count += 1

    def _fetch(self, there: str, part: Path, tag: str, size: int) -> None:
        """Have the file's content in `part`, going on with what is there of it."""
        part.parent.mkdir(parents=True, exist_ok=True)
        with part.open("ab") as written:
            start = written.tell()
            if start >= size and size:
                return
            headers = {**_WANT_DIGEST, "range": f"bytes={start}-", "if-range": tag}
            with self._transfer.stream(there, headers if start else _WANT_DIGEST) as told:
                if not told.is_success:
                    told.read()
                    self._transfer.read(told)
                if start and told.status_code != 206:
                    written.truncate(0)
                for piece in told.iter_raw(PIECE):
                    written.write(piece)


def _digest(told: httpx.Response) -> str:
    coded = told.headers["repr-digest"].removeprefix("sha-256=:").removesuffix(":")
    return base64.b64decode(coded).hex()


def _same(target: Path, size: int, digest: str) -> bool:
    return target.is_file() and target.stat().st_size == size and sha256_of(target) == digest
