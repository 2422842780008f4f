"""A worker that is a container: its handle, and what becomes of it from its start to its end."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from typing import TYPE_CHECKING, Any

from runpod_flash.engines.base import WorkerExit
from runpod_flash.engines.docker import watching
from runpod_flash.engines.docker.connection import EngineGoneError, calls
from runpod_flash.engines.docker.sweeping import remove
from runpod_flash.engines.local.devices.leasing import NODE

if TYPE_CHECKING:
    from collections.abc import Callable

    from runpod_flash.engines.base import EngineEvents, StartOrder
    from runpod_flash.engines.docker.connection import Connection
    from runpod_flash.engines.local.devices.gpu_pool import GpuLease
    from runpod_flash.links.base import WorkerLink

_OUTPUT_KEPT = 20
# From SIGTERM to SIGKILL.
_STOP_SECONDS = 3.0


class ContainerWorker:
    """`WorkerHandle`. On the plane's loop; `forget` is told when the container is no more."""

    def __init__(
        self,
        connection: Connection,
        order: StartOrder,
        events: EngineEvents,
        lease: GpuLease | None,
        forget: Callable[[ContainerWorker], None],
    ) -> None:
        self.order = order
        self.node = NODE
        self.pid = 0
        self.ended: asyncio.Future[WorkerExit] = asyncio.get_running_loop().create_future()
        self.reason = ""  # why it was ended, where it was
        self._connection = connection
        self.events = events
        self._lease = lease
        self._forget = forget
        self._loop = asyncio.get_running_loop()
        self._creation: asyncio.Future[None] | None = None
        self._container = ""
        self._address = ""
        self._published: dict[int, int] = {}
        self._link: WorkerLink | None = None
        self._handed_over = False
        self._stopping = False
        self._tail: deque[str] = deque(maxlen=_OUTPUT_KEPT)

    @property
    def worker_id(self) -> str:
        return self.order.worker_id

    @property
    def direct(self) -> bool:
        """Whether its own address can be reached from here."""
        return self._connection.direct

    @property
    def devices(self) -> tuple[str, ...]:
        return tuple(gpu.name for gpu in self._lease.devices) if self._lease is not None else ()

    @property
    def link(self) -> WorkerLink:
        assert self._link is not None
        return self._link

    def hand_over(self, link: WorkerLink) -> ContainerWorker:
        """From now on the plane hears of its end. Raises `OSError` if it has ended already."""
        if self.ended.done():
            exit_ = self.ended.result()
            raise OSError(f"{exit_.reason}; its last output:\n{exit_.output}")
        self._link, self._handed_over = link, True
        return self

    async def create(self, body: dict[str, Any]) -> None:
        """Create and start the container. Raises `docker.errors.APIError`, `EngineGoneError`."""
        self._creation = self._loop.run_in_executor(None, self._create, body)
        await self.settled()
        self._creation.result()
        name = f"flash-{self.worker_id}"
        threading.Thread(target=self._follow, name=name, daemon=True).start()

    async def settled(self) -> None:
        """Return when no container is being created: nothing can stop the thread that does it."""
        if self._creation is not None:
            await asyncio.wait({self._creation})  # (which does not cancel it)
            self._creation.exception()  # nobody else may ask for it

    def _create(self, body: dict[str, Any]) -> None:
        api = self._connection.api
        with calls(self._connection.address):
            self._container = api.create_container_from_config(body)["Id"]
            try:
                api.start(self._container)
                found = api.inspect_container(self._container)
            except BaseException:
                remove(self._connection, self._container)
                raise
        network = found["NetworkSettings"]
        networks = (network.get("Networks") or {}).values()
        addresses = [network.get("IPAddress"), *(each.get("IPAddress") for each in networks)]
        self._address = next(filter(None, addresses), "")
        if self._connection.direct:
            self.pid = int(found["State"].get("Pid") or 0)
        for port, places in (network.get("Ports") or {}).items():
            if places:
                self._published[int(port.partition("/")[0])] = int(places[0]["HostPort"])

    def base(self, port: int) -> str:
        """The address of one of its ports; empty where it cannot be reached."""
        if self._connection.direct and self._address:
            return f"http://{self._address}:{port}"
        there = self._published.get(port)
        return f"http://127.0.0.1:{there}" if there else ""

    # Its end

    def _follow(self) -> None:
        try:
            reason = watching.follow(self._connection, self._container, self._tell)
            self._loop.call_soon_threadsafe(self._has_ended, reason)
        except RuntimeError:
            pass  # the loop is closed: nobody wants to know

    def _tell(self, line: str) -> None:
        self._loop.call_soon_threadsafe(self._wrote, line)

    def _wrote(self, line: str) -> None:
        self._tail.append(line)
        self.events.worker_output(self.worker_id, line)

    def _has_ended(self, reason: str) -> None:
        output = "\n".join(self._tail)
        if hint := watching.hints(output):
            output += f"\n{hint}"
        exit_ = WorkerExit(self.worker_id, self.reason or reason, output)
        self._forget(self)
        self.ended.set_result(exit_)
        if self._handed_over:
            self.events.worker_exited(exit_)

    def end(self, reason: str = "") -> None:
        """Have it end: asked first, then killed. `reason` is a phrase for why."""
        self.reason = self.reason or reason
        if not self._stopping and not self.ended.done():
            self._stopping = True
            self._signal("SIGTERM")
            self._loop.call_later(_STOP_SECONDS, self.kill)

    def kill(self) -> None:
        """Have it end now."""
        if not self.ended.done():
            self._signal("SIGKILL")

    def _signal(self, name: str) -> None:
        self._loop.run_in_executor(None, self._send, name)

    def _send(self, name: str) -> None:
        import docker

        try:
            with calls(self._connection.address):
                self._connection.api.kill(self._container, signal=name)
        except (EngineGoneError, docker.errors.APIError):
            pass  # it has ended, or its end is heard of once the engine is back

    async def remove(self) -> None:
        """Kill and remove it, even if it is still being created."""
        await self.settled()
        if self._container and not self.ended.done():
            await asyncio.to_thread(remove, self._connection, self._container)
