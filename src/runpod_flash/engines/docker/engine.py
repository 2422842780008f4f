"""The `docker` engine: workers are containers of this machine, of Docker, Podman or the like.

It is connected to by the first worker. Until then nothing of it is loaded.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import shutil
from functools import partial
from typing import TYPE_CHECKING, Protocol

from runpod_flash.engines.base import CapacityError, Refusal
from runpod_flash.engines.docker import failures, functions
from runpod_flash.engines.docker.connection import EngineGoneError, connect
from runpod_flash.engines.docker.creation import Place, Program, container_body
from runpod_flash.engines.docker.images import Images, checked_credentials
from runpod_flash.engines.docker.keeper import start_keeper
from runpod_flash.engines.docker.marks import Marks
from runpod_flash.engines.docker.ports import candidates
from runpod_flash.engines.docker.readiness import Readiness
from runpod_flash.engines.docker.sweeping import (
    lock_plane,
    remove_all,
    run_folder,
    sweep,
    unlock_plane,
)
from runpod_flash.engines.docker.worker import ContainerWorker
from runpod_flash.engines.local.capacity import worker_bytes, worker_limit
from runpod_flash.engines.local.volumes import volume_of, warn_of_quota
from runpod_flash.errors import WorkerStartError
from runpod_flash.links.image import ImageLink
from runpod_flash.plane.tasks import Tasks

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from runpod_flash.engines.base import Device, EngineEvents, Platform, StartOrder
    from runpod_flash.engines.docker.connection import Connection
    from runpod_flash.engines.docker.images import Image
    from runpod_flash.engines.local.devices.gpu_pool import GpuLease
    from runpod_flash.engines.local.devices.leasing import Leasing
    from runpod_flash.engines.local.node import Node
    from runpod_flash.engines.local.volumes import Volumes
    from runpod_flash.spec import Container, EndpointSpec


class Desk(Protocol):
    """Where containers ask for jobs."""

    async def open(self, listen: str, host: str) -> None:
        """Listen at an address of this machine, which containers call `host`."""

    async def expect(
        self, endpoint: str, link: ImageLink, end: Callable[[str], None]
    ) -> dict[str, str]:
        """The variables by which a new worker finds its jobs; `end` ends it for a reason."""

    async def dismiss(self, worker_id: str) -> None:
        """The worker is gone."""

    async def close(self) -> None: ...


class DockerEngine:
    """See the module. On the plane's loop; what blocks is on threads."""

    def __init__(
        self, desk: Desk, node: Node, leasing: Leasing, cache: Path, volumes: Volumes
    ) -> None:
        self._desk = desk
        self._node = node
        self._leasing = leasing
        self._cache = cache
        self._volumes = volumes
        self._marks = Marks(cache)
        self._plane = secrets.token_hex(8)
        self._pid = os.getpid()
        self._opening = asyncio.Lock()
        self._images: Images | None = None
        self._keeper: subprocess.Popen[bytes] | None = None
        self._lock: int | None = None
        self._workers: dict[str, ContainerWorker] = {}
        self._tasks = Tasks()
        self._said: set[tuple[str, object]] = set()

    def has(self, worker_id: str) -> bool:
        """Whether the worker is one of these containers."""
        return worker_id in self._workers

    async def start(self, order: StartOrder, events: EngineEvents) -> ContainerWorker:
        spec, container = order.spec, _container(order.spec)
        self._leasing.refuse_impossible(spec)
        try:
            images = await self._connected()
            image = await self._image(images, spec, order.env, partial(events.notice, spec.name))
        except EngineGoneError as error:
            raise CapacityError(Refusal(str(error))) from None
        lease = self._leasing.lease(order, partial(self._say, spec.name, events))
        worker = ContainerWorker(images.connection, order, events, lease, self._forget)
        self._workers[order.worker_id] = worker
        try:
            if spec.is_image:
                return await self._start_program(worker, image, lease)
            create, sockets = partial(self._create, image, lease), run_folder(self._plane)
            return await functions.start(worker, container, create, sockets)
        except BaseException as error:
            await worker.remove()
            self._forget(worker)
            if isinstance(error, EngineGoneError):
                raise CapacityError(Refusal(str(error))) from None
            if isinstance(error, Exception):
                failures.explain(error, container.image, uses_gpu=lease is not None)
            raise

    async def prepare(self, order: StartOrder, events: EngineEvents) -> None:
        self._leasing.refuse_impossible(order.spec)
        await self.pin(order.spec, order.env, partial(events.notice, order.spec.name))

    async def stop(self, worker_id: str) -> None:
        worker = self._workers.get(worker_id)
        if worker is not None:
            worker.kill()

    def limit(self, spec: EndpointSpec) -> tuple[int, str]:
        running = sum(each.order.spec.key == spec.key for each in self._workers.values())
        devices = len(self._leasing.compatible(spec))
        return worker_limit(spec, self._node.machine(0), devices, running, 0)

    def advice(self, worker_id: str) -> str:
        return ""

    def devices(self) -> Sequence[Device]:
        return self._leasing.devices()

    async def pin(
        self, spec: EndpointSpec, env: Mapping[str, str], report: Callable[[str], None] | None
    ) -> str:
        container = _container(spec)
        try:
            images = await self._connected()
            if report is None:
                found = await asyncio.to_thread(images.find, container.image)
                return "" if found is None else found.digest
            return (await self._image(images, spec, env, report)).digest
        except EngineGoneError as error:
            raise WorkerStartError(str(error)) from None

    def memory(self, worker_id: str) -> int:
        worker = self._workers.get(worker_id)
        return worker_bytes(worker.pid) if worker is not None and worker.pid else 0

    def platform(self) -> Platform:
        """(Packages are those of the image.)"""
        raise NotImplementedError

    def forget_endpoint(self, key: str) -> None:
        """Nothing is kept for endpoints."""

    async def forget_app(self, app: str) -> None:
        await asyncio.to_thread(shutil.rmtree, self._cache_of(app), ignore_errors=True)

    async def close(self) -> None:
        await self._tasks.close()
        if self._images is not None:
            connection = self._images.connection
            for worker in [*self._workers.values()]:
                await worker.settled()  # what is still being created is on no list
            try:
                await asyncio.to_thread(remove_all, connection, self._plane)
                self._dismiss_keeper()
            except Exception:
                pass  # the engine does not answer: the keeper goes on
            connection.api.close()
            await self._desk.close()
        if self._lock is not None:
            unlock_plane(self._plane, self._lock)
            self._lock = None

    def _dismiss_keeper(self) -> None:
        """There are no containers of this plane."""
        if self._keeper is not None:
            self._keeper.kill()
            self._keeper.communicate()
            self._keeper = None
        self._marks.remove(self._plane)

    def close_in_child(self) -> None:
        """A copy of the lock or of the keeper's pipe would keep the plane of the parent alive."""
        if self._keeper is not None and self._keeper.stdin is not None:
            self._keeper.stdin.close()  # (nothing is ever written to it, nor is now)
            self._keeper.returncode = 0  # not this process's child: nothing to wait for or warn of
        if self._lock is not None:
            os.close(self._lock)

    # Connecting

    async def _connected(self) -> Images:
        async with self._opening:
            if self._images is None:
                connection = await asyncio.to_thread(connect)
                try:
                    await self._open(connection)
                except BaseException:  # the next worker tries again
                    self._dismiss_keeper()
                    connection.api.close()
                    raise
                self._images = Images(connection)
        return self._images

    async def _open(self, connection: Connection) -> None:
        if self._lock is None:
            self._lock = lock_plane(self._plane)
        await asyncio.to_thread(sweep, connection)
        self._marks.make(self._plane, connection.address)
        self._keeper = start_keeper(connection.address, self._plane, self._cache)
        await self._desk.open(*_desk_addresses(connection))

    async def _image(
        self,
        images: Images,
        spec: EndpointSpec,
        env: Mapping[str, str],
        report: Callable[[str], None],
    ) -> Image:
        """As the endpoint has it; `report` is called on the loop."""
        container = _container(spec)
        credentials = checked_credentials(container.registry_auth, env)

        def tell(text: str) -> None:
            self._tasks.loop.call_soon_threadsafe(report, text)

        return await asyncio.to_thread(
            images.ensure, container.image, credentials, tell, container.digest
        )

    # Programs of images

    async def _start_program(
        self, worker: ContainerWorker, image: Image, lease: GpuLease | None
    ) -> ContainerWorker:
        spec, container = worker.order.spec, _container(worker.order.spec)
        link = ImageLink(worker.worker_id, worker.end)
        variables = await self._desk.expect(spec.name, link, worker.end)
        program = Program(container.entrypoint, container.command)
        published = () if worker.direct else candidates(container, image)
        await self._create(image, lease, worker, program, variables, published)
        readiness = Readiness(container, image, _Look(worker, link))
        self._tasks.spawn(self._wait(worker, link, readiness))
        return worker.hand_over(link)

    async def _wait(self, worker: ContainerWorker, link: ImageLink, readiness: Readiness) -> None:
        base, problem = await readiness.wait()
        if base:
            link.serves(base)
        elif problem:
            link.cannot_start(problem)
            worker.end(problem)

    async def _create(
        self,
        image: Image,
        lease: GpuLease | None,
        worker: ContainerWorker,
        program: Program,
        extra: Mapping[str, str],
        published: tuple[int, ...] = (),
    ) -> None:
        assert self._images is not None
        order, connection = worker.order, self._images.connection
        cache = self._cache_of(order.spec.app)
        cache.mkdir(parents=True, exist_ok=True)
        cache.chmod(0o1777)  # an image's user may be any
        place = Place(
            plane=self._plane,
            podman=connection.podman,
            cores=connection.cores,
            memory=connection.memory,
            cache=cache,
            volume=await self._volume(worker),
            datacenter=self._node.datacenter,
            published=published,
        )
        await worker.create(container_body(order, image, place, lease, program, extra))

    async def _volume(self, worker: ContainerWorker) -> Path | None:
        mount = volume_of(worker.order.spec, self._node.datacenter)
        if mount is None:
            return None
        path = await self._volumes.place(mount)
        name, events = worker.order.spec.name, worker.events
        size = self._volumes.quota(mount)
        warn_of_quota(
            mount.name, path, size, lambda text: self._say(name, events, text, about=mount)
        )
        return path

    def _cache_of(self, app: str) -> Path:
        return self._cache / "images" / (app or "own")

    # What becomes of workers

    def _forget(self, worker: ContainerWorker) -> None:
        if self._workers.pop(worker.worker_id, None) is not None:
            self._leasing.release(worker.worker_id)
            if not self._tasks.closed:  # (the desk closes as well)
                self._tasks.spawn(self._desk.dismiss(worker.worker_id))

    def _say(self, endpoint: str, events: EngineEvents, text: str, about: object = None) -> None:
        key = (endpoint, about or text)
        if key not in self._said:
            self._said.add(key)
            events.notice(endpoint, text)


class _Look:
    """A container, for who waits until its program can be used."""

    def __init__(self, worker: ContainerWorker, link: ImageLink) -> None:
        self._worker = worker
        self._link = link

    @property
    def pid(self) -> int:
        return self._worker.pid

    @property
    def decided(self) -> bool:
        return self._link.decided or self._worker.ended.done()

    def base(self, port: int) -> str:
        return self._worker.base(port)


def _container(spec: EndpointSpec) -> Container:
    assert spec.build.container is not None
    return spec.build.container


def _desk_addresses(connection: Connection) -> tuple[str, str]:
    """Where the desk listens, and how containers call that place."""
    if connection.direct:
        gateway = connection.gateway()
        if gateway:
            return gateway, gateway
    if connection.desktop:
        return "127.0.0.1", "host.docker.internal"
    name = "host.containers.internal" if connection.podman else "host.docker.internal"
    return "0.0.0.0", name
