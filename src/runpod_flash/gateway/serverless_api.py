"""/v2/serverless: deployed endpoints as REST v2 has them.

A change is a release of the endpoint's environment with the same code. What else stands below an
endpoint: its workers and their logs (`control.py`), and tokens of workers elsewhere.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from runpod_flash.control import serverless
from runpod_flash.control.releases import BusyError
from runpod_flash.control.rollouts import AbsentError, RefusedReleaseError
from runpod_flash.errors import ConfigurationError
from runpod_flash.gateway.access import require
from runpod_flash.gateway.apps_api import maker
from runpod_flash.gateway.deployments import PREFIX
from runpod_flash.gateway.messages import Answer, answer, header
from runpod_flash.gateway.problems import problem
from runpod_flash.gateway.resources import allow, page
from runpod_flash.gateway.serverless_bodies import ENDPOINT_CREATED, ENDPOINT_UPDATED
from runpod_flash.gateway.serverless_releases import versions
from runpod_flash.gateway.templates_api import find
from runpod_flash.gateway.times import rfc3339

if TYPE_CHECKING:
    from collections.abc import Sequence

    from runpod_flash.control.releases import AppEnv, Release, Variables
    from runpod_flash.control.rollouts import Edit
    from runpod_flash.control.serverless import Fields
    from runpod_flash.control.shelf import Shelf
    from runpod_flash.control.volumes.registry import Volumes
    from runpod_flash.gateway.deployments import Deployment, Deployments
    from runpod_flash.gateway.messages import Receive, Refusal, Scope, Sendable
    from runpod_flash.gateway.resources import Resource
    from runpod_flash.plane.pool import Pool

_VERBS = ("run", "runsync", "status", "stream", "cancel", "retry", "purge-queue", "health")
_OF_JOBS = ("status", "stream", "cancel", "retry")


class Served(NamedTuple):
    """A deployed endpoint: as its release keeps it, and the pool that it has now."""

    id: str
    place: AppEnv
    release: Release
    endpoint: dict[str, Any]
    pool: Pool


class ServerlessApi:
    """A `Resource`; what it does not know is for `others`."""

    def __init__(
        self,
        deployments: Deployments,
        shelf: Shelf,
        volumes: Volumes | None,
        others: Resource | None,
    ) -> None:
        self._deployments = deployments
        self._releases = deployments.releases
        self._rollouts = deployments.rollouts
        self._shelf = shelf
        self._volumes = volumes
        self._others = others

    async def answer(self, rest: Sequence[str], scope: Scope, receive: Receive) -> Sendable:
        require(scope, "deploy")
        match [each for each in rest if each]:
            case []:
                allow(scope, "GET", "POST")
                if scope["method"] == "POST":
                    return await self._create(scope, receive)
                found = [_shown(each, scope, self._volumes) for each in await self._all()]
                return answer(200, page("endpoints", found))
            case [endpoint_id] if self._deployments.at_id(endpoint_id) is not None:
                allow(scope, "GET", "PATCH", "DELETE")
                return await self._one(endpoint_id, scope, receive)
            case [endpoint_id, "releases"] if self._deployments.at_id(endpoint_id) is not None:
                allow(scope, "GET")
                served = await self._served(endpoint_id)
                return answer(200, await versions(self._releases, served))
            case [endpoint_id] | [endpoint_id, "releases"] if scope["method"] != "DELETE":
                raise _unknown(endpoint_id)
        if self._others is not None:
            return await self._others.answer(rest, scope, receive)
        raise _unknown(rest[0])

    async def _one(self, endpoint_id: str, scope: Scope, receive: Receive) -> Answer:
        served = await self._served(endpoint_id)
        if scope["method"] == "GET":
            return answer(200, _shown(served, scope, self._volumes))
        if scope["method"] == "DELETE":
            await self._change(served, lambda _: None, {}, scope)
            return Answer(204, b"")
        fields = await ENDPOINT_UPDATED.read(scope, receive)
        await self._apply_template(fields)
        check_scaling(fields)
        name = served.endpoint["spec"]["name"]

        def edit(endpoint: Fields) -> Fields:
            return serverless.edited(endpoint, fields, self._volumes)

        await self._change(served, edit, {name: serverless.values(fields)}, scope)
        return answer(200, _shown(await self._served(endpoint_id), scope, self._volumes))

    async def _change(self, served: Served, edit: Edit, values: Variables, scope: Scope) -> None:
        name = served.endpoint["spec"]["name"]
        try:
            await self._rollouts.change(served.place, name, edit, values, maker(scope))
        except BusyError as error:
            raise problem(409, str(error)) from None
        except (RefusedReleaseError, ConfigurationError) as error:
            raise problem(400, str(error)) from None
        except AbsentError as error:
            raise problem(404, str(error)) from None

    async def _create(self, scope: Scope, receive: Receive) -> Answer:
        """Refused, after all that would be wrong with it anyway: nothing here runs an image."""
        fields = await ENDPOINT_CREATED.read(scope, receive)
        check_scaling(fields)
        await self._apply_template(fields)
        try:
            serverless.check_created(fields)
        except ConfigurationError as error:
            raise problem(400, str(error)) from None
        raise problem(400, serverless.NO_IMAGES)

    async def _apply_template(self, fields: dict[str, Any]) -> None:
        """The template's container settings, where the body has none of its own."""
        template_id = fields.pop("templateId", None)
        if template_id is None:
            return
        template = (await find(self._shelf, "template", template_id)).fields
        if not template["serverless"]:
            raise problem(422, f"the template {template_id!r} is one for pods, not serverless")
        fields["env"] = {**template["env"], **fields.get("env", {})}
        for name in ("image", "args", "disk", "ports", "registry"):
            fields.setdefault(name, template[name])

    # What is served

    async def _all(self) -> list[Served]:
        return [each for found in self._deployments.all() for each in await self._of(found)]

    async def _served(self, endpoint_id: str) -> Served:
        at = self._deployments.at_id(endpoint_id)
        for each in [] if at is None else await self._of(at[0]):
            if each.id == endpoint_id:
                return each
        raise _unknown(endpoint_id)

    async def _of(self, deployment: Deployment) -> list[Served]:
        """The endpoints of an environment that are served now."""
        place = deployment.place
        try:
            release = await self._rollouts.active(place)
        except AbsentError:  # it has just ended
            return []
        catalog = (await self._releases.content(release)).catalog
        named = {each["spec"]["name"]: each for each in catalog["endpoints"]}
        pools = {each.spec.name: each for each in deployment.gateway.declare_all()}
        return [
            Served(f"{place}-{name}", place, release, named[name], pools[name])
            for name in named
            if name in pools
        ]


def _unknown(endpoint_id: str) -> Refusal:
    return problem(
        404, f"there is no endpoint {endpoint_id!r:.80} that was deployed; GET /v2/serverless lists"
    )


def check_scaling(fields: dict[str, Any]) -> None:
    """Raise the 422 of a scaler without its own measure, or with another's."""
    scaling = fields.get("scaling")
    if scaling is None:
        return
    own = "queueDelay" if scaling["type"] == "QUEUE_DELAY" else "requestCount"
    if scaling.keys() != {"type", own}:
        raise problem(
            422,
            "Request validation failed.",
            f"$.scaling: {scaling['type']} has {own}, and no more",
        )


def _shown(served: Served, scope: Scope, volumes: Volumes | None) -> dict[str, Any]:
    settings = serverless.settings(served.endpoint)
    if volumes is not None:
        settings["networkVolumes"] = serverless.volume_ids(served.endpoint, volumes)
    return {
        "id": served.id,
        **settings,
        "requestUrls": _urls(served, settings["type"], scope),
        "createdAt": rfc3339(served.release.created_at),
        "app": served.place.app,
        "environment": served.place.environment,
    }


def _urls(served: Served, kind: str, scope: Scope) -> dict[str, str]:
    """Where it answers, at the address that the client has asked."""
    origin = f"{scope.get('scheme', 'http')}://{header(scope, b'host') or 'localhost'}"
    if kind == serverless.LOAD_BALANCER:
        file = served.endpoint["file"].removesuffix(".py")
        base = f"{origin}{PREFIX}{served.place}"
        return {"base": f"{base}/{file}", "health": f"{base}/ping"}
    names = {"runsync": "runSync", "purge-queue": "purgeQueue"}
    return {
        names.get(verb, verb): f"{origin}/v2/{served.id}/{verb}"
        + ("/{job_id}" if verb in _OF_JOBS else "")
        for verb in _VERBS
    }
