"""/v2/network-volumes: the volumes of a server, as RunPod's REST API v2 has them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from runpod_flash.control.volumes.registry import VolumeExistsError
from runpod_flash.errors import ConfigurationError
from runpod_flash.gateway.access import require
from runpod_flash.gateway.bodies import Body
from runpod_flash.gateway.messages import Answer, answer
from runpod_flash.gateway.problems import invalid, problem
from runpod_flash.gateway.resources import allow
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


class VolumesApi:
    """A `Resource`. A volume belongs to the server: endpoints of all apps may name it."""

    def __init__(self, volumes: Volumes, plane: Plane) -> None:
        self._volumes = volumes
        self._plane = plane
        self._files = VolumeFilesApi(volumes)

    async def answer(self, rest: Sequence[str], scope: Scope, receive: Receive) -> Sendable:
        require(scope, "deploy")
        if not rest or list(rest) == [""]:
            allow(scope, "GET", "POST")
            if scope["method"] == "GET":
                shown = [_shown(each) for each in self._volumes]
                return answer(200, {"networkVolumes": shown, "pagination": {"hasNextPage": False}})
            return await self._create(scope, receive)
        volume, more = self._volume(rest[0]), rest[1:]
        if more:
            return await self._files.answer(volume, more, scope, receive)
        allow(scope, "GET", "PATCH", "DELETE")
        match scope["method"]:
            case "GET":
                return answer(200, _shown(volume))
            case "PATCH":
                return await self._update(volume, scope, receive)
        return await self._remove(volume)

    def _volume(self, volume_id: str) -> Volume:
        found = self._volumes.get(volume_id)
        if found is None:
            hint = did_you_mean(volume_id, [each.id for each in self._volumes])
            raise problem(
                404, f"there is no volume {volume_id!r}; GET /v2/network-volumes lists them.{hint}"
            )
        return found

    async def _create(self, scope: Scope, receive: Receive) -> Answer:
        fields = await VOLUME_CREATED.read(scope, receive)
        declared = _checked(fields["name"], fields["size"], fields["dataCenter"])
        try:
            made = await self._volumes.create(
                fields["name"], declared.size, declared.dataCenterId.value
            )
        except VolumeExistsError as error:
            raise problem(409, str(error)) from None
        return answer(201, _shown(made))

    async def _update(self, volume: Volume, scope: Scope, receive: Receive) -> Answer:
        fields = await VOLUME_UPDATED.read(scope, receive)
        if not fields:
            raise invalid("$: name or size is needed")
        name, size = fields.get("name", volume.name), fields.get("size", volume.size)
        _checked(name, size, volume.datacenter)
        if size < volume.size:
            raise problem(400, f"a volume's size only grows: it is {volume.size} GB")
        if name != volume.name:
            users = [text for text, by_name in self._users(volume) if by_name]
            if users:
                raise _in_use(volume, users, f"they name it {volume.name!r}: deploy them with id=")
        try:
            return answer(200, _shown(await self._volumes.update(volume, name, size)))
        except VolumeExistsError as error:
            raise problem(409, str(error)) from None

    async def _remove(self, volume: Volume) -> Answer:
        users = [text for text, _ in self._users(volume)]
        if users:
            raise _in_use(volume, users, "undeploy them, or deploy them without it, first")
        await self._volumes.remove(volume)
        return Answer(204, b"")

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
