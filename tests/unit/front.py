"""A gateway before a rig's plane, asked without a port: what tests of the HTTP rooms stand on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import httpx

from runpod_flash.control.releases import AppEnv
from runpod_flash.gateway.app import Gateway
from runpod_flash.gateway.jobs import Jobs
from runpod_flash.project.catalog import Catalog, Discovered, Operation
from unit.rig import Rig, play, spec

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from runpod_flash.gateway.settings import Settings
    from runpod_flash.plane.pool import Pool
    from runpod_flash.testing import ScriptedLink


class Front:
    """The gateway of a rig, with one endpoint for each name. Its workers answer when told to."""

    def __init__(
        self, rig: Rig, settings: Settings | None, names: tuple[str, ...], **placement: Any
    ) -> None:
        self.rig = rig
        self.jobs = Jobs(rig.plane, settings)
        self.gateway = Gateway(rig.plane, jobs=self.jobs, deployed_as=AppEnv("shop", "production"))
        found = [
            Discovered(
                spec(name, **placement), {}, f"{name}.py", operations=(Operation(name, output={}),)
            )
            for name in names
        ]
        self.gateway.serve(Catalog("", tuple(found)))
        self.pools = {each.spec.name: self.gateway.pool_of(each) for each in found}
        transport = httpx.ASGITransport(self.gateway)
        self.http = httpx.AsyncClient(transport=transport, base_url="http://localhost")

    @property
    def pool(self) -> Pool:
        return self.pools["a"]

    async def get(self, path: str, **options: Any) -> httpx.Response:
        return await self.http.get(f"/v2/a/{path}", **options)

    async def post(self, path: str, json: Any = None, **options: Any) -> httpx.Response:
        return await self.http.post(f"/v2/a/{path}", json=json, **options)

    async def run(self, value: Any = None, **fields: Any) -> str:
        """Submit a job; its id, once a worker has it or it waits."""
        answer = await self.post("run", {"input": value, **fields})
        assert answer.status_code == 200, answer.text
        await self.rig.settle()
        job_id: str = answer.json()["id"]
        return job_id

    async def status(self, job_id: str) -> Any:
        answer = await self.get(f"status/{job_id}")
        assert answer.status_code == 200, answer.text
        return answer.json()

    def link(self, job_id: str) -> ScriptedLink:
        return self.rig.holder(job_id)

    async def finish(self, job_id: str, value: Any = None) -> None:
        self.link(job_id).finish(job_id, value)
        await self.rig.settle()

    async def fail(self, job_id: str, error: Exception) -> None:
        self.link(job_id).fail(job_id, error)
        await self.rig.settle()


def ask(
    scenario: Callable[[Front], Awaitable[None]],
    settings: Settings | None = None,
    names: tuple[str, ...] = ("a",),
    placement: dict[str, Any] | None = None,
    **engine: Any,
) -> None:
    """Run a scenario on a front of such a rig; time passes by itself."""

    async def whole(rig: Rig) -> None:
        front = Front(rig, settings, names, **(placement or {}))
        try:
            await scenario(front)
        finally:
            await front.http.aclose()

    play(whole, **engine)
