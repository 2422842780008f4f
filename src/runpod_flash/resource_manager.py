"""ResourceManager: the endpoints that are deployed under this program's app and environment."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from runpod_flash.client.hosted_operations import server_for
from runpod_flash.client.session import app_name, environment_name
from runpod_flash.errors import FlashError, NotAvailableError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

_PATH = "/v2/serverless"


@dataclass(frozen=True)
class DeployedEndpoint:
    """An endpoint at the server: `id` is that of the queue API, `settings` are REST v2's fields."""

    id: str
    name: str
    settings: dict[str, Any]

    def get_resource_key(self) -> str:
        """What `ResourceManager` knows it by."""
        return f"{type(self).__name__}:{self.name}"

    @property
    def is_deployed(self) -> bool:
        """It was when it was asked for."""
        return True


class ResourceManager:
    """What a server has of this program's app and environment; one for the process.

    The server keeps the state, and nothing on this disk: `.flash/resources.pkl` is never read.
    Code is brought by `flash deploy`; a declaration alone makes no endpoint.
    """

    _instance: ResourceManager | None = None
    _locks: dict[str, asyncio.Lock]

    def __new__(cls) -> ResourceManager:
        if cls._instance is None:
            cls._instance = super().__new__(cls)
            cls._instance._locks = {}
        return cls._instance

    async def get_or_deploy_resource(self, config: Any) -> DeployedEndpoint:
        """The endpoint of the declaration's name.

        Raises `NotAvailableError` where it is not deployed: what it runs is code, not an image.
        """
        found = await asyncio.to_thread(self.find_resources_by_name, config.name)
        if not found:
            raise NotAvailableError(
                f"{config.name!r} is not deployed in {app_name(None)}-{environment_name()}; "
                "`flash deploy` does that, from the directory of its code"
            )
        return found[0][1]

    async def register_resource(self, resource: Any) -> str:
        """The key that the endpoint goes by; the server knows what is deployed."""
        return (await self.get_or_deploy_resource(resource)).get_resource_key()

    def list_all_resources(self) -> dict[str, DeployedEndpoint]:
        """What is deployed, by key. Raises `NotAvailableError` where no server is chosen."""
        told = server_for("ResourceManager").ask("GET", _PATH)
        here = (app_name(None), environment_name())
        found = [
            DeployedEndpoint(each["id"], each["name"], each)
            for each in told["endpoints"]
            if (each["app"], each["environment"]) == here
        ]
        return {each.get_resource_key(): each for each in found}

    def find_resources_by_name(self, name: str) -> list[tuple[str, DeployedEndpoint]]:
        """Those of a name, each with its key."""
        return [(key, e) for key, e in self.list_all_resources().items() if e.name == name]

    def find_resources_by_provider_id(self, id: str) -> list[tuple[str, DeployedEndpoint]]:
        """That of an id, with its key."""
        return [(key, e) for key, e in self.list_all_resources().items() if e.id == id]

    async def undeploy_resource(
        self, key: str, name: str | None = None, force_remove: bool = False
    ) -> dict[str, Any]:
        """End an endpoint; `success`, `name`, `endpoint_id` and `message` say how. Never raises."""
        try:
            found = (await asyncio.to_thread(self.list_all_resources)).get(key)
            if found is None:
                return _told(False, name or key, "", f"{key} is not deployed")
            server = server_for("ResourceManager")
            await asyncio.to_thread(server.ask, "DELETE", f"{_PATH}/{found.id}")
        except FlashError as error:
            return _told(False, name or key, "", str(error))
        return _told(True, found.name, found.id, f"{found.name} has ended")

    @asynccontextmanager
    async def resource_lock(self, uid: str) -> AsyncIterator[None]:
        """Held by one task of this program at a time."""
        async with self._locks.setdefault(uid, asyncio.Lock()):
            yield


def _told(success: bool, name: str, endpoint_id: str, message: str) -> dict[str, Any]:
    return {"success": success, "name": name, "endpoint_id": endpoint_id, "message": message}
