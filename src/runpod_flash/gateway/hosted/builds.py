"""Builds of the hosted SDK: an archive that is uploaded, and what is served of it."""

from __future__ import annotations

import asyncio
import secrets
import time
from dataclasses import dataclass
from hashlib import sha256
from typing import TYPE_CHECKING, Any

from runpod_flash.control.code_archives import read_code
from runpod_flash.control.releases import Content, as_read
from runpod_flash.control.trees import StoredFile, check_paths
from runpod_flash.errors import ConfigurationError
from runpod_flash.gateway.messages import Answer, Refusal, body_pieces

if TYPE_CHECKING:
    from pathlib import Path

    from runpod_flash.control.blobs import Blobs
    from runpod_flash.control.releases import AppEnv, Variables
    from runpod_flash.control.shelf import Kept, Shelf
    from runpod_flash.gateway.hosted.reading import DeclarationReader
    from runpod_flash.gateway.messages import Receive, Scope

PREFIX = "/graphql/uploads/"
MAX_ARCHIVE_BYTES = 1_500_000_000
_UPLOAD_SECONDS = 3600.0
_EXPIRED = "this upload has expired, or is not known; deploy again"
# What the hosted SDK adds for workers of its own.
_PLATFORM = ("FLASH_", "RUNPOD_", "_FLASH_")


@dataclass
class Upload:
    """An archive that is expected: its token is all that its sender has to show."""

    key: str
    size: int
    app: str
    expires_at: float


class Builds:
    """`folder` is where archives are put until they are read."""

    def __init__(self, folder: Path, blobs: Blobs, shelf: Shelf, reader: DeclarationReader) -> None:
        self._folder = folder
        self._blobs = blobs
        self._shelf = shelf
        self._reader = reader
        self._uploads: dict[str, Upload] = {}

    # Uploads

    def expect(self, app: str, size: int) -> tuple[str, Upload]:
        """A token for an archive of so many bytes."""
        if not 0 < size <= MAX_ARCHIVE_BYTES:
            limit = MAX_ARCHIVE_BYTES / 1e6
            raise ConfigurationError(f"an archive has up to {limit:.0f} MB, not {size / 1e6:.0f}")
        token, expires_at = secrets.token_urlsafe(32), time.time() + _UPLOAD_SECONDS
        upload = Upload(f"{app}/{secrets.token_hex(16)}.tar.gz", size, app, expires_at)
        self._uploads[token] = upload
        asyncio.get_running_loop().call_later(_UPLOAD_SECONDS, self._expire, token)
        return token, upload

    def _expire(self, token: str) -> None:
        """Remove an archive that no build was made of."""
        upload = self._uploads.pop(token, None)
        if upload is not None:
            place = self._place(upload.key)
            asyncio.get_running_loop().run_in_executor(None, place.unlink, True)

    async def receive(self, token: str, scope: Scope, receive: Receive) -> Answer:
        """Take an archive in; nobody but who has the token may send one."""
        upload = self._uploads.get(token)
        if upload is None:
            raise Refusal(403, _EXPIRED)
        if scope["method"] != "PUT":
            raise Refusal(405, "an archive is sent with PUT")
        place = self._place(upload.key)
        part = place.with_suffix(f".{secrets.token_hex(4)}")
        part.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        try:
            with part.open("wb") as stream:
                async for piece in body_pieces(
                    scope, receive, upload.size, "send what was announced"
                ):
                    await asyncio.to_thread(stream.write, piece)
            if part.stat().st_size != upload.size:
                raise Refusal(400, f"the archive has {upload.size} bytes; send it again")
            if token not in self._uploads:  # nobody would remove it any more
                raise Refusal(403, _EXPIRED)
            part.replace(place)
        finally:
            part.unlink(missing_ok=True)
        return Answer(200, b"")

    def _place(self, key: str) -> Path:
        return self._folder / f"{sha256(key.encode()).hexdigest()[:32]}.tar.gz"

    # Builds

    async def finish(self, app: str, key: str, manifest: Any) -> Kept:
        """An archive that has come, with what it says of itself, is a build."""
        if not any(each.key == key and each.app == app for each in self._uploads.values()):
            raise ConfigurationError(f"no archive was uploaded as {key!r:.80}; deploy again")
        place = self._place(key)
        if not place.exists():
            raise ConfigurationError("the archive was not uploaded; deploy again")
        self._uploads = {t: u for t, u in self._uploads.items() if u.key != key}
        files = await asyncio.to_thread(self._read, place)
        fields = {"app": app, "objectKey": key, "manifest": manifest, "files": files}
        return await self._shelf.put("build", fields)

    def _read(self, place: Path) -> list[StoredFile]:
        """Its files, as blobs; the archive is gone then."""
        try:
            found = []
            for file in read_code(place):
                digest = sha256(file.data).hexdigest()
                self._blobs.put(digest, file.data)
                found.append(StoredFile(file.path, digest, file.executable))
            check_paths(found)
            return found
        except ConfigurationError:
            raise
        except ValueError as error:
            raise ConfigurationError(f"the archive cannot be used: {error}") from None
        finally:
            place.unlink(missing_ok=True)

    async def get(self, build_id: str) -> Kept:
        kept = await self._shelf.get("build", build_id)
        if kept is None:
            raise ConfigurationError(f"build not found: {build_id!r:.80}")
        return kept

    async def of(self, app: str) -> list[Kept]:
        """Of an app, the newest first."""
        return [e for e in reversed(await self._shelf.all("build")) if e.fields["app"] == app]

    async def describe(self, build: Kept, manifest: Any) -> Kept:
        """Keep another manifest of it."""
        return await self._shelf.put("build", {**build.fields, "manifest": manifest}, build.id)

    async def serve(self, place: AppEnv, build: Kept) -> None:
        """Note that an environment serves this one from now on."""
        for each in await self.of(place.app):
            served = {**each.fields.get("served", {}), place.environment: each.id == build.id}
            if served != each.fields.get("served"):
                await self._shelf.put("build", {**each.fields, "served": served}, each.id)

    async def content(self, place: AppEnv, build: Kept) -> tuple[Content, Variables]:
        """What is served of it, as its code declares it: settings that its manifest lacks count."""
        resources = build.fields["manifest"].get("resources", {})
        generated = {"flash_manifest.json", *(f"handler_{name}.py" for name in resources)}
        files = [StoredFile(*e) for e in build.fields["files"] if e[0] not in generated]
        if self._blobs.missing(file.digest for file in files):
            raise ConfigurationError(f"the files of build {build.id} are gone; deploy again")
        given = {name: own_variables(each.get("env") or {}) for name, each in resources.items()}
        variables = {n: v for each in given.values() for n, v in each.items()}
        catalog = await self._reader.read(place, files, variables)
        found = {e.spec.name: {**e.env, **given.get(e.spec.name, {})} for e in catalog.endpoints}
        wire = catalog.to_wire()
        for each in wire["endpoints"]:
            each["env"] = dict.fromkeys(found[each["spec"]["name"]], "")
        return Content(files, as_read(wire)), found


def own_variables(env: dict[str, Any]) -> dict[str, str]:
    """Those that are the user's."""
    return {n: str(value) for n, value in env.items() if not n.startswith(_PLATFORM)}
