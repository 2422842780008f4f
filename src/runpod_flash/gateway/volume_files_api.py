"""/v2/network-volumes/ID/...: the files of a volume.

GET    files                a list; ?path=FOLDER, ?deep=true, ?cursor=
GET    files/PATH           the file; Range and If-Range continue one, Want-Repr-Digest verifies it
PUT    files/PATH           a file in one piece, whatever its size
DELETE files/PATH           a file, or a folder with all that is in it
POST   missing              which files are not there as their client has them
POST   uploads              take up a file that comes in parts, by its SHA-256
PUT    uploads/SHA256/N     a part
POST   uploads/SHA256/commit   all parts are there: to its place
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import re
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

from runpod_flash.control.volumes.beneath import PathError
from runpod_flash.control.volumes.files import (
    PART_BYTES,
    ChangedError,
    NoRoomError,
    NoUploadError,
    VolumeFiles,
    Wanted,
    delete,
)
from runpod_flash.gateway.bodies import Body, closed, listed
from runpod_flash.gateway.file_download import FileDownload
from runpod_flash.gateway.messages import (
    Answer,
    answer,
    body_pieces,
    header,
    query,
)
from runpod_flash.gateway.problems import problem
from runpod_flash.gateway.resources import allow
from runpod_flash.gateway.times import rfc3339
from runpod_flash.volume import MAX_SIZE_GB

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from runpod_flash.control.volumes.beneath import Found
    from runpod_flash.control.volumes.files import Incoming
    from runpod_flash.control.volumes.registry import Volume, Volumes
    from runpod_flash.gateway.bodies import Schema
    from runpod_flash.gateway.messages import Receive, Scope, Sendable

T = TypeVar("T")

_LISTED = 1000
_WRITTEN = 1 << 20
_MAX_BYTES = MAX_SIZE_GB * 1_000_000_000
# Disks are slow and hashing takes long: neither may hold up the threads of the rest.
_THREADS = 4
_PATH = {"type": "string", "minLength": 1}
_SIZE = {"type": "integer", "minimum": 0, "maximum": _MAX_BYTES}
_SHA256 = {"type": "string", "pattern": "^[0-9a-f]{64}$"}
_FILE: dict[str, Schema] = {"path": _PATH, "size": _SIZE, "sha256": _SHA256}

FILES_ASKED = Body({"files": listed(closed(_FILE, list(_FILE)), maxItems=1000)}, ["files"])
UPLOAD_BEGUN = Body({"sha256": _SHA256, "size": _SIZE}, ["sha256", "size"])
UPLOAD_COMMITTED = Body({"path": _PATH, "executable": {"type": "boolean"}}, ["path"])

_DIGEST = re.compile(r"sha-256=:([A-Za-z0-9+/=]{44}):")


class VolumeFilesApi:
    """Used by `VolumesApi`, which has asked for the key."""

    def __init__(self, volumes: Volumes) -> None:
        self._volumes = volumes
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="flash-volume")

    async def answer(
        self, volume: Volume, rest: Sequence[str], scope: Scope, receive: Receive
    ) -> Sendable:
        files = VolumeFiles(self._volumes.files(volume), self._volumes.uploads(volume))
        with _problems():
            match rest:
                case ["files"]:
                    allow(scope, "GET")
                    return await self._list(files, scope)
                case ["files", *parts]:
                    allow(scope, "GET", "HEAD", "PUT", "DELETE")
                    return await self._file(files, "/".join(parts), scope, receive)
                case ["missing"]:
                    allow(scope, "POST")
                    return await self._missing(files, scope, receive)
                case ["uploads"]:
                    allow(scope, "POST")
                    return await self._begin(files, scope, receive)
                case ["uploads", sha256, "commit"]:
                    allow(scope, "POST")
                    return await self._commit(files, sha256, scope, receive)
                case ["uploads", sha256, number] if number.isascii() and number.isdigit():
                    allow(scope, "PUT")
                    return await self._part(files, sha256, int(number), scope, receive)
        raise problem(404, f"nothing is at {scope['path']}; files are at .../files/PATH")

    # Files

    async def _list(self, files: VolumeFiles, scope: Scope) -> Answer:
        asked = query(scope)
        deep = asked.get("deep", "false") == "true"
        found, more = await self._in_thread(
            lambda: files.found(
                asked.get("path", ""), deep=deep, after=asked.get("cursor", ""), limit=_LISTED
            )
        )
        pagination: dict[str, Any] = {"hasNextPage": more}
        if more:
            pagination["nextCursor"] = found[-1].path
        return answer(200, {"files": [_shown(each) for each in found], "pagination": pagination})

    async def _file(
        self, files: VolumeFiles, path: str, scope: Scope, receive: Receive
    ) -> Sendable:
        match scope["method"]:
            case "PUT":
                return await self._put(files, path, scope, receive)
            case "DELETE":
                away = await self._in_thread(lambda: files.remove(path))
                self._threads.submit(delete, away)
                return Answer(204, b"")
        file = await self._in_thread(lambda: files.open(path))
        digest = None
        if "sha-256" in (header(scope, b"want-repr-digest") or ""):
            digest = await self._in_thread(lambda: files.digest(file))
        return FileDownload(file, scope, receive, self._in_thread, digest)

    async def _put(self, files: VolumeFiles, path: str, scope: Scope, receive: Receive) -> Answer:
        announced = header(scope, b"content-length")
        size = int(announced) if announced is not None and announced.isdigit() else None
        sha256 = _announced_digest(scope)
        with files.coming(size) as incoming:
            await self._receive(incoming, scope, receive)
            executable = query(scope).get("executable") == "true"
            digest = await self._in_thread(
                lambda: files.keep(incoming, path, sha256, executable=executable)
            )
            return answer(201, {"path": path, "size": incoming.written, "sha256": digest})

    async def _missing(self, files: VolumeFiles, scope: Scope, receive: Receive) -> Answer:
        fields = await FILES_ASKED.read(scope, receive)
        wanted = [Wanted(each["path"], each["size"], each["sha256"]) for each in fields["files"]]
        return answer(200, {"missing": await self._in_thread(lambda: files.missing(wanted))})

    # In parts

    async def _begin(self, files: VolumeFiles, scope: Scope, receive: Receive) -> Answer:
        fields = await UPLOAD_BEGUN.read(scope, receive)
        sha256, size = fields["sha256"], fields["size"]
        missing = await self._in_thread(lambda: files.begin(sha256, size))
        return answer(200, {"sha256": sha256, "partBytes": PART_BYTES, "missing": missing})

    async def _part(
        self, files: VolumeFiles, sha256: str, number: int, scope: Scope, receive: Receive
    ) -> Answer:
        incoming = files.coming_part(sha256, number)
        try:
            await self._receive(incoming, scope, receive)
        except NoRoomError:
            files.drop(sha256)
            raise
        finally:
            incoming.close()
        if incoming.written != incoming.limit:
            raise problem(400, f"part {number} has {incoming.limit} bytes, not {incoming.written}")
        files.came(sha256, number)
        return Answer(204, b"")

    async def _commit(
        self, files: VolumeFiles, sha256: str, scope: Scope, receive: Receive
    ) -> Answer:
        fields = await UPLOAD_COMMITTED.read(scope, receive)
        path, executable = fields["path"], fields.get("executable", False)
        await self._in_thread(lambda: files.commit(sha256, path, executable=executable))
        return answer(201, {"path": path, "sha256": sha256})

    # Bytes

    async def _receive(self, incoming: Incoming, scope: Scope, receive: Receive) -> None:
        """Write the body as it comes."""
        limit = _MAX_BYTES if incoming.limit is None else incoming.limit
        pieces: list[bytes] = []
        size = 0
        async for piece in body_pieces(scope, receive, limit, "send it in parts"):
            pieces.append(piece)
            size += len(piece)
            if size >= _WRITTEN:
                taken, pieces, size = pieces, [], 0
                await self._write(incoming, taken)
        await self._write(incoming, pieces)

    async def _write(self, incoming: Incoming, pieces: Sequence[bytes]) -> None:
        await self._in_thread(lambda: incoming.write(pieces))

    async def _in_thread(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, work)


@contextmanager
def _problems() -> Iterator[None]:
    """What the disk or a path refuses, as answers."""
    try:
        yield
    except NoRoomError as error:
        raise problem(507, str(error.strerror)) from None
    except PathError as error:
        raise problem(400, str(error)) from None
    except ChangedError as error:
        raise problem(409, str(error)) from None
    except NoUploadError as error:
        raise problem(404, str(error)) from None
    except FileNotFoundError:
        raise problem(404, "there is no such file in the volume") from None
    except IsADirectoryError:
        raise problem(409, "a folder is there; remove it first, or name another place") from None
    except NotADirectoryError:
        raise problem(409, "a part of the path is no folder there") from None
    except ConnectionError:
        raise
    except OSError as error:
        raise problem(409, f"the volume does not allow it: {error.strerror}") from None


def _announced_digest(scope: Scope) -> str | None:
    """The SHA-256 of a body, where its client has said it (RFC 9530)."""
    given = header(scope, b"content-digest")
    if given is None:
        return None
    found = _DIGEST.search(given)
    try:
        return base64.b64decode(found[1], validate=True).hex() if found else None
    except binascii.Error:
        raise problem(400, "Content-Digest has no SHA-256 in base64") from None


def _shown(found: Found) -> dict[str, Any]:
    return {
        "path": found.path,
        "type": found.kind,
        "size": found.size,
        "modifiedAt": rfc3339(found.modified_at),
        "executable": found.executable,
    }
