"""The `local` engine: workers are processes of this machine, each in its endpoint's environment."""

from __future__ import annotations

import asyncio
import secrets
import socket
from collections import Counter
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from runpod_flash.engines.base import CapacityError, Refusal
from runpod_flash.engines.local import variables
from runpod_flash.engines.local.capacity import peak_bytes, worker_bytes, worker_limit
from runpod_flash.engines.local.devices.gpu_pool import visible_devices
from runpod_flash.engines.local.devices.leasing import Leasing
from runpod_flash.engines.local.environments.imports import Imports
from runpod_flash.engines.local.isolation import interpreter_folder, packages_in
from runpod_flash.engines.local.preparation import (
    check_machine,
    environment_request,
    has_own_packages,
    local_platform,
)
from runpod_flash.engines.local.processes.launcher import (
    Ahead,
    LaunchOrder,
    Mount,
    Snapshot,
)
from runpod_flash.engines.local.support import support_tree
from runpod_flash.engines.local.volumes import (
    VOLUME_TARGET,
    UsersVolumes,
    mount_note,
    volume_of,
    warn_of_quota,
)
from runpod_flash.engines.local.worker import LocalWorker
from runpod_flash.errors import ConfigurationError, WorkerStartError
from runpod_flash.spec import Scaling

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from runpod_flash.engines.base import Device, EngineEvents, Platform, StartOrder
    from runpod_flash.engines.local.capacity import Machine
    from runpod_flash.engines.local.devices.gpu_pool import GpuLease
    from runpod_flash.engines.local.devices.leasing import GpuFallback, Say
    from runpod_flash.engines.local.environments.environments import (
        Environment,
        EnvironmentRequest,
        Environments,
    )
    from runpod_flash.engines.local.isolation import Isolation
    from runpod_flash.engines.local.node import Node
    from runpod_flash.engines.local.processes.launcher import Launcher
    from runpod_flash.engines.local.volumes import Volumes
    from runpod_flash.spec import EndpointSpec
    from runpod_flash.wire.shared_memory import SharedMemory

# What the declarations in a user's file need, and calls from it.
_ALL_IMPORT = (
    "runpod_flash.functions",
    "runpod_flash.hardware",
    "runpod_flash.client.chosen",
    "runpod_flash.client.in_worker",
    "runpod_flash.endpoint",
    "runpod_flash.project.root",
    "runpod_flash.template",
    "runpod_flash.volume",
)
_ROUTES_IMPORT = (
    "runpod_flash.declared_routes",
    "runpod_flash.worker.exchanges",
    "runpod_flash.worker.routes",
)


class _Site(NamedTuple):
    """What a worker is started in; whether its environment has packages of its own."""

    environment: Environment
    own_packages: bool
    volume: Path | None


@dataclass
class _Endpoint:
    """What is kept of an endpoint while it is served.

    `said` is what its user was told, `peak_bytes` the most that a worker of it has taken.
    `environments` are where the next worker of each of its pools would run, by what was asked for.
    """

    app: str
    snapshot: tuple[object, Snapshot] | None = None
    peak_bytes: int = 0
    said: set[object] = field(default_factory=set)
    checked: bool = False
    environments: dict[str, tuple[EnvironmentRequest, Environment]] = field(default_factory=dict)


class LocalEngine:
    """See the module. Used on one event loop only, whose thread lives as long as the workers.

    `gpu_fallback` says what becomes of an endpoint whose GPU this machine does not have: "cpu" runs
    it without one, "none" refuses it. `isolation` keeps apps apart; its launcher must do so too.
    `volumes` are this user's, if no others are given. `leasing` is given where other engines have
    their devices of it as well. By `memory`, if given, large values go to workers and back.
    """

    def __init__(
        self,
        environments: Environments,
        launcher: Launcher,
        node: Node,
        cache: Path,
        caller: Mapping[str, str],
        gpu_fallback: GpuFallback = "cpu",
        isolation: Isolation | None = None,
        volumes: Volumes | None = None,
        leasing: Leasing | None = None,
        memory: SharedMemory | None = None,
    ) -> None:
        self._environments = environments
        self._launcher = launcher
        self._node = node
        self._leasing = leasing or Leasing(node, gpu_fallback)
        self._cache = cache
        self._caller = caller
        self._isolation = isolation
        self._volumes = volumes or UsersVolumes()
        self.shared_memory = memory
        self._imports = Imports()
        self._endpoints: dict[str, _Endpoint] = {}
        self._workers: dict[str, LocalWorker] = {}
        self._mounts_work: bool | None = None

    async def start(self, order: StartOrder, events: EngineEvents) -> LocalWorker:
        # First the environment: while one is built, its devices may serve others.
        site = await self._site(order, events)
        lease = self._leasing.lease(order, self._speaker(order.spec, events))
        try:
            return await self._launch(order, events, site, lease)
        except BaseException as error:
            self._leasing.release(order.worker_id)
            if isinstance(error, PermissionError) and (why := self._unreadable(order.spec)):
                text = f"no worker of {order.spec.name!r} can start: {why}"
                raise WorkerStartError(text) from error
            raise

    async def prepare(self, order: StartOrder, events: EngineEvents) -> None:
        site = await self._site(order, events)
        if order.spec.key not in self._endpoints:
            return  # it is served no more
        with socket.socket() as link:  # (never anybody's)
            launch = self._launch_order(order, site, link)
        # (The user's code is not loaded before there is work.)
        await self._launcher.expect(replace(launch, snapshot=None))

    async def stop(self, worker_id: str) -> None:
        worker = self._workers.get(worker_id)
        if worker is not None and worker.process is not None:
            worker.stopped = True
            worker.process.kill()

    def limit(self, spec: EndpointSpec) -> tuple[int, str]:
        machine, devices = self._room(), len(self._leasing.compatible(spec))
        running = sum(w.order.spec.key == spec.key for w in self._workers.values())
        return worker_limit(spec, machine, devices, running, self._of(spec).peak_bytes)

    def _room(self) -> Machine:
        """The machine without what the workers will take again, or have yet to take."""
        held = promised = 0
        for worker in self._workers.values():
            endpoint, pid = self._of(worker.order.spec), worker.process.pid if worker.process else 0
            takes = worker_bytes(pid) if pid else 0
            most = peak_bytes(pid) if pid else 0
            endpoint.peak_bytes = max(most, endpoint.peak_bytes)
            held += takes
            promised += max(endpoint.peak_bytes - takes, 0)
        machine = self._node.machine(held)
        return replace(machine, memory_available=max(machine.memory_available - promised, 0))

    def advice(self, worker_id: str) -> str:
        worker = self._workers.get(worker_id)
        return worker.advice if worker is not None else ""

    def devices(self) -> Sequence[Device]:
        return self._leasing.devices()

    def platform(self) -> Platform:
        return local_platform(self._leasing.gpus())

    async def pin(
        self, spec: EndpointSpec, env: Mapping[str, str], report: Callable[[str], None] | None
    ) -> str:
        return ""  # (it has no images)

    def memory(self, worker_id: str) -> int:
        worker = self._workers.get(worker_id)
        return worker_bytes(worker.process.pid) if worker is not None and worker.process else 0

    def forget_endpoint(self, key: str) -> None:
        self._endpoints.pop(key, None)
        self._release_unused()

    async def forget_app(self, app: str) -> None:
        for key in [key for key, endpoint in self._endpoints.items() if endpoint.app == app]:
            del self._endpoints[key]
        await self._launcher.forget(app)
        self._release_unused()
        if self._isolation is not None:
            await asyncio.to_thread(self._isolation.forget, app)

    async def close(self) -> None:
        for worker in self._workers.values():
            worker.stopped = True
        await self._launcher.close()
        self._environments.close()

    def close_in_child(self) -> None:
        self._launcher.close_in_child()

    def forget(self, worker: LocalWorker) -> None:
        """The process is gone: its devices are free."""
        self._workers.pop(worker.worker_id, None)
        self._leasing.release(worker.worker_id)
        self._release_unused()

    def learn(self, worker: LocalWorker, modules: Sequence[str]) -> None:
        """Have what a worker has imported of its environment imported ahead for the next one."""
        order = worker.launched
        if order is None or order.ahead is None:
            return
        if self._isolation is None or order.ahead.inside:
            environment = _environment_of(order)
            self._imports.add(environment, modules)
            ahead = replace(order.ahead, learned=self._imports.known(environment))
            order = replace(order, ahead=ahead)
        self._launcher.prepare(order)

    def _of(self, spec: EndpointSpec) -> _Endpoint:
        return self._endpoints.setdefault(spec.key, _Endpoint(spec.app))

    def _release_unused(self) -> None:
        """Let go of environments of which no endpoint, no worker and nothing kept ready is left."""
        endpoints = self._endpoints.values()
        running = [w.launched.argv[0] for w in self._workers.values() if w.launched is not None]
        programs = {Path(each) for each in (*running, *self._launcher.programs())}
        kept = [each for endpoint in endpoints for each in endpoint.environments.values()]
        programs |= {environment.python for _, environment in kept}
        self._environments.release_others(programs, {request for request, _ in kept})

    # Devices

    @staticmethod
    def _refuse_images(spec: EndpointSpec) -> None:
        if spec.build.container is not None:
            image = spec.build.container.image
            text = (
                f"it runs in the image {image!r}, and `flash worker run` starts no containers: the "
                "endpoint's own server does, or a `flash server` on this machine"
            )
            raise CapacityError(Refusal(text, permanent=True))

    def _cores(self, spec: EndpointSpec) -> frozenset[int]:
        taken = Counter(core for worker in self._workers.values() for core in worker.cpus)
        return variables.cpu_set(spec, taken)

    # What users are told

    def _speaker(self, spec: EndpointSpec, events: EngineEvents) -> Say:
        """Says each thing (`about` or the text itself) once for the endpoint."""

        def say(text: str, about: object = None) -> None:
            said, what = self._of(spec).said, about or text
            if what not in said:
                said.add(what)
                events.notice(spec.name, text)

        return say

    def _advice(self, worker: LocalWorker, volume: Path | None, mounts_error: str) -> str:
        spec, notes = worker.order.spec, []
        if volume is not None and (mounts_error or not self._can_mount()):
            notes.append(mount_note(mounts_error))
        if spec.uses_gpu and worker.lease is None:
            notes.append(variables.no_gpu_note(self._leasing.wanted(spec), spec.name))
        return "\n".join(notes)

    # Starting

    async def _site(self, order: StartOrder, events: EngineEvents) -> _Site:
        """Its environment is built first where it is not there."""
        spec = order.spec
        say = self._speaker(spec, events)
        self._refuse_images(spec)
        self._leasing.refuse_impossible(spec)
        endpoint = self._of(spec)
        if not endpoint.checked:
            await check_machine(spec, self._cache, self._node.datacenter, say)
            endpoint.checked = True
        request = environment_request(spec, self._leasing.compatible(spec), say)
        report = partial(events.notice, spec.name)
        try:
            environment = await self._environments.ensure(request, report)
            endpoint.environments[order.pool] = request, environment
        finally:
            self._release_unused()
        own_packages = has_own_packages(spec, request)
        return _Site(environment, own_packages, await self._volume(spec, say))

    async def _launch(
        self,
        order: StartOrder,
        events: EngineEvents,
        site: _Site,
        lease: GpuLease | None,
    ) -> LocalWorker:
        spec, token = order.spec, secrets.token_hex(16)
        say = self._speaker(spec, events)
        ours, theirs = socket.socketpair()
        worker = LocalWorker(self, order, events, ours, token, lease, self._cores(spec))
        launch = self._launch_order(order, site, theirs, token, lease, worker.cpus)
        worker.launched = launch
        self._workers[order.worker_id] = worker
        try:
            worker.process = await self._launcher.launch(launch, worker)
        except BaseException:
            self._workers.pop(order.worker_id, None)
            ours.close()
            raise
        worker.advice = self._advice(worker, site.volume, worker.process.mounts_error)
        if reason := worker.process.slow_start:
            say(f"{spec.name} starts its workers without modules imported ahead: {reason}")
        if reason := worker.process.no_snapshot:
            say(f"{spec.name} imports {spec.entry.file} anew in each worker: {reason}")
        left_out = worker.process.left_out
        if left_out and self._imports.leave_out(site.environment.path, left_out):
            for module, reason in left_out.items():
                say(f"{spec.name}: each worker imports {module} by itself: {reason}", about=module)
        return worker

    def _launch_order(
        self,
        order: StartOrder,
        site: _Site,
        link: socket.socket,
        token: str = "",
        lease: GpuLease | None = None,
        cpus: frozenset[int] = frozenset(),
    ) -> LaunchOrder:
        """What comes after `site` is each worker's own: nothing that is kept ready goes by it."""
        spec, home = order.spec, support_tree(self._cache)
        environment, own_packages, volume = site
        env = {
            **variables.worker_variables(
                spec, order, self._caller, environment.path, self._node.datacenter
            ),
            **visible_devices(lease),
            **({"FLASH_VOLUME_PATH": str(volume)} if volume else {}),
            **self._user_variables(),
        }
        boot = home / "runpod_flash" / "worker" / "boot.py"
        return LaunchOrder(
            worker_id=order.worker_id,
            argv=(str(environment.python), str(boot), "{link}", order.worker_id, token),
            env=env,
            cwd=self._start_folder(spec),
            link=link,
            held=lease.fds if lease is not None else (),
            cpus=cpus,
            mounts=self._mounts(spec, environment, home, volume),
            ahead=self._imported_ahead(spec, environment, own_packages, home),
            user=self._user(),
            snapshot=self._snapshot(order),
            own=frozenset(order.identity).difference(order.env),
            owner=spec.app,
        )

    async def _volume(self, spec: EndpointSpec, say: Say) -> Path | None:
        mount = volume_of(spec, self._node.datacenter)
        if mount is None:
            return None
        try:
            path = await self._volumes.place(mount)
        except ConfigurationError as error:
            raise CapacityError(Refusal(str(error), permanent=True)) from None
        size = self._volumes.quota(mount)
        warn_of_quota(mount.name, path, size, lambda text: say(text, about=mount))
        if self._isolation is not None:
            self._isolation.give(path)
        return path

    def _mounts(
        self, spec: EndpointSpec, environment: Environment, support: Path, volume: Path | None
    ) -> tuple[Mount, ...]:
        volumes = (Mount(volume, VOLUME_TARGET),) if volume and self._can_mount() else ()
        if self._isolation is None:
            return volumes
        python = interpreter_folder(environment.python)
        needed = (environment.path, python, *packages_in(support))
        own = [Path(spec.entry.root)] if spec.entry.root else []
        own += [volume] if volume else []
        return (*self._isolation.mounts(spec.app, needed, own), *volumes)

    def _start_folder(self, spec: EndpointSpec) -> Path:
        if spec.entry.root:
            return Path(spec.entry.root)
        # (An isolated worker may not see where this process is.)
        return Path.cwd() if self._isolation is None else Path("/")

    def _user(self) -> tuple[int, int] | None:
        user = self._isolation.user if self._isolation is not None else None
        return None if user is None else (user.uid, user.gid)

    def _unreadable(self, spec: EndpointSpec) -> str:
        return "" if self._isolation is None else self._isolation.unreadable(spec.entry)

    def _user_variables(self) -> dict[str, str]:
        user = self._isolation.user if self._isolation is not None else None
        return {} if user is None else {"USER": user.name, "LOGNAME": user.name}

    def _imported_ahead(
        self, spec: EndpointSpec, environment: Environment, own_packages: bool, home: Path
    ) -> Ahead:
        """What every worker imports after the user's code, or with it, and what some have.

        Packages of the isolated are imported inside of their view only. Where there are none, one
        process serves all apps, and none of those says what it imports.
        """
        modules = _ROUTES_IMPORT if spec.entry.kind == "routes" else ()
        isolated = self._isolation is not None
        shared = isolated and not own_packages
        return Ahead(
            home,
            "runpod_flash.worker.main",
            (*_ALL_IMPORT, *modules),
            tuple(Path(spec.entry.root, place) for place in spec.entry.search_path),
            () if shared else self._imports.known(environment.path),
            inside=isolated and own_packages,
        )

    def _snapshot(self, order: StartOrder) -> Snapshot | None:
        """The endpoint's code, loaded: where it has a file, and its declaration allows it."""
        spec = order.spec
        if order.caller_env is None or spec.entry.by_value or not spec.placement.flashboot:
            return None
        about = (replace(spec, scaling=Scaling()), order.caller_env)
        endpoint = self._of(spec)
        if endpoint.snapshot is None or endpoint.snapshot[0] != about:
            told = {"spec": about[0].to_wire(), "caller_env": dict(order.caller_env)}
            endpoint.snapshot = about, Snapshot(spec.key, told)
        return endpoint.snapshot[1]

    def _can_mount(self) -> bool:
        if self._mounts_work is None:
            self._mounts_work = self._node.can_mount()
        return self._mounts_work


def _environment_of(order: LaunchOrder) -> Path:
    return Path(order.argv[0]).parents[1]
