"""/v2/templates and /v2/registries: what is kept for endpoints from images to be made of."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from runpod_flash.control.serverless import MASK
from runpod_flash.gateway.kept import Kept
from runpod_flash.gateway.problems import problem
from runpod_flash.gateway.serverless_bodies import (
    REGISTRY_CREATED,
    TEMPLATE_CREATED,
    TEMPLATE_UPDATED,
)

if TYPE_CHECKING:
    from runpod_flash.control.shelf import Kept as Row
    from runpod_flash.control.shelf import Kind, Shelf
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


class TemplatesApi(Kept["Row"]):
    """/v2/templates."""

    plural = "templates"

    def __init__(self, shelf: Shelf) -> None:
        self._shelf = shelf

    async def all(self) -> list[Row]:
        return await self._shelf.all("template")

    async def find(self, resource_id: str) -> Row:
        return await find(self._shelf, "template", resource_id)

    def shown(self, found: Row, scope: Scope) -> dict[str, Any]:
        return shown_template(found)

    async def create(self, scope: Scope, receive: Receive) -> dict[str, Any]:
        fields = await TEMPLATE_CREATED.read(scope, receive)
        await self._check_registry(fields)
        return shown_template(await self._shelf.put("template", {**_DEFAULTS, **fields}))

    async def update(self, found: Row, scope: Scope, receive: Receive) -> Row:
        fields = await TEMPLATE_UPDATED.read(scope, receive)
        await self._check_registry(fields)
        if not fields.get("mounts", True):
            del fields["mounts"]  # (an empty one keeps what there is)
        if "env" in fields:
            fields["env"] = unmasked(fields["env"], found.fields["env"])
        return await self._shelf.put("template", {**found.fields, **fields}, found.id)

    async def remove(self, found: Row, scope: Scope) -> None:
        await self._shelf.remove("template", found.id)

    async def _check_registry(self, fields: dict[str, Any]) -> None:
        if fields.get("registry") is not None:
            await find(self._shelf, "registry", fields["registry"])


class RegistriesApi(Kept["Row"]):
    """/v2/registries. No answer shows a user's name or password again."""

    plural = "registries"
    methods = ("GET", "DELETE")

    def __init__(self, shelf: Shelf) -> None:
        self._shelf = shelf

    async def all(self) -> list[Row]:
        return await self._shelf.all("registry")

    async def find(self, resource_id: str) -> Row:
        return await find(self._shelf, "registry", resource_id)

    def shown(self, found: Row, scope: Scope) -> dict[str, Any]:
        return {"id": found.id, "name": found.fields["name"]}

    async def create(self, scope: Scope, receive: Receive) -> dict[str, Any]:
        fields = await REGISTRY_CREATED.read(scope, receive)
        return self.shown(await self._shelf.put("registry", fields), scope)

    async def remove(self, found: Row, scope: Scope) -> None:
        """Templates that name it have none from then on."""
        for each in await self._shelf.all("template"):
            if each.fields["registry"] == found.id:
                await self._shelf.put("template", {**each.fields, "registry": None}, each.id)
        await self._shelf.remove("registry", found.id)


async def find(shelf: Shelf, kind: Kind, resource_id: str) -> Row:
    """The resource; raises the 404 where there is none."""
    kept = await shelf.get(kind, resource_id)
    if kept is None:
        raise problem(404, f"there is no {kind} {resource_id!r:.80}")
    return kept


def unmasked(env: dict[str, str], known: dict[str, str]) -> dict[str, str]:
    """Variables with what a masked value stands for."""
    return {n: known.get(n, value) if value == MASK else value for n, value in env.items()}


def shown_template(kept: Row) -> dict[str, Any]:
    """A template as answers have it."""
    return {"id": kept.id, **kept.fields, "env": dict.fromkeys(kept.fields["env"], MASK)}
