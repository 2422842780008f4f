"""/v2/serverless: deployed endpoints as REST v2 has them.

A change is a release of the endpoint's environment with the same code. What else stands below an
endpoint: its workers and their logs (`control.py`), and tokens of workers elsewhere.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

from runpod_flash.control import serverless
from runpod_flash.control.image_settings import new_spec, registry_variable
from runpod_flash.control.releases import AppEnv, BusyError, Content, as_read
from runpod_flash.control.rollouts import AbsentError, RefusedReleaseError
from runpod_flash.errors import ConfigurationError
from runpod_flash.gateway.access import require
from runpod_flash.gateway.addresses import prefix_of
from runpod_flash.gateway.apps_api import maker
from runpod_flash.gateway.deployments import PREFIX
from runpod_flash.gateway.kept import Kept
from runpod_flash.gateway.messages import address_of, answer
from runpod_flash.gateway.problems import problem
from runpod_flash.gateway.resources import allow
from runpod_flash.gateway.serverless_bodies import ENDPOINT_CREATED, ENDPOINT_UPDATED
from runpod_flash.gateway.serverless_releases import versions
from runpod_flash.gateway.templates_api import find
from runpod_flash.gateway.times import rfc3339
from runpod_flash.project.catalog import Catalog, of_image
from runpod_flash.project.collisions import RESERVED, RESERVED_NAMES

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from runpod_flash.control.releases import Release, Variables
    from runpod_flash.control.rollouts import Edit
    from runpod_flash.control.serverless import Fields
    from runpod_flash.control.shelf import Shelf
    from runpod_flash.control.volumes.registry import Volumes
    from runpod_flash.gateway.deployments import Deployment, Deployments
    from runpod_flash.gateway.messages import Receive, Refusal, Scope, Sendable
    from runpod_flash.gateway.resources import Resource
    from runpod_flash.plane.pool import Pool

_VERBS = ("run", "runsync", "status", "stream", "cancel", "retry", "purge-queue", "health")
# The environment of the app that an endpoint which is made here is.
CREATED = "production"
_OF_JOBS = ("status", "stream", "cancel", "retry")


class Served(NamedTuple):
    """A deployed endpoint: as its release keeps it, and the pool that it has now."""

    id: str
    place: AppEnv
    release: Release
    endpoint: dict[str, Any]
    pool: Pool


class ServerlessApi(Kept[Served]):
    """/v2/serverless; what it does not know is for `others`."""

    plural = "endpoints"

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
        require(scope, self.right)
        parts = [each for each in rest if each]
        match parts:
            case [endpoint_id, "releases"] if self._deployments.at_id(endpoint_id) is not None:
                allow(scope, "GET")
                served = await self.find(endpoint_id)
                return answer(200, await versions(self._releases, served))
            case [] | [_] if not parts or self._deployments.at_id(parts[0]) is not None:
                return await super().answer(parts, scope, receive)
            case [endpoint_id] | [endpoint_id, "releases"] if scope["method"] != "DELETE":
                raise _unknown(endpoint_id)
        if self._others is not None:
            return await self._others.answer(rest, scope, receive)
        raise _unknown(parts[0])

    def shown(self, found: Served, scope: Scope) -> dict[str, Any]:
        return _shown(found, scope, self._volumes)

    async def update(self, found: Served, scope: Scope, receive: Receive) -> Served:
        fields = await ENDPOINT_UPDATED.read(scope, receive)
        await self._apply_template(fields)
        check_scaling(fields)
        values = await self._values(fields)
        name = found.endpoint["spec"]["name"]

        def edit(endpoint: Fields) -> Fields:
            return serverless.edited(endpoint, fields, self._volumes)

        await self._change(found, edit, {name: values}, scope)
        return await self.find(found.id)

    async def _change(self, served: Served, edit: Edit, values: Variables, scope: Scope) -> None:
        name = served.endpoint["spec"]["name"]
        with _refusals():
            await self._rollouts.change(served.place, name, edit, values, maker(scope))

    async def remove(self, found: Served, scope: Scope) -> None:
        """Without its endpoint, an app that was made for it alone has nothing left."""
        if found.endpoint["file"]:
            await self._change(found, lambda _: None, {}, scope)
            return
        with _refusals():
            await self._rollouts.end([found.place])

    async def create(self, scope: Scope, receive: Receive) -> dict[str, Any]:
        """An endpoint of an image is an app of its own, of its name. Answered when it is served."""
        fields = await ENDPOINT_CREATED.read(scope, receive)
        check_scaling(fields)
        await self._apply_template(fields)
        values = await self._values(fields)
        place = AppEnv(fields["name"], CREATED)
        with _refusals():
            serverless.check_created(fields)
            _check_name(fields["name"])
            made = serverless.created(_new(fields), fields, self._volumes)
            if place in await self._releases.environments():
                raise ConfigurationError(
                    f"name: there is an app {place.app!r} already; choose another name, or PATCH "
                    f"the endpoint {place}-{place.app}"
                )
            content = Content([], {**Catalog("").to_wire(), "endpoints": [made]})
            told = {place.app: values}
            try:
                await self._rollouts.deploy_and_wait(place, "REST v2", content, told, maker(scope))
            except RefusedReleaseError:
                await self._rollouts.end([place])
                raise
        return self.shown(await self.find(f"{place}-{place.app}"), scope)

    async def _values(self, fields: dict[str, Any]) -> dict[str, str]:
        """Those of variables, among which are the credentials of the image's registry."""
        values = serverless.values(fields)
        if registry_id := fields.get("registry"):
            login = (await find(self._shelf, "registry", registry_id)).fields
            values[registry_variable(registry_id)] = f"{login['username']}:{login['password']}"
        return values

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

    async def all(self) -> list[Served]:
        return [each for found in self._deployments.all() for each in await self._of(found)]

    async def find(self, resource_id: str) -> Served:
        at = self._deployments.at_id(resource_id)
        for each in [] if at is None else await self._of(at[0]):
            if each.id == resource_id:
                return each
        raise _unknown(resource_id)

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


def _check_name(name: str) -> None:
    """Raise `ConfigurationError` for one whose addresses would be the server's own."""
    if name in RESERVED or name in RESERVED_NAMES:
        raise ConfigurationError(
            f"name: {name!r} is an address of the server itself; choose another name"
        )


def _new(fields: dict[str, Any]) -> Fields:
    """A new endpoint of an image, as releases keep it."""
    made = of_image(new_spec(fields), {}, "")
    if fields["type"] == serverless.LOAD_BALANCER:
        made = replace(made, operations=())
    return as_read(Catalog("", (made,)).to_wire()["endpoints"][0])


@contextmanager
def _refusals() -> Iterator[None]:
    """Turn what a change is refused by into an answer."""
    try:
        yield
    except BusyError as error:
        raise problem(409, str(error)) from None
    except (RefusedReleaseError, ConfigurationError) as error:
        raise problem(400, str(error)) from None
    except AbsentError as error:
        raise problem(404, str(error)) from None


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
    origin = address_of(scope)
    if kind == serverless.LOAD_BALANCER:
        base = f"{origin}{PREFIX}{served.place}"
        below = prefix_of(Catalog.endpoint_from_wire(served.endpoint))
        return {"base": f"{base}{below}", "health": f"{base}/ping"}
    names = {"runsync": "runSync", "purge-queue": "purgeQueue"}
    return {
        names.get(verb, verb): f"{origin}/v2/{served.id}/{verb}"
        + ("/{job_id}" if verb in _OF_JOBS else "")
        for verb in _VERBS
    }
