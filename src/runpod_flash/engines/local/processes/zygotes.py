"""Starts workers as forks of a process that has imported what they need, one for each environment.

The first worker of an environment is a fresh process and waits for nothing: its zygote is started
a little later, beside it. Nor does a worker wait for one that is still importing, or was killed:
then it is a fresh process as well. What a zygote is, is told in zygote.py.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from runpod_flash.engines.local.processes.fresh import FreshProcessLauncher
from runpod_flash.engines.local.processes.zygote_handle import Zygote, conditions

if TYPE_CHECKING:
    from runpod_flash.engines.local.processes.launcher import LaunchOrder, ProcessEvents
    from runpod_flash.engines.local.processes.worker_process import WorkerProcess
    from runpod_flash.engines.local.processes.zygote_handle import Conditions


class ZygoteLauncher(FreshProcessLauncher):
    """As its base for orders without `ahead`, and until a zygote is there.

    One starts `delay` seconds after the first worker: a program that is over by then needs none.
    After `idle` seconds without a start it ends.
    """

    def __init__(self, delay: float = 0.5, idle: float = 300, *, apart: bool = False) -> None:
        super().__init__(apart=apart)
        self._delay = delay
        self._idle = idle
        self._zygotes: dict[Conditions, Zygote] = {}

    async def close(self) -> None:
        for zygote in self._zygotes.values():
            zygote.stop()
        await super().close()
        for zygote in self._zygotes.values():
            zygote.close()

    def close_in_child(self) -> None:
        super().close_in_child()
        for zygote in self._zygotes.values():
            zygote.abandon()

    def prepare(self, order: LaunchOrder) -> None:
        zygote = self._zygote(order)
        if zygote is not None:
            zygote.want(order)

    async def _launch(self, order: LaunchOrder, events: ProcessEvents) -> WorkerProcess:
        zygote = self._zygote(order)
        if zygote is None:
            return await super()._launch(order, events)
        worker = await self._fork(order, events, zygote)
        if worker is None:
            worker = await super()._launch(order, events)
        zygote.want(order)
        worker.explain(zygote.unfit, zygote.left_out)
        return worker

    async def _fork(
        self, order: LaunchOrder, events: ProcessEvents, zygote: Zygote
    ) -> WorkerProcess | None:
        """A fork of the zygote, or None where there is to be a fresh process instead."""
        if not zygote.is_ready_for(order):
            return None
        try:
            worker = await self._start(order, events, zygote.supervisor)
        except OSError as error:
            zygote.was_refused(error)
            return None
        zygote.has_forked()
        return worker

    def _zygote(self, order: LaunchOrder) -> Zygote | None:
        needed = conditions(order)
        if needed is None or self._closed:
            return None
        if needed not in self._zygotes:
            loop = asyncio.get_running_loop()
            made = Zygote(needed, self._descriptors, loop, self._apart, self._delay, self._idle)
            self._zygotes[needed] = made
        return self._zygotes[needed]
