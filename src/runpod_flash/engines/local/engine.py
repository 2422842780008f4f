"""The `local` engine: workers are processes of this machine, each in its endpoint's environment."""

from __future__ import annotations

import asyncio
import secrets
import socket
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from runpod_flash.engines.base import CapacityError, Refusal, WorkerExit
from runpod_flash.engines.local import mountview, variables
from runpod_flash.engines.local.capacity import Machine, worker_bytes, worker_limit
from runpod_flash.engines.local.gpus import visible_devices
from runpod_flash.engines.local.launcher import LaunchOrder, Mount, describe
from runpod_flash.engines.local.preparation import check_machine, environment_request
from runpod_flash.engines.local.support import support_tree
from runpod_flash.links.framed import FramedLink
from runpod_flash.volume import directory, usage_bytes

if TYPE_CHECKING:
    from collections.abc import Mapping

    from runpod_flash.engines.base import EngineEvents, StartOrder
    from runpod_flash.engines.local.environments import Environment, Environments
    from runpod_flash.engines.local.gpus import GpuLease, GpuPool
    from runpod_flash.engines.local.launcher import Launcher, Process, ProcessExit
    from runpod_flash.spec import EndpointSpec, VolumeMount

VOLUME_TARGET = "/runpod-volume"
_OUTPUT_KEPT = 20


@dataclass(eq=False)
class _LocalWorker:
    """`WorkerHandle` of a process, and its side of the process's events."""

    engine: LocalEngine
    order: StartOrder
    events: EngineEvents
    link: FramedLink
    lease: GpuLease | None
    node: str = "local"
    process: Process | None = None
    advice: str = ""
    output_tail: deque[str] = field(default_factory=lambda: deque(maxlen=_OUTPUT_KEPT))

    @property
    def worker_id(self) -> str:
        return self.order.worker_id

    def output(self, worker_id: str, line: str) -> None:
        self.output_tail.append(line)
        self.events.worker_output(worker_id, line)

    def exited(self, exit: ProcessExit) -> None:
        self.engine.forget(self)
        reason = describe(exit.returncode)
        self.events.worker_exited(WorkerExit(self.worker_id, reason, "\n".join(self.output_tail)))


class LocalEngine:
    """See the module. Used on one event loop only, whose thread lives as long as the workers."""

    def __init__(
        self,
        environments: Environments,
        launcher: Launcher,
        gpus: GpuPool,
        cache: Path,
        caller: Mapping[str, str],
    ) -> None:
        self._environments = environments
        self._launcher = launcher
        self._gpus = gpus
        self._cache = cache
        self._caller = caller
        self._workers: dict[str, _LocalWorker] = {}
        self._peak_bytes: dict[str, int] = {}
        self._said: set[tuple[str, str]] = set()
        self._checked: set[str] = set()
        self._mounts_work: bool | None = None

    async def start(self, order: StartOrder, events: EngineEvents) -> _LocalWorker:
        spec = order.spec
        lease = self._lease(order, events)
        try:
            environment = await self._prepare(spec, lease, events)
            return await self._launch(order, events, environment, lease)
        except BaseException:
            self._gpus.release(order.worker_id)
            raise

    async def stop(self, worker_id: str) -> None:
        worker = self._workers.get(worker_id)
        if worker is not None and worker.process is not None:
            worker.process.kill()

    def limit(self, spec: EndpointSpec) -> tuple[int, str]:
        mine = [w for w in self._workers.values() if w.order.spec.key == spec.key]
        peak = max((worker_bytes(w.process.pid) for w in mine if w.process), default=0)
        peak = self._peak_bytes[spec.key] = max(peak, self._peak_bytes.get(spec.key, 0))
        devices = len(self._gpus.compatible(spec.placement)) if spec.uses_gpu else 0
        return worker_limit(spec, Machine.read(), devices, len(mine), peak)

    def advice(self, worker_id: str) -> str:
        worker = self._workers.get(worker_id)
        return worker.advice if worker is not None else ""

    async def close(self) -> None:
        await self._launcher.close()
        self._environments.close()

    def close_in_child(self) -> None:
        self._launcher.close_in_child()

    def forget(self, worker: _LocalWorker) -> None:
        """The process is gone: its devices are free."""
        self._workers.pop(worker.worker_id, None)
        self._gpus.release(worker.worker_id)

    # Devices

    def _lease(self, order: StartOrder, events: EngineEvents) -> GpuLease | None:
        """The devices of a new worker; None where this machine has none of the kind."""
        placement, name = order.spec.placement, order.spec.name
        if not order.spec.uses_gpu:
            return None
        if not self._gpus.compatible(placement):
            wanted = variables.wanted_gpus(order.spec)
            self._say(events, name, f"no {wanted} on this machine: {name} runs on the CPU")
            return None
        lease = self._gpus.acquire(placement, order.worker_id, order.near)
        if lease is None:
            holders = self._gpus.holders(placement)
            reason = f"{variables.wanted_gpus(order.spec)}, held by {', '.join(holders)}"
            raise CapacityError(Refusal(reason, holders))
        if lease.shared_from is not None:
            other = lease.shared_from.rpartition("-")[0]
            self._say(events, name, f"{name} shares the GPU of {other}, which waits for it")
        in_use = self._gpus.in_use_by_others(lease)
        if in_use:
            self._say(events, name, in_use)
        return lease

    def _say(self, events: EngineEvents, endpoint: str, text: str) -> None:
        if (endpoint, text) not in self._said:
            self._said.add((endpoint, text))
            events.notice(endpoint, text)

    # Starting

    async def _prepare(
        self, spec: EndpointSpec, lease: GpuLease | None, events: EngineEvents
    ) -> Environment:
        def say(text: str) -> None:
            self._say(events, spec.name, text)

        if spec.key not in self._checked:
            await check_machine(spec, self._cache, say)
            self._checked.add(spec.key)
        request = environment_request(spec, lease.devices if lease else (), say)
        return await self._environments.ensure(request)

    async def _launch(
        self,
        order: StartOrder,
        events: EngineEvents,
        environment: Environment,
        lease: GpuLease | None,
    ) -> _LocalWorker:
        spec, token = order.spec, secrets.token_hex(16)
        ours, theirs = socket.socketpair()
        link = FramedLink(ours, asyncio.get_running_loop(), order.worker_id, token)
        worker = _LocalWorker(self, order, events, link, lease)
        volume = self._volume(spec, events)
        boot = support_tree(self._cache) / "runpod_flash" / "worker" / "boot.py"
        env = {
            **variables.worker_variables(spec, order, self._caller, environment.path),
            **visible_devices(lease),
            **({"FLASH_VOLUME_PATH": str(volume)} if volume else {}),
        }
        launch = LaunchOrder(
            worker_id=order.worker_id,
            argv=(str(environment.python), str(boot), "{link}", order.worker_id, token),
            env=env,
            cwd=Path(spec.entry.root) if spec.entry.root else Path.cwd(),
            link=theirs,
            held=lease.fds if lease is not None else (),
            cpus=variables.cpu_set(spec),
            mounts=(Mount(volume, VOLUME_TARGET),) if volume and self._can_mount() else (),
        )
        self._workers[order.worker_id] = worker
        try:
            worker.process = await self._launcher.launch(launch, worker)
        except BaseException:
            self._workers.pop(order.worker_id, None)
            link.close()
            raise
        worker.advice = self._advice(spec, lease, volume, worker.process.mounts_error)
        return worker

    def _can_mount(self) -> bool:
        if self._mounts_work is None:
            self._mounts_work = mountview.supported()
        return self._mounts_work

    def _volume(self, spec: EndpointSpec, events: EngineEvents) -> Path | None:
        """The directory of the volume that a worker here sees, made if it is new."""
        if not spec.placement.volumes:
            return None
        mount = _nearest(spec)
        path = directory(mount.name, mount.datacenter)
        path.mkdir(parents=True, exist_ok=True)
        used = usage_bytes(path)
        if used > mount.size * 1_000_000_000:
            text = (
                f"volume {mount.name!r} holds {used / 1e9:.1f} GB, more than its size={mount.size}"
            )
            self._say(events, spec.name, text)
        return path

    def _advice(
        self, spec: EndpointSpec, lease: GpuLease | None, volume: Path | None, mounts_error: str
    ) -> str:
        if volume is not None and (mounts_error or not self._can_mount()):
            return (
                f"{VOLUME_TARGET} cannot be mounted for workers on this machine "
                f"({mounts_error or 'user namespaces are not allowed'}): "
                "use the directory that FLASH_VOLUME_PATH names"
            )
        if spec.uses_gpu and lease is None:
            return variables.no_gpu_note(spec)
        return ""


def _nearest(spec: EndpointSpec) -> VolumeMount:
    """Of several volumes the one in the endpoint's first data center, else the first."""
    volumes, places = spec.placement.volumes, spec.placement.datacenters
    for place in places:
        for mount in volumes:
            if mount.datacenter == place:
                return mount
    return volumes[0]
