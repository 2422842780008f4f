"""POST /graphql: the hosted SDK's control plane. Refusals are GraphQL errors, with status 200.

That SDK knows what is not there by the words of an error alone, and takes any `errors` for one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from runpod_flash.control.rollouts import AbsentError
from runpod_flash.errors import FlashError
from runpod_flash.gateway.access import require
from runpod_flash.gateway.brought import UNREADABLE
from runpod_flash.gateway.hosted.builds import PREFIX as UPLOADS
from runpod_flash.gateway.hosted.builds import Builds
from runpod_flash.gateway.hosted.operations import Operations
from runpod_flash.gateway.hosted.reading import DeclarationReader
from runpod_flash.gateway.hosted.selection import parse, pick
from runpod_flash.gateway.hosted.volumes import HostedVolumes
from runpod_flash.gateway.messages import Answer, Refusal, answer, parse_text_json, read_body

if TYPE_CHECKING:
    from runpod_flash.control.shelf import Shelf
    from runpod_flash.control.volumes.registry import Volumes
    from runpod_flash.gateway.deployments import Deployments
    from runpod_flash.gateway.jobs import Jobs
    from runpod_flash.gateway.messages import Receive, Scope
    from runpod_flash.gateway.sessions import Place
    from runpod_flash.plane.plane import Plane

PATH = "/graphql"
_BODY_LIMIT = 16_000_000


class HostedApi:
    """See the module; uploads are below it, and volumes beside it."""

    def __init__(
        self, operations: Operations, builds: Builds, volumes: HostedVolumes | None
    ) -> None:
        self._operations = operations
        self._builds = builds
        self._volumes = volumes

    def asked(self, path: str) -> bool:
        """Whether the path is one of these, for a key."""
        return path == PATH or (self._volumes is not None and self._volumes.asked(path))

    @staticmethod
    def uploads(path: str) -> bool:
        """Whether the path is where an archive is sent: its token stands for a key."""
        return path.startswith(UPLOADS)

    async def upload(self, scope: Scope, receive: Receive) -> Answer:
        token = scope["path"].removeprefix(UPLOADS)
        return await self._builds.receive(token, scope, receive)

    async def answer(self, scope: Scope, receive: Receive) -> Answer:
        """The answer to a request for a path that was `asked` for."""
        if self._volumes is not None and self._volumes.asked(scope["path"]):
            return await self._volumes.answer(scope, receive)
        if scope["method"] != "POST":
            raise Refusal(405, f"{PATH} takes POST")
        require(scope, "deploy")
        body = parse_text_json(await read_body(scope, receive, _BODY_LIMIT, "it holds a query"))
        try:
            query, variables = body["query"], body.get("variables") or {}
            asked = parse(str(query))
            found = await self._operations.run(asked.field, asked.selection, variables, scope)
        except (*UNREADABLE, FlashError, AbsentError) as error:
            return _errors(str(error) or type(error).__name__)
        return answer(200, {"data": {asked.field: pick(found, asked.selection)}})


def open_hosted(
    plane: Plane,
    jobs: Jobs,
    deployments: Deployments,
    shelf: Shelf,
    place: Place,
    volumes: Volumes | None,
) -> HostedApi:
    """That of a server with deployments."""
    reader = DeclarationReader(plane, jobs, place.folder, place.blobs)
    builds = Builds(place.folder / "uploads", place.blobs, shelf, reader)
    operations = Operations(deployments, shelf, builds)
    return HostedApi(operations, builds, None if volumes is None else HostedVolumes(volumes))


def _errors(message: str) -> Answer:
    return answer(200, {"data": None, "errors": [{"message": message}]})
