"""The operations of the hosted SDK's GraphQL, each by the name of its field.

An app's id is its name, an environment's is APP/ENVIRONMENT, an endpoint's that of the queue API.
"""

from __future__ import annotations

import datetime
from typing import TYPE_CHECKING, Any

from runpod_flash.control import serverless
from runpod_flash.control.releases import AppEnv, check_name
from runpod_flash.control.rollouts import AbsentError
from runpod_flash.errors import ConfigurationError
from runpod_flash.gateway.apps_api import maker
from runpod_flash.gateway.hosted.builds import PREFIX as UPLOADS
from runpod_flash.gateway.hosted.builds import own_variables
from runpod_flash.gateway.messages import header
from runpod_flash.gateway.times import rfc3339

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from runpod_flash.control.shelf import Kept, Shelf
    from runpod_flash.gateway.deployments import Deployments
    from runpod_flash.gateway.hosted.builds import Builds
    from runpod_flash.gateway.hosted.selection import Fields
    from runpod_flash.gateway.messages import Scope

    Variables = dict[str, Any]
    Node = dict[str, Any]

# (The hosted SDK makes an endpoint for each function, of images of its own.)
_NO_IMAGES = (
    "images are named in code, by Endpoint(image=...), or to POST /v2/serverless: this operation "
    "makes no endpoint of one"
)


class Operations:
    """On the plane's loop."""

    def __init__(self, deployments: Deployments, shelf: Shelf, builds: Builds) -> None:
        self._deployments = deployments
        self._releases = deployments.releases
        self._rollouts = deployments.rollouts
        self._shelf = shelf
        self._builds = builds
        self._known: dict[str, Callable[[Variables, Scope], Awaitable[Any]]] = {
            "flashApp": self._app,
            "flashAppByName": self._app,
            "createFlashApp": self._create_app,
            "deleteFlashApp": self._delete_app,
            "flashEnvironment": self._environment,
            "getFlashEnvironment": self._environment,
            "flashEnvironmentByName": self._environment_by_name,
            "getFlashEnvironmentByName": self._environment_by_name,
            "createFlashEnvironment": self._create_environment,
            "deleteFlashEnvironment": self._delete_environment,
            "prepareFlashArtifactUpload": self._prepare_upload,
            "finalizeFlashArtifactUpload": self._finalize_upload,
            "deployBuildToEnvironment": self._deploy,
            "flashBuild": self._build,
            "updateFlashBuildManifest": self._update_manifest,
            "saveEndpoint": self._save_endpoint,
            "deleteEndpoint": self._delete_endpoint,
            "saveTemplate": self._save_template,
            "podTemplate": self._template,
        }

    async def run(self, field: str, selection: Fields, variables: Variables, scope: Scope) -> Any:
        """What the field is. Raises `FlashError` with the words for its client."""
        if field == "myself":
            return await self._myself(selection, variables)
        work = self._known.get(field)
        if work is None:
            raise ConfigurationError(
                f"this server does not have {field!r:.80}; it knows what runpod-flash 1.16 deploys "
                "by, and the control API at /v2 besides"
            )
        return await work(variables, scope)

    async def _myself(self, selection: Fields, variables: Variables) -> Node:
        if "endpoint" in selection:
            there = self._deployments.at_id(str(variables["id"])) is not None
            return {"endpoint": {"id": variables["id"]} if there else None}
        return {"flashApps": [await self._shown_app(name) for name in await self._apps()]}

    # Apps

    async def _apps(self) -> list[str]:
        made = [each.fields["name"] for each in await self._shelf.all("app")]
        return sorted({*made, *(place.app for place in await self._releases.environments())})

    async def _app(self, variables: Variables, scope: Scope) -> Node:
        names = ("flashAppName", "flashAppId", "input", "id")
        name = str(next(variables[each] for each in names if each in variables))
        if name not in await self._apps():
            raise AbsentError(f"app not found: {name!r:.80}")
        return await self._shown_app(name)

    async def _shown_app(self, name: str) -> Node:
        places = [place for place in await self._releases.environments() if place.app == name]
        builds = await self._builds.of(name)
        return {
            "id": name,
            "name": name,
            "flashEnvironments": [await self._shown_environment(place) for place in places],
            "flashBuilds": [_shown_build(each) for each in builds],
        }

    async def _create_app(self, variables: Variables, scope: Scope) -> Node:
        name = str(variables["input"]["name"])
        check_name("app", name)
        await self._shelf.put("app", {"name": name}, name)
        return {"id": name, "name": name}

    async def _delete_app(self, variables: Variables, scope: Scope) -> None:
        name = str(variables["flashAppId"])
        if name not in await self._apps():
            raise AbsentError(f"app not found: {name!r:.80}")
        await self._rollouts.end([p for p in await self._releases.environments() if p.app == name])
        for build in await self._builds.of(name):
            await self._shelf.remove("build", build.id)
        await self._shelf.remove("app", name)

    # Environments

    async def _environment(self, variables: Variables, scope: Scope) -> Node:
        return await self._shown_environment(await self._place(variables["flashEnvironmentId"]))

    async def _environment_by_name(self, variables: Variables, scope: Scope) -> Node | None:
        given = variables["input"]
        place = AppEnv(str(given["flashAppId"]), str(given["name"]))
        known = place in await self._releases.environments()
        return await self._shown_environment(place) if known else None

    async def _create_environment(self, variables: Variables, scope: Scope) -> Node:
        given = variables["input"]
        place = AppEnv(str(given["flashAppId"]), str(given["name"]))
        await self._releases.make(place, _project(place))
        return {"id": _id(place), "name": place.environment}

    async def _delete_environment(self, variables: Variables, scope: Scope) -> None:
        await self._rollouts.end([await self._place(variables["flashEnvironmentId"])])

    async def _place(self, given: Any) -> AppEnv:
        place = AppEnv(*str(given).partition("/")[::2])
        if place not in await self._releases.environments():
            raise AbsentError(f"environment not found: {given!r:.80}")
        return place

    async def _shown_environment(self, place: AppEnv) -> Node:
        deployment = self._deployments.get(place)
        served = () if deployment is None else deployment.declared.endpoints
        names = [each.spec.name for each in served]
        volumes = dict.fromkeys(m.name for e in served for m in e.spec.placement.volumes)
        build = await self._served_build(place)
        return {
            "id": _id(place),
            "name": place.environment,
            "state": "ACTIVE" if names else "PENDING",
            "createdAt": None if build is None else rfc3339(build.created_at),
            "activeBuildId": None if build is None else build.id,
            "endpoints": [{"id": f"{place}-{name}", "name": name} for name in names],
            "networkVolumes": [{"id": name, "name": name} for name in volumes],
        }

    async def _served_build(self, place: AppEnv) -> Kept | None:
        for build in await self._builds.of(place.app):
            if build.fields.get("served", {}).get(place.environment):
                return build
        return None

    # Builds

    async def _prepare_upload(self, variables: Variables, scope: Scope) -> Node:
        given = variables["input"]
        app = str(given["flashAppId"])
        if app not in await self._apps():
            raise AbsentError(f"app not found: {app!r:.80}")
        token, upload = self._builds.expect(app, int(given["tarballSize"]))
        origin = f"{scope.get('scheme', 'http')}://{header(scope, b'host') or 'localhost'}"
        return {
            "uploadUrl": f"{origin}{UPLOADS}{token}",
            "objectKey": upload.key,
            "expiresAt": _time(upload.expires_at),
        }

    async def _finalize_upload(self, variables: Variables, scope: Scope) -> Node:
        given = variables["input"]
        manifest = given["manifest"]
        if not isinstance(manifest, dict) or not isinstance(manifest.get("resources", {}), dict):
            raise ConfigurationError("the manifest is no object with resources")
        build = await self._builds.finish(
            str(given["flashAppId"]), str(given["objectKey"]), manifest
        )
        return _shown_build(build)

    async def _deploy(self, variables: Variables, scope: Scope) -> Node:
        given = variables["input"]
        place = await self._place(given["flashEnvironmentId"])
        build = await self._builds.get(str(given["flashBuildId"]))
        content, values = await self._builds.content(place, build)
        by = maker(scope, "runpod-flash")
        await self._rollouts.deploy_and_wait(place, _project(place), content, values, by)
        await self._builds.serve(place, build)
        shown = await self._shown_environment(place)
        return {**shown, "activeArtifact": {"objectKey": build.fields["objectKey"]}}

    async def _build(self, variables: Variables, scope: Scope) -> Node:
        given = variables.get("flashBuildId", variables.get("input"))
        return _shown_build(await self._builds.get(str(given)))

    async def _update_manifest(self, variables: Variables, scope: Scope) -> Node:
        given = variables["input"]
        build = await self._builds.get(str(given["flashBuildId"]))
        return _shown_build(await self._builds.describe(build, given["manifest"]))

    # Endpoints

    async def _save_endpoint(self, variables: Variables, scope: Scope) -> Node:
        """What was deployed is there already, as its code declares it; nothing else can be made."""
        given = variables["input"]
        name = str(given["name"]).removesuffix("-fb")
        if not given.get("flashEnvironmentId"):  # it is of no app, as `flash dev` makes some
            raise ConfigurationError(f"{name!r:.80} is not made: {_NO_IMAGES}")
        place = await self._place(given["flashEnvironmentId"])
        found = self._deployments.find(*place, name)
        if found is None:
            raise ConfigurationError(f"{place} has no endpoint {name!r:.80}; {_NO_IMAGES}")
        endpoint_id = f"{place}-{name}"
        return {
            "id": endpoint_id,
            "name": name,
            "templateId": endpoint_id,
            "type": "QB" if found.operations else "LB",
            "flashEnvironmentId": _id(place),
            "workersMin": found.spec.scaling.workers_min,
            "workersMax": found.spec.scaling.workers_max,
            "idleTimeout": found.spec.scaling.idle_timeout,
        }

    async def _delete_endpoint(self, variables: Variables, scope: Scope) -> None:
        endpoint_id = str(variables["id"])
        at = self._deployments.at_id(endpoint_id)
        if at is None:
            raise AbsentError(f"endpoint not found: {endpoint_id!r:.80}")
        deployment, name = at
        await self._rollouts.change(deployment.place, name, lambda _: None, {}, maker(scope))

    async def _template(self, variables: Variables, scope: Scope) -> Node | None:
        """Of an endpoint: its variables, whose values stay here."""
        at = self._deployments.at_id(str(variables["id"]))
        if at is None:
            return None
        deployment, name = at
        found = deployment.gateway.named(name)
        env = {} if found is None else found.env
        return {
            "id": variables["id"],
            "name": name,
            "imageName": "",
            "containerDiskInGb": 64,
            "dockerArgs": "",
            "env": [{"key": key, "value": serverless.MASK} for key in env],
        }

    async def _save_template(self, variables: Variables, scope: Scope) -> Node:
        """Variables of an endpoint. Those that are not named stay: its code may declare more."""
        given = variables["input"]
        at = self._deployments.at_id(str(given.get("id")))
        if at is None:
            raise ConfigurationError(_NO_IMAGES)
        deployment, name = at
        sent = own_variables({str(each["key"]): each["value"] for each in given.get("env", ())})

        def edit(endpoint: Node) -> Node:
            return {**endpoint, "env": dict.fromkeys([*endpoint["env"], *sent], "")}

        values = {name: serverless.values({"env": sent})}
        await self._rollouts.change(deployment.place, name, edit, values, maker(scope))
        return dict(given)


def _id(place: AppEnv) -> str:
    return f"{place.app}/{place.environment}"


def _project(place: AppEnv) -> str:
    return f"the hosted SDK, as {place.app}"


def _shown_build(build: Kept) -> Node:
    return {
        "id": build.id,
        "objectKey": build.fields["objectKey"],
        "createdAt": rfc3339(build.created_at),
        "manifest": build.fields["manifest"],
    }


def _time(seconds: float) -> str:
    return datetime.datetime.fromtimestamp(seconds, datetime.timezone.utc).isoformat()
