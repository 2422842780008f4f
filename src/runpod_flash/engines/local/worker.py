"""A worker of the `local` engine: a process, and its side of the link."""

from __future__ import annotations

import asyncio
import signal
from collections import deque
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import TYPE_CHECKING

from runpod_flash.engines.base import WorkerExit
from runpod_flash.engines.local.devices.leasing import NODE
from runpod_flash.engines.local.processes.launcher import describe
from runpod_flash.links.framed import FramedLink

if TYPE_CHECKING:
    import socket

    from runpod_flash.engines.base import EngineEvents, StartOrder
    from runpod_flash.engines.local.devices.gpu_pool import GpuLease
    from runpod_flash.engines.local.engine import LocalEngine
    from runpod_flash.engines.local.processes.launcher import LaunchOrder, Process, ProcessExit

_OUTPUT_KEPT = 20


@dataclass(eq=False)
class LocalWorker:
    """`WorkerHandle` of a process, and its side of the process's events.

    `stream` is the other end of the worker's link, which greets with `token`. It is the link's, or
    that of whoever passes its bytes on.
    """

    engine: LocalEngine
    order: StartOrder
    events: EngineEvents
    stream: socket.socket
    token: str
    lease: GpuLease | None
    cpus: frozenset[int] = frozenset()
    node: str = NODE
    launched: LaunchOrder | None = None
    process: Process | None = None
    stopped: bool = False
    advice: str = ""
    output_tail: deque[str] = field(default_factory=lambda: deque(maxlen=_OUTPUT_KEPT))

    @property
    def worker_id(self) -> str:
        return self.order.worker_id

    @cached_property
    def link(self) -> FramedLink:
        loop, learn = asyncio.get_running_loop(), partial(self.engine.learn, self)
        name, memory = self.order.worker_id, self.engine.shared_memory
        return FramedLink(self.stream, loop, name, self.token, learn, memory)

    @property
    def devices(self) -> tuple[str, ...]:
        return tuple(gpu.name for gpu in self.lease.devices) if self.lease is not None else ()

    def output(self, worker_id: str, line: str) -> None:
        self.output_tail.append(line)
        self.events.worker_output(worker_id, line)

    def exited(self, exit: ProcessExit) -> None:
        self.engine.forget(self)
        ended = self.stopped and exit.returncode == -signal.SIGKILL
        reason = "was ended by Flash" if ended else describe(exit.returncode)
        self.events.worker_exited(WorkerExit(self.worker_id, reason, "\n".join(self.output_tail)))
