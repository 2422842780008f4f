"""The engines of one machine as one: endpoints with an image have containers, others processes."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from runpod_flash.engines.base import (
        Device,
        Engine,
        EngineEvents,
        Platform,
        StartOrder,
        WorkerHandle,
    )
    from runpod_flash.engines.docker.engine import DockerEngine
    from runpod_flash.spec import EndpointSpec


class MachineEngine:
    """`local` makes processes; the first container makes the engine for these."""

    def __init__(self, local: Engine, make_containers: Callable[[], DockerEngine]) -> None:
        self._local = local
        self._make_containers = make_containers
        self._containers: DockerEngine | None = None

    def _of(self, spec: EndpointSpec) -> Engine:
        if spec.build.container is None:
            return self._local
        if self._containers is None:
            self._containers = self._make_containers()
        return self._containers

    def _having(self, worker_id: str) -> Engine:
        containers = self._containers
        return containers if containers and containers.has(worker_id) else self._local

    def _all(self) -> list[Engine]:
        return [self._local, *([self._containers] if self._containers else [])]

    async def start(self, order: StartOrder, events: EngineEvents) -> WorkerHandle:
        return await self._of(order.spec).start(order, events)

    async def prepare(self, order: StartOrder, events: EngineEvents) -> None:
        await self._of(order.spec).prepare(order, events)

    async def stop(self, worker_id: str) -> None:
        await self._having(worker_id).stop(worker_id)

    def limit(self, spec: EndpointSpec) -> tuple[int, str]:
        return self._of(spec).limit(spec)

    def advice(self, worker_id: str) -> str:
        return self._having(worker_id).advice(worker_id)

    def devices(self) -> Sequence[Device]:
        return self._local.devices()  # they share them

    async def pin(
        self, spec: EndpointSpec, env: Mapping[str, str], report: Callable[[str], None] | None
    ) -> str:
        return await self._of(spec).pin(spec, env, report)

    def memory(self, worker_id: str) -> int:
        return self._having(worker_id).memory(worker_id)

    def platform(self) -> Platform:
        return self._local.platform()

    def forget_endpoint(self, key: str) -> None:
        for engine in self._all():
            engine.forget_endpoint(key)

    async def forget_app(self, app: str) -> None:
        for engine in self._all():
            await engine.forget_app(app)

    async def close(self) -> None:
        for engine in self._all():
            await engine.close()

    def close_in_child(self) -> None:
        for engine in self._all():
            engine.close_in_child()
