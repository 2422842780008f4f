"""/v2/apps: what is deployed, releases of it, and going back to one."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from runpod_flash.control.locks import check_lock, versions
from runpod_flash.control.releases import (
    AppEnv,
    BusyError,
    Content,
    ProjectError,
    Release,
    as_read,
)
from runpod_flash.control.trees import check_paths
from runpod_flash.errors import ConfigurationError
from runpod_flash.gateway.access import identity_of, require
from runpod_flash.gateway.brought import UNREADABLE, read_catalog, read_files
from runpod_flash.gateway.deployments import PREFIX
from runpod_flash.gateway.messages import Answer, answer, parse_text_json, read_body
from runpod_flash.gateway.problems import invalid, problem
from runpod_flash.gateway.resources import allow, page
from runpod_flash.gateway.secrets_api import SecretsApi
from runpod_flash.gateway.session_events import Events
from runpod_flash.gateway.times import rfc3339

if TYPE_CHECKING:
    from collections.abc import Sequence

    from runpod_flash.control.releases import Variables
    from runpod_flash.gateway.deployments import Deployment, Deployments
    from runpod_flash.gateway.messages import Receive, Scope, Sendable
    from runpod_flash.project.catalog import Discovered

_BODY_LIMIT = 64_000_000
_FIELDS = ("project", "files", "catalog", "takeOver", "by")


class AppsApi:
    """A `Resource`."""

    def __init__(self, deployments: Deployments) -> None:
        self._deployments = deployments
        self._releases = deployments.releases
        self._rollouts = deployments.rollouts
        self._secrets = SecretsApi(deployments)

    async def answer(self, rest: Sequence[str], scope: Scope, receive: Receive) -> Sendable:
        require(scope, "deploy")
        method, segments = scope["method"], [each for each in rest if each]
        match segments:
            case []:
                allow(scope, "GET")
                return answer(200, page("apps", await self._apps()))
            case [app]:
                allow(scope, "GET", "DELETE")
                return await (self._app(app) if method == "GET" else self._remove_app(app))
            case [app, "environments", name]:
                allow(scope, "GET", "DELETE")
                place = AppEnv(app, name)
                return await (self._environment(place) if method == "GET" else self._remove(place))
            case [app, "environments", name, "secrets", *secret]:
                place = AppEnv(app, name)
                await self._check(place)
                return await self._secrets.answer(place, secret, scope, receive)
            case [app, "environments", name, "releases"]:
                allow(scope, "GET", "POST")
                place = AppEnv(app, name)
                if method == "GET":
                    return await self._list(place)
                return await self._deploy(place, scope, receive)
            case [app, "environments", name, "releases", number, *more]:
                return await self._of_release(AppEnv(app, name), number, more, scope, receive)
        raise problem(404, f"nothing is at {scope['path']}; apps are at /v2/apps/NAME")

    # What there is

    async def _apps(self) -> list[dict[str, Any]]:
        found: dict[str, list[str]] = {}
        for place in await self._releases.environments():
            found.setdefault(place.app, []).append(place.environment)
        return [{"name": app, "environments": names} for app, names in found.items()]

    async def _app(self, app: str) -> Answer:
        places = await self._places_of(app)
        shown = [await self._shown_environment(place) for place in places]
        return answer(200, {"name": app, "environments": shown})

    async def _places_of(self, app: str) -> list[AppEnv]:
        places = [place for place in await self._releases.environments() if place.app == app]
        if not places:
            raise problem(404, f"there is no app {app!r}; `flash app list` shows all")
        return places

    async def _environment(self, place: AppEnv) -> Answer:
        await self._check(place)
        return answer(200, await self._shown_environment(place))

    async def _check(self, place: AppEnv) -> None:
        if place not in await self._releases.environments():
            raise problem(
                404,
                f"there is no environment {place.environment!r} of {place.app!r}; `flash deploy` "
                "makes it, `flash app list` shows all",
            )

    async def _shown_environment(self, place: AppEnv) -> dict[str, Any]:
        deployment = self._deployments.get(place)
        served = [] if deployment is None else await asyncio.to_thread(_shown_all, deployment)
        active = None if deployment is None else deployment.active or None
        return {
            "name": place.environment,
            "app": place.app,
            "base": f"{PREFIX}{place}",
            "activeRelease": active,
            "endpoints": served,
            "secrets": list(await self._releases.secrets(place)),
            "networkVolumes": [
                {"id": each.id, "name": each.name} for each in self._deployments.volumes(place)
            ],
        }

    # Releases

    async def _list(self, place: AppEnv) -> Answer:
        await self._check(place)
        images = await self._releases.images(place)
        releases = await self._releases.of(place)
        found = page(
            "releases",
            [
                {**_shown(each), "images": [image._asdict() for image in images[each.number]]}
                for each in releases
                if each.number in images
            ],
        )
        return answer(200, {**found, "kept": self._releases.kept})

    async def _release(self, place: AppEnv, number: str) -> Release:
        for each in await self._releases.of(place):
            if str(each.number) == number:
                return each
        raise problem(404, f"there is no release {number} of {place}; `flash releases` lists them")

    async def _of_release(
        self, place: AppEnv, number: str, more: list[str], scope: Scope, receive: Receive
    ) -> Sendable:
        release = await self._release(place, number)
        match more:
            case []:
                allow(scope, "GET")
                return answer(200, _shown(release))
            case ["activate"]:
                allow(scope, "POST")
                return await self._activate(release)
            case ["events"]:
                allow(scope, "GET")
                lines = self._deployments.lines(place)
                if lines is None or release.state != "preparing":
                    return Answer(204, b"")
                return Events(lines, receive, lambda: None, lambda: None, lambda: False)
        raise problem(404, f"nothing is at {scope['path']}")

    async def _deploy(self, place: AppEnv, scope: Scope, receive: Receive) -> Answer:
        value = parse_text_json(await read_body(scope, receive, _BODY_LIMIT, "leave files out"))
        content, variables = _read(value)
        try:
            missing = self._deployments.blobs.missing(file.digest for file in content.files)
        except ValueError as error:
            raise invalid(f"$.files: {error}") from None
        if missing:
            return answer(200, {"missing": missing})
        try:
            release, unchanged = await self._rollouts.deploy(
                place,
                str(value["project"])[:200],
                content,
                variables,
                maker(scope, str(value.get("by", ""))),
                take_over=bool(value.get("takeOver")),
            )
        except (BusyError, ProjectError) as error:
            raise problem(409, str(error)) from None
        except ConfigurationError as error:
            raise invalid(f"$: {error}") from None
        told = {"missing": [], "release": _shown(release)}
        return answer(200, {**told, "unchanged": True}) if unchanged else answer(202, told)

    async def _activate(self, release: Release) -> Answer:
        try:
            return answer(202, {"release": _shown(await self._rollouts.activate(release))})
        except BusyError as error:
            raise problem(409, str(error)) from None

    # The end

    async def _remove(self, place: AppEnv) -> Answer:
        await self._check(place)
        await self._end([place])
        return Answer(204, b"")

    async def _remove_app(self, app: str) -> Answer:
        await self._end(await self._places_of(app))
        return Answer(204, b"")

    async def _end(self, places: Sequence[AppEnv]) -> None:
        try:
            await self._rollouts.end(places)
        except BusyError as error:
            raise problem(409, str(error)) from None


def maker(scope: Scope, by: str = "") -> str:
    """Who makes a release: the name of the key, and what the client says of itself."""
    key = identity_of(scope).key
    return " ".join(filter(None, (key.name if key else "", by[:80])))


def _read(value: Any) -> tuple[Content, Variables]:
    """What is to be deployed: its content without values of variables, and these."""
    if not isinstance(value, dict):
        raise invalid(f"$: a JSON object is needed, with {', '.join(_FIELDS)}")
    unknown = [name for name in value if name not in _FIELDS]
    if unknown:
        raise invalid(*(f"$: {name!r} is no field here" for name in unknown))
    try:
        files, catalog = read_files(value), read_catalog(value)
        check_paths(files)
        for each in catalog.endpoints:
            build = each.spec.build
            check_lock(each.spec.name, build.lock_file, build.lock, files)
        value["project"]
    except (*UNREADABLE, ConfigurationError) as error:
        raise invalid(f"$: the release cannot be read: {error}") from None
    variables = {each.spec.name: dict(each.env) for each in catalog.endpoints}
    wire = catalog.to_wire()
    for each in wire["endpoints"]:
        each["env"] = dict.fromkeys(each["env"], "")
    return Content(files, as_read(wire)), variables


def _shown(release: Release) -> dict[str, Any]:
    return {
        "number": release.number,
        "state": release.state,
        "createdAt": rfc3339(release.created_at),
        "createdBy": release.created_by,
        "cause": release.cause,
    }


def _shown_all(deployment: Deployment) -> list[dict[str, Any]]:
    locks = deployment.locks()
    return [
        _shown_endpoint(deployment.place, each, versions(locks.get(each.spec.name, "")))
        for each in deployment.declared.endpoints
    ]


def _shown_endpoint(place: AppEnv, each: Discovered, packages: dict[str, str]) -> dict[str, Any]:
    spec, container = each.spec, each.spec.build.container
    return {
        "id": f"{place}-{spec.name}",
        "name": spec.name,
        "file": each.file,
        "kind": "queue" if each.operations else "routes",
        "digests": {
            "build": spec.declared.build_digest,
            "placement": spec.placement_digest,
            "scaling": spec.scaling_digest,
        },
        "variables": sorted(each.env),
        "python": spec.build.python,
        "packages": packages,
        "image": container and {"name": container.image, "digest": container.digest},
    }
