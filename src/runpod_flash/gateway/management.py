"""What a server has beside calls: resources, the hosted facade, and the pages to sign in at."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol

from runpod_flash.control.invitations import Invitations
from runpod_flash.gateway.account import AccountApi
from runpod_flash.gateway.apps_api import AppsApi
from runpod_flash.gateway.catalog_api import CatalogApi
from runpod_flash.gateway.hosted.graphql import open_hosted
from runpod_flash.gateway.invitations_api import InvitationsApi
from runpod_flash.gateway.keys_api import KeysApi
from runpod_flash.gateway.login import LoginPages
from runpod_flash.gateway.platform_api import PlatformApi
from runpod_flash.gateway.resources import Resources
from runpod_flash.gateway.serverless_api import ServerlessApi
from runpod_flash.gateway.setup_page import SetupPage
from runpod_flash.gateway.templates_api import RegistriesApi, TemplatesApi
from runpod_flash.gateway.volumes_api import VolumesApi

if TYPE_CHECKING:
    from collections.abc import Collection

    from runpod_flash.control.keys import Keys
    from runpod_flash.control.releases import Releases
    from runpod_flash.control.shelf import Shelf
    from runpod_flash.control.volumes.registry import Volumes
    from runpod_flash.control.worker_tokens import WorkerTokens
    from runpod_flash.gateway.deployments import Deployments
    from runpod_flash.gateway.hosted.graphql import HostedApi
    from runpod_flash.gateway.jobs import Jobs
    from runpod_flash.gateway.messages import Answer, Receive, Refusal, Scope, Sendable
    from runpod_flash.gateway.resources import Resource
    from runpod_flash.gateway.sessions import Place
    from runpod_flash.plane.plane import Plane


class Records(NamedTuple):
    """What a server keeps beside its jobs; what is None, it does not have.

    `keys` are managed at /v2/keys, and the first of them is made at /setup. `place` says where
    programs' apps can be put, and `releases` what is deployed. `shelf` keeps templates and the
    like. `tokens` are those of workers that are started elsewhere.
    """

    keys: Keys | None = None
    place: Place | None = None
    releases: Releases | None = None
    shelf: Shelf | None = None
    tokens: WorkerTokens | None = None
    volumes: Volumes | None = None


NOTHING = Records()


class Answering(Protocol):
    """Answers requests."""

    async def answer(self, scope: Scope, receive: Receive) -> Sendable: ...


class Management:
    """See the module. `workers` answers for workers that are started elsewhere."""

    def __init__(
        self,
        plane: Plane,
        jobs: Jobs,
        records: Records,
        deployments: Deployments | None,
        workers: Resource | None,
    ) -> None:
        keys, place, shelf, volumes = records.keys, records.place, records.shelf, records.volumes
        resources: dict[str, Resource] = {}
        self._setup: SetupPage | None = None
        self._login: LoginPages | None = None
        self._hosted: HostedApi | None = None
        if keys is not None:
            resources["keys"] = KeysApi(keys)
            resources["account"] = AccountApi(keys)
            resources["invitations"] = InvitationsApi(Invitations(keys))
            self._setup, self._login = SetupPage(keys), LoginPages(keys)
        if volumes is not None:
            resources["network-volumes"] = VolumesApi(volumes, plane)
        if workers is not None:
            resources["serverless"] = workers
        if deployments is not None and place is not None:
            resources["apps"] = AppsApi(deployments)
            resources["catalog"] = CatalogApi(plane.engine.devices, place.datacenter)
            resources["platform"] = PlatformApi(plane)
            if shelf is not None:
                resources["serverless"] = ServerlessApi(deployments, shelf, volumes, workers)
                resources["templates"] = TemplatesApi(shelf)
                resources["registries"] = RegistriesApi(shelf)
                self._hosted = open_hosted(plane, jobs, deployments, shelf, place, volumes)
        self._resources = Resources(resources)
        # The names of resources that the description of the API shows.
        self.described: Collection[str] = tuple(resources) if shelf is not None else ()

    def of(self, path: str) -> Answering | None:
        """What answers at the path to a request that was admitted."""
        if self._resources.owns(path):
            return self._resources
        if self._hosted is not None and self._hosted.asked(path):
            return self._hosted
        if self._setup is not None and path == "/setup":
            return self._setup
        if self._login is not None and self._login.owns(path):
            return self._login
        return None

    def uploads(self, path: str) -> HostedApi | None:
        """What takes an upload at the path, whose address is the token that it needs."""
        hosted = self._hosted
        return hosted if hosted is not None and hosted.uploads(path) else None

    def worded(self, scope: Scope, refusal: Refusal) -> Answer:
        """The refusal as clients of its address read it."""
        return self._resources.worded(scope, refusal)
