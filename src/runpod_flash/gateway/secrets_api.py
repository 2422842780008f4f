"""/v2/apps/APP/environments/ENV/secrets: values that no answer shows again."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from runpod_flash.gateway.messages import Answer, answer
from runpod_flash.gateway.problems import invalid, problem
from runpod_flash.gateway.resources import allow, page, read_fields
from runpod_flash.gateway.times import rfc3339

if TYPE_CHECKING:
    from collections.abc import Sequence

    from runpod_flash.control.releases import AppEnv
    from runpod_flash.gateway.deployments import Deployments
    from runpod_flash.gateway.messages import Receive, Scope

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,127}")


class SecretsApi:
    """Of all environments. A change replaces workers one by one."""

    def __init__(self, deployments: Deployments) -> None:
        self._deployments = deployments
        self._releases = deployments.releases

    async def answer(
        self, place: AppEnv, rest: Sequence[str], scope: Scope, receive: Receive
    ) -> Answer:
        match rest:
            case []:
                allow(scope, "GET")
                found = await self._releases.secrets(place)
                shown = [{"name": name, "setAt": rfc3339(at)} for name, at in found.items()]
                return answer(200, page("secrets", shown))
            case [name]:
                allow(scope, "PUT", "DELETE")
                if scope["method"] == "PUT":
                    return await self._set(place, name, scope, receive)
                return await self._unset(place, name)
        raise problem(404, f"nothing is at {scope['path']}; a secret is at .../secrets/NAME")

    async def _set(self, place: AppEnv, name: str, scope: Scope, receive: Receive) -> Answer:
        if not _NAME.fullmatch(name):
            raise invalid(f"$: {name!r:.80} is no name for an environment variable")
        fields = await read_fields(scope, receive, ("value",))
        value = fields.get("value")
        if not isinstance(value, str) or "\0" in value:
            raise invalid("$.value: a string is needed")
        await self._releases.set_secret(place, name, value)
        return self._changed(place, name)

    async def _unset(self, place: AppEnv, name: str) -> Answer:
        if not await self._releases.unset_secret(place, name):
            raise problem(404, f"{place} has no secret {name!r}; `flash secret list` shows all")
        return self._changed(place, name)

    def _changed(self, place: AppEnv, name: str) -> Answer:
        self._deployments.refresh(place)
        deployment = self._deployments.get(place)
        pools = [] if deployment is None else deployment.gateway.pools()
        replaced = [pool.spec.name for pool in pools if pool.live()]
        return answer(200, {"name": name, "replaced": replaced})
