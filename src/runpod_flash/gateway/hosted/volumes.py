"""/v1/networkvolumes: the hosted SDK finds and makes volumes here; its model forbids more."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from runpod_flash.errors import ConfigurationError
from runpod_flash.gateway.access import require
from runpod_flash.gateway.messages import Answer, answer, parse_text_json, read_body
from runpod_flash.volume import DEFAULT_SIZE_GB, NetworkVolume

if TYPE_CHECKING:
    from runpod_flash.control.volumes.registry import Volume, Volumes
    from runpod_flash.gateway.messages import Receive, Scope

PATH = "/v1/networkvolumes"
_BODY_LIMIT = 100_000


class HostedVolumes:
    """The server's volumes, in the words of REST v1: lists are bare, refusals have a message."""

    def __init__(self, volumes: Volumes) -> None:
        self._volumes = volumes

    @staticmethod
    def asked(path: str) -> bool:
        return path == PATH or path.startswith(f"{PATH}/")

    async def answer(self, scope: Scope, receive: Receive) -> Answer:
        require(scope, "deploy")
        volume_id = scope["path"].removeprefix(PATH).strip("/")
        if volume_id:
            return self._one(volume_id, scope)
        if scope["method"] == "GET":
            return answer(200, [_shown(each) for each in self._volumes])
        if scope["method"] == "POST":
            return await self._create(scope, receive)
        return _refused(405, f"{PATH} takes GET and POST")

    def _one(self, volume_id: str, scope: Scope) -> Answer:
        if scope["method"] != "GET":
            return _refused(405, "volumes are changed and removed at /v2/network-volumes")
        found = self._volumes.get(volume_id)
        if found is None:
            return _refused(404, f"there is no volume {volume_id!r:.80}")
        return answer(200, _shown(found))

    async def _create(self, scope: Scope, receive: Receive) -> Answer:
        body = parse_text_json(
            await read_body(scope, receive, _BODY_LIMIT, "it holds a few fields")
        )
        if not isinstance(body, dict):
            return _refused(400, "a JSON object is needed, with name, size and dataCenterId")
        try:
            wanted = NetworkVolume(
                name=body.get("name") or "",
                size=body.get("size", DEFAULT_SIZE_GB),
                dataCenterId=body.get("dataCenterId"),
            )
            assert wanted.name is not None
            center = wanted.dataCenterId.value
            made = await self._volumes.create(wanted.name, wanted.size, center)
        except ConfigurationError as error:
            return _refused(400, str(error))
        return answer(200, _shown(made))


def _refused(status: int, message: str) -> Answer:
    return Answer(status, json.dumps({"message": message}).encode())


def _shown(volume: Volume) -> dict[str, Any]:
    return {
        "id": volume.id,
        "name": volume.name,
        "size": volume.size,
        "dataCenterId": volume.datacenter,
    }
