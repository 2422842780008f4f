"""FlashApp: an app at a server, its environments, and the builds that were uploaded for it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runpod_flash.client.hosted_operations import ask, send
from runpod_flash.errors import (
    ConfigurationError,
    FlashAppNotFoundError,
    FlashEnvironmentNotFoundError,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    Fields = dict[str, Any]
    Listed = list[Fields]  # (the class has a method of that name)

_GZIP = b"\x1f\x8b"
_MAX_BYTES = 1_500_000_000
_MANIFEST = Path(".flash", "flash_manifest.json")
_BUILD = "id objectKey createdAt"
_ENVIRONMENT = "id name state activeBuildId createdAt endpoints{id name} networkVolumes{id name}"
_APP = f"id name flashEnvironments{{{_ENVIRONMENT}}} flashBuilds{{{_BUILD}}}"


class FlashApp:
    """Apps, environments and builds on a server, which the target chooses.

    Making one asks nothing; each method of it has the app made first where it is not there.
    Raises `FlashAppError` with the server's words where it refuses, and `NotAvailableError` where
    no server is chosen.
    """

    def __init__(self, name: str, id: str = "", eager_hydrate: bool = False) -> None:
        self.name = name
        self.id = id
        self.resources: Fields = {}
        if eager_hydrate:
            import asyncio

            asyncio.run(self._made())

    # Apps

    @classmethod
    async def from_name(cls, app_name: str) -> FlashApp:
        """The app of that name; raises `FlashAppNotFoundError` where there is none."""
        found = await ask("flashAppByName", "id name", flashAppName=app_name)
        return cls(found["name"], found["id"])

    @classmethod
    async def create(cls, app_name: str) -> FlashApp:
        """A new app."""
        made = await ask("createFlashApp", "id name", input={"name": app_name})
        return cls(made["name"], made["id"])

    @classmethod
    async def get_or_create(cls, app_name: str) -> FlashApp:
        """The app of that name, made if there is none."""
        try:
            return await cls.from_name(app_name)
        except FlashAppNotFoundError:
            return await cls.create(app_name)

    @classmethod
    async def create_environment_and_app(
        cls, app_name: str, environment_name: str
    ) -> tuple[FlashApp, Fields]:
        """The app, made if there is none, and a new environment of it."""
        app = await cls.get_or_create(app_name)
        return app, await app.create_environment(environment_name)

    @classmethod
    async def list(cls) -> Listed:
        """All apps: `id`, `name`, `flashEnvironments`, `flashBuilds`."""
        found = await ask("myself", f"flashApps {{ {_APP} }}")
        return [dict(each) for each in found["flashApps"]]

    @classmethod
    async def delete(cls, app_name: str | None = None, app_id: str | None = None) -> bool:
        """End an app with all that it has; give its name or its id."""
        if bool(app_name) == bool(app_id):
            raise ConfigurationError("FlashApp.delete() takes app_name= or app_id=, one of them")
        found = app_id or (await cls.from_name(str(app_name))).id
        await ask("deleteFlashApp", flashAppId=found)
        return True

    # Environments

    async def create_environment(self, environment_name: str) -> Fields:
        """A new environment: `id` and `name`."""
        given = {"flashAppId": await self._made(), "name": environment_name}
        return dict(await ask("createFlashEnvironment", "id name", input=given))

    async def delete_environment(self, environment_name: str) -> bool:
        """End an environment with all that it has."""
        found = await self.get_environment_by_name(environment_name)
        await ask("deleteFlashEnvironment", flashEnvironmentId=found["id"])
        return True

    async def get_environment_by_name(self, environment_name: str) -> Fields:
        """An environment: what it serves, and of which build.

        Raises `FlashEnvironmentNotFoundError` where there is none.
        """
        given = {"flashAppId": await self._made(), "name": environment_name}
        found = await ask("flashEnvironmentByName", _ENVIRONMENT, input=given)
        if found is None:
            raise FlashEnvironmentNotFoundError(
                f"{self.name} has no environment {environment_name!r}; list_environments() has all"
            )
        return dict(found)

    async def list_environments(self) -> Listed:
        """All environments of the app."""
        return await self._listed("flashEnvironments", _ENVIRONMENT)

    # Builds

    async def list_builds(self) -> Listed:
        """The builds that were uploaded, the newest first."""
        return await self._listed("flashBuilds", _BUILD)

    async def upload_build(self, tar_path: str | Path) -> Fields:
        """A new build: `id` and `manifest`, which is read from .flash/flash_manifest.json.

        Raises `ValueError` for what is no .tar.gz of at most 1500 MB, and `FileNotFoundError`.
        """
        archive = Path(tar_path)
        size = _checked(archive)
        if not _MANIFEST.is_file():
            raise FileNotFoundError(f"{_MANIFEST} is not here; build the project first")
        manifest = json.loads(_MANIFEST.read_text(encoding="utf-8"))
        app = await self._made()
        given = {"flashAppId": app, "tarballSize": size}
        place = await ask("prepareFlashArtifactUpload", "uploadUrl objectKey", input=given)
        await send(place["uploadUrl"], archive)
        given = {"flashAppId": app, "objectKey": place["objectKey"], "manifest": manifest}
        return dict(await ask("finalizeFlashArtifactUpload", "id manifest", input=given))

    async def deploy_build_to_environment(
        self, build_id: str, environment_id: str = "", environment_name: str = ""
    ) -> Fields:
        """Serve a build; give the environment's id or its name. Returns when it is served."""
        if bool(environment_id) == bool(environment_name):
            raise ConfigurationError(
                "deploy_build_to_environment() takes environment_id= or environment_name=, one of "
                "them"
            )
        if environment_name:
            environment_id = (await self.get_environment_by_name(environment_name))["id"]
        given = {"flashEnvironmentId": environment_id, "flashBuildId": build_id}
        return dict(await ask("deployBuildToEnvironment", "id name", input=given))

    async def get_build_manifest(self, build_id: str) -> Fields:
        """What a build says of itself."""
        return dict((await ask("flashBuild", "id manifest", flashBuildId=build_id))["manifest"])

    async def update_build_manifest(self, build_id: str, manifest: Fields) -> None:
        """Have a build say something else of itself."""
        given = {"flashBuildId": build_id, "manifest": manifest}
        await ask("updateFlashBuildManifest", "id", input=given)

    def remote(self, *args: Any, **options: Any) -> Callable[..., Any]:
        """The deprecated decorator: `runpod_flash.remote`."""
        from runpod_flash.legacy import remote

        return remote(*args, **options)

    async def _listed(self, what: str, selection: str) -> Listed:
        found = await ask("flashApp", f"{what} {{ {selection} }}", flashAppId=await self._made())
        return [dict(each) for each in found[what]]

    async def _made(self) -> str:
        """The app's id; the app is there then."""
        if not self.id:
            self.id = (await self.get_or_create(self.name)).id
        return self.id


def _checked(archive: Path) -> int:
    """The size of an archive that may be uploaded."""
    if not archive.is_file():
        raise FileNotFoundError(f"{archive} is no file; build the project first")
    if not archive.name.endswith((".tar.gz", ".tgz")):
        raise ConfigurationError(f"{archive}: a build is a .tar.gz or .tgz")
    with archive.open("rb") as stream:
        if stream.read(2) != _GZIP:
            raise ConfigurationError(f"{archive} is not compressed by gzip")
    size = archive.stat().st_size
    if size > _MAX_BYTES:
        raise ConfigurationError(f"{archive} has {size / 1e6:.0f} MB; up to 1500 MB may travel")
    return size
