"""/v2/templates and /v2/registries: what is kept for endpoints from images to be made of."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from runpod_flash.control.serverless import MASK
from runpod_flash.gateway.access import require
from runpod_flash.gateway.messages import Answer, answer
from runpod_flash.gateway.problems import problem
from runpod_flash.gateway.resources import allow, page
from runpod_flash.gateway.serverless_bodies import (
    REGISTRY_CREATED,
    TEMPLATE_CREATED,
    TEMPLATE_UPDATED,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from runpod_flash.control.shelf import Kept, Kind, Shelf
    from runpod_flash.gateway.messages import Receive, Scope

_DEFAULTS: dict[str, Any] = {
    "args": "",
    "disk": 64,
    "ports": [],
    "env": {},
    "registry": None,
    "mounts": {},
    "serverless": False,
    "public": False,
    "category": "NVIDIA",
    "startSsh": True,
    "startJupyter": True,
    "allowedCudaVersions": [],
}


class TemplatesApi:
    """A `Resource`."""

    def __init__(self, shelf: Shelf) -> None:
        self._shelf = shelf

    async def answer(self, rest: Sequence[str], scope: Scope, receive: Receive) -> Answer:
        require(scope, "deploy")
        match [each for each in rest if each]:
            case []:
                allow(scope, "GET", "POST")
                if scope["method"] == "POST":
                    return await self._create(scope, receive)
                found = await self._shelf.all("template")
                return answer(200, page("templates", map(shown_template, found)))
            case [template_id]:
                allow(scope, "GET", "PATCH", "DELETE")
                return await self._one(template_id, scope, receive)
        raise problem(404, f"nothing is at {scope['path']}; a template is at /v2/templates/ID")

    async def _create(self, scope: Scope, receive: Receive) -> Answer:
        fields = await TEMPLATE_CREATED.read(scope, receive)
        await self._check_registry(fields)
        kept = await self._shelf.put("template", {**_DEFAULTS, **fields})
        return answer(201, shown_template(kept))

    async def _one(self, template_id: str, scope: Scope, receive: Receive) -> Answer:
        kept = await find(self._shelf, "template", template_id)
        if scope["method"] == "GET":
            return answer(200, shown_template(kept))
        if scope["method"] == "DELETE":
            await self._shelf.remove("template", template_id)
            return Answer(204, b"")
        fields = await TEMPLATE_UPDATED.read(scope, receive)
        await self._check_registry(fields)
        if not fields.get("mounts", True):
            del fields["mounts"]  # (an empty one keeps what there is)
        if "env" in fields:
            fields["env"] = unmasked(fields["env"], kept.fields["env"])
        kept = await self._shelf.put("template", {**kept.fields, **fields}, template_id)
        return answer(200, shown_template(kept))

    async def _check_registry(self, fields: dict[str, Any]) -> None:
        if fields.get("registry") is not None:
            await find(self._shelf, "registry", fields["registry"])


class RegistriesApi:
    """A `Resource`. No answer shows a user's name or password again."""

    def __init__(self, shelf: Shelf) -> None:
        self._shelf = shelf

    async def answer(self, rest: Sequence[str], scope: Scope, receive: Receive) -> Answer:
        require(scope, "deploy")
        match [each for each in rest if each]:
            case []:
                allow(scope, "GET", "POST")
                if scope["method"] == "GET":
                    found = await self._shelf.all("registry")
                    return answer(200, page("registries", map(_shown_registry, found)))
                fields = await REGISTRY_CREATED.read(scope, receive)
                return answer(201, _shown_registry(await self._shelf.put("registry", fields)))
            case [registry_id]:
                allow(scope, "GET", "DELETE")
                kept = await find(self._shelf, "registry", registry_id)
                if scope["method"] == "GET":
                    return answer(200, _shown_registry(kept))
                return await self._remove(registry_id)
        raise problem(404, f"nothing is at {scope['path']}; one is at /v2/registries/ID")

    async def _remove(self, registry_id: str) -> Answer:
        """Templates that name it have none from then on."""
        for each in await self._shelf.all("template"):
            if each.fields["registry"] == registry_id:
                await self._shelf.put("template", {**each.fields, "registry": None}, each.id)
        await self._shelf.remove("registry", registry_id)
        return Answer(204, b"")


async def find(shelf: Shelf, kind: Kind, resource_id: str) -> Kept:
    """The resource; raises the 404 where there is none."""
    kept = await shelf.get(kind, resource_id)
    if kept is None:
        raise problem(404, f"there is no {kind} {resource_id!r:.80}")
    return kept


def unmasked(env: dict[str, str], known: dict[str, str]) -> dict[str, str]:
    """Variables with what a masked value stands for."""
    return {n: known.get(n, value) if value == MASK else value for n, value in env.items()}


def shown_template(kept: Kept) -> dict[str, Any]:
    """A template as answers have it."""
    return {"id": kept.id, **kept.fields, "env": dict.fromkeys(kept.fields["env"], MASK)}


def _shown_registry(kept: Kept) -> dict[str, Any]:
    return {"id": kept.id, "name": kept.fields["name"]}
