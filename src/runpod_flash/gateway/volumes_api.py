"""/v2/network-volumes: the volumes of a server, as RunPod's REST API v2 has them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from runpod_flash.control.volumes.registry import VolumeExistsError
from runpod_flash.errors import ConfigurationError
from runpod_flash.gateway.access import require
from runpod_flash.gateway.bodies import Body
from runpod_flash.gateway.kept import Kept
from runpod_flash.gateway.problems import invalid, problem
from runpod_flash.gateway.session_ids import is_session_id
from runpod_flash.gateway.times import rfc3339
from runpod_flash.gateway.volume_files_api import VolumeFilesApi
from runpod_flash.suggest import did_you_mean
from runpod_flash.volume import MAX_SIZE_GB, MIN_SIZE_GB, NetworkVolume

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from runpod_flash.control.volumes.registry import Volume, Volumes
    from runpod_flash.gateway.messages import Receive, Scope, Sendable
    from runpod_flash.plane.plane import Plane

# What the hosted service has two of, and a directory is.
_TYPE = "STANDARD"
_SIZE = {"type": "integer", "minimum": MIN_SIZE_GB, "maximum": MAX_SIZE_GB}
_NAME = {"type": "string", "minLength": 1}

VOLUME_CREATED = Body(
    {
        "name": _NAME,
        "size": _SIZE,
        "dataCenter": {"type": "string"},
        "type": {"type": "string", "enum": [_TYPE]},
    },
    ["name", "size", "dataCenter"],
)
VOLUME_UPDATED = Body({"name": _NAME, "size": _SIZE})


class VolumesApi(Kept["Volume"]):
    """A volume belongs to the server: endpoints of all apps may name it."""

    plural = "networkVolumes"

    def __init__(self, volumes: Volumes, plane: Plane) -> None:
        self._volumes = volumes
        self._plane = plane
        self._files = VolumeFilesApi(volumes)

    async def answer(self, rest: Sequence[str], scope: Scope, receive: Receive) -> Sendable:
        if len(rest) < 2:
            return await super().answer(rest, scope, receive)
        require(scope, self.right)
        return await self._files.answer(await self.find(rest[0]), rest[1:], scope, receive)

    async def all(self) -> Volumes:
        return self._volumes

    async def find(self, resource_id: str) -> Volume:
        found = self._volumes.get(resource_id)
        if found is None:
            hint = did_you_mean(resource_id, [each.id for each in self._volumes])
            raise problem(
                404,
                f"there is no volume {resource_id!r}; GET /v2/network-volumes lists them.{hint}",
            )
        return found

    def shown(self, found: Volume, scope: Scope) -> dict[str, Any]:
        return _shown(found)

    async def create(self, scope: Scope, receive: Receive) -> dict[str, Any]:
        fields = await VOLUME_CREATED.read(scope, receive)
        declared = _checked(fields["name"], fields["size"], fields["dataCenter"])
        try:
            made = await self._volumes.create(
                fields["name"], declared.size, declared.dataCenterId.value
            )
        except VolumeExistsError as error:
            raise problem(409, str(error)) from None
        return _shown(made)

    async def update(self, found: Volume, scope: Scope, receive: Receive) -> Volume:
        fields = await VOLUME_UPDATED.read(scope, receive)
        if not fields:
            raise invalid("$: name or size is needed")
        name, size = fields.get("name", found.name), fields.get("size", found.size)
        _checked(name, size, found.datacenter)
        if size < found.size:
            raise problem(400, f"a volume's size only grows: it is {found.size} GB")
        if name != found.name:
            users = [text for text, by_name in self._users(found) if by_name]
            if users:
                raise _in_use(found, users, f"they name it {found.name!r}: deploy them with id=")
        try:
            return await self._volumes.update(found, name, size)
        except VolumeExistsError as error:
            raise problem(409, str(error)) from None

    async def remove(self, found: Volume, scope: Scope) -> None:
        users = [text for text, _ in self._users(found)]
        if users:
            raise _in_use(found, users, "undeploy them, or deploy them without it, first")
        await self._volumes.remove(found)

    def _users(self, volume: Volume) -> Iterator[tuple[str, bool]]:
        """The endpoints that have it, and whether by its name."""
        for pool in self._plane.pools():
            for mount in pool.spec.placement.volumes:
                if self._volumes.named(mount) == volume:
                    app = pool.spec.app
                    of = "a program that runs" if is_session_id(app) else app
                    yield f"{pool.spec.name} ({of})", not mount.id


def _checked(name: Any, size: Any, datacenter: Any) -> NetworkVolume:
    """As a program would declare it."""
    try:
        return NetworkVolume(name=name, size=size, dataCenterId=datacenter)
    except ConfigurationError as error:
        raise invalid(f"$: {error}") from None


def _in_use(volume: Volume, users: Sequence[str], remedy: str) -> Exception:
    names = ", ".join(sorted(set(users)))
    return problem(409, f"endpoints use the volume {volume.name!r}: {names}; {remedy}")


def _shown(volume: Volume) -> dict[str, Any]:
    return {
        "id": volume.id,
        "name": volume.name,
        "size": volume.size,
        "dataCenter": volume.datacenter,
        "type": _TYPE,
        "createdAt": rfc3339(volume.created_at),
    }
