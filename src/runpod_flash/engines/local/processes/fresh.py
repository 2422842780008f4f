"""Starts each worker as a new program."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from runpod_flash.engines.local.processes.descriptors import Descriptors
from runpod_flash.engines.local.processes.launcher import Launcher
from runpod_flash.engines.local.processes.supervisors import Supervisor, SupervisorLostError
from runpod_flash.engines.local.processes.worker_process import WorkerProcess

if TYPE_CHECKING:
    from runpod_flash.engines.local.processes.launcher import LaunchOrder, Process, ProcessEvents
    from runpod_flash.engines.local.processes.supervisors import Forker

_PROGRAM = Path(__file__).resolve().with_name("supervise.py")
_PARALLEL_LAUNCHES = 64  # keeps orders far below what a socket buffers, so that none ever blocks


class FreshProcessLauncher(Launcher):
    """Starts each worker as a new program. Belongs to one event loop and is used on it only.

    `apart` puts each into namespaces of its own, where it sees no other's processes; what it is not
    to see of the files is for its order to say. See `namespaces.apart_refusal`.
    """

    def __init__(self, *, apart: bool = False) -> None:
        self._apart = apart
        self._descriptors = Descriptors()
        self._supervisor: Supervisor | None = None
        self._workers: set[WorkerProcess] = set()
        self._starting = asyncio.Semaphore(_PARALLEL_LAUNCHES)
        self._closed = False

    async def launch(self, order: LaunchOrder, events: ProcessEvents) -> Process:
        with order.link:
            async with self._starting:
                try:
                    return await self._launch(order, events)
                except SupervisorLostError:
                    # One was killed between two launches, or during this one: again, once.
                    return await self._launch(order, events)

    def prepare(self, order: LaunchOrder) -> None:
        """A new program is as slow each time."""

    async def expect(self, order: LaunchOrder) -> None:
        """Nor is anything of it made ahead."""

    def programs(self) -> set[str]:
        return {worker.program for worker in self._workers}

    async def forget(self, owner: str) -> None:
        """Nothing is kept ready."""

    async def close(self) -> None:
        self._closed = True
        workers = list(self._workers)
        for worker in workers:
            worker.kill()
        await asyncio.gather(*(worker.gone for worker in workers))
        if self._supervisor is not None:
            await self._supervisor.close()

    def close_in_child(self) -> None:
        """For a forked copy of this process: let go of the workers, which are the parent's.

        Give it to `os.register_at_fork(after_in_child=...)`. It touches no event loop, for the
        child's loop shares its selector with the parent's.
        """
        self._closed = True
        self._workers.clear()
        self._descriptors.abandon()
        if self._supervisor is not None:
            self._supervisor.abandon()

    async def _launch(self, order: LaunchOrder, events: ProcessEvents) -> WorkerProcess:
        if self._closed:
            raise OSError(f"worker {order.worker_id} was not started: its launcher is closed")
        if self._supervisor is None or not self._supervisor.alive():
            await self._replace_supervisor()
        assert self._supervisor is not None
        return await self._start(order, events, self._supervisor)

    async def _start(
        self, order: LaunchOrder, events: ProcessEvents, supervisor: Forker
    ) -> WorkerProcess:
        worker = WorkerProcess(order, events, self._descriptors, self._workers.discard)
        self._workers.add(worker)
        try:
            await worker.start(order, supervisor)
        except BaseException:
            worker.abandon()
            raise
        worker.report()
        return worker

    async def _replace_supervisor(self) -> None:
        command = [sys.executable, "-I", "-S", str(_PROGRAM)]
        new = Supervisor(self._descriptors, command, self._apart)
        old, self._supervisor = self._supervisor, new
        if old is not None:
            await old.close()
