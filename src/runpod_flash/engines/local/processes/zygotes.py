"""Starts workers as forks of a process that has imported what they need, one for each environment.

The first worker of an environment is a fresh process and waits for nothing: its zygote is started
a little later, beside it. Nor does a worker wait for one that is still importing, or was killed:
then it is a fresh process as well. What a zygote is, is told in zygote.py.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from runpod_flash.engines.local.capacity import human_bytes
from runpod_flash.engines.local.processes.conditions import conditions, snapshot_key
from runpod_flash.engines.local.processes.fresh import FreshProcessLauncher
from runpod_flash.engines.local.processes.source import InnerSource, ZygoteSource, told_zygote
from runpod_flash.engines.local.processes.supervisors import SupervisorLostError
from runpod_flash.engines.local.processes.zygote_handle import Zygote

if TYPE_CHECKING:
    from collections.abc import Collection

    from runpod_flash.engines.local.processes.conditions import Conditions
    from runpod_flash.engines.local.processes.launcher import LaunchOrder, ProcessEvents
    from runpod_flash.engines.local.processes.source import OnReady, Source
    from runpod_flash.engines.local.processes.worker_process import WorkerProcess
    from runpod_flash.engines.local.processes.zygote_handle import Make


# Of how many that are over it stays known what failed.
_FAILED_KEPT = 16


class _Snapshot(NamedTuple):
    owner: str
    endpoint: str
    zygote: Zygote


class ZygoteLauncher(FreshProcessLauncher):
    """As its base for orders without `ahead`, and until a zygote is there.

    One starts `delay` seconds after the first worker: a program that is over by then needs none.
    After `idle` seconds without a start it ends. Snapshots come and go alike. Of all of them, those
    used last stay that take no more than `max_bytes` together.
    """

    def __init__(
        self,
        *,
        idle: float,
        delay: float = 0.5,
        apart: bool = False,
        max_bytes: int | None = None,
    ) -> None:
        super().__init__(apart=apart)
        self._max_bytes = max_bytes
        self._delay = delay
        self._idle = idle
        self._zygotes: dict[Conditions, Zygote] = {}
        self._snapshots: dict[str, _Snapshot] = {}

    async def close(self) -> None:
        for zygote in self._all():
            zygote.stop()
        await super().close()
        for zygote in self._all():
            zygote.close()

    def close_in_child(self) -> None:
        super().close_in_child()
        for zygote in self._all():
            zygote.abandon()

    def programs(self) -> set[str]:
        kept = (needed.python for needed, each in self._zygotes.items() if not each.is_over())
        return super().programs().union(kept)

    async def forget(self, owner: str) -> None:
        zygotes = [needed for needed in self._zygotes if needed.inside and needed.owner == owner]
        snapshots = [key for key, kept in self._snapshots.items() if kept.owner == owner]
        ending = [self._snapshots.pop(key).zygote for key in snapshots]
        ending += [self._zygotes.pop(needed) for needed in zygotes]
        sources = [source for zygote in ending for source in zygote.close()]
        await asyncio.gather(*(source.gone() for source in sources))

    def prepare(self, order: LaunchOrder) -> None:
        zygote, snapshot = self._zygote(order), self._snapshot(order)
        if zygote is not None:
            zygote.want(order)
        if snapshot is not None:
            snapshot.want(order)

    async def expect(self, order: LaunchOrder) -> None:
        zygote = self._zygote(order)
        if zygote is not None:
            zygote.expect(order)
            await zygote.settled()

    async def _launch(self, order: LaunchOrder, events: ProcessEvents) -> WorkerProcess:
        zygote = self._zygote(order)
        if zygote is None:
            return await super()._launch(order, events)
        snapshot = self._snapshot(order)
        worker = await self._fork(order, events, snapshot) if snapshot is not None else None
        if worker is None:
            worker = await self._fork(order, events, zygote)
        if worker is None:
            worker = await super()._launch(order, events)
        zygote = self._zygote(order) or zygote  # it may have been dropped meanwhile
        zygote.want(order)
        without = "" if snapshot is None else snapshot.unfit
        worker.explain(zygote.unfit, zygote.left_out, without)
        return worker

    async def _fork(
        self, order: LaunchOrder, events: ProcessEvents, zygote: Zygote
    ) -> WorkerProcess | None:
        """A fork of the zygote, or None where it is to be another process instead."""
        if not zygote.is_ready_for(order):
            return None
        forker = zygote.forker
        if forker.is_inside:
            order = replace(order, mounts=(), user=None)
        try:
            worker = await self._start(order, events, forker)
        except OSError as error:
            zygote.was_refused(error)
            return None
        zygote.has_forked()
        return worker

    def _all(self) -> list[Zygote]:
        return [*(kept.zygote for kept in self._snapshots.values()), *self._zygotes.values()]

    def _trim(self) -> None:
        if self._max_bytes is None:
            return
        left = self._max_bytes
        for zygote in sorted(self._all(), key=lambda each: each.used_at, reverse=True):
            takes = zygote.memory()
            if takes > self._max_bytes:
                zygote.unfit = f"it would take {human_bytes(takes)} of memory to keep it ready"
            if takes > left:
                zygote.dismiss()
            else:
                left -= takes

    def _zygote(self, order: LaunchOrder) -> Zygote | None:
        needed = conditions(order)
        if needed is None or self._closed:
            return None
        if needed not in self._zygotes:
            self._drop_those_over()
            make = (
                self._inner_zygote(order, needed)
                if needed.inside
                else self._own(needed, order.argv[1])
            )
            loop = asyncio.get_running_loop()
            self._zygotes[needed] = Zygote(make, loop, self._delay, self._idle, self._trim)
        return self._zygotes[needed]

    def _drop_those_over(self) -> None:
        """Their variables, which may be secrets, may have been replaced by those of the next.

        What failed of the last ones stays known.
        """
        over = {needed: zygote for needed, zygote in self._zygotes.items() if zygote.is_over()}
        failed = [needed for needed, zygote in over.items() if zygote.has_failed]
        for needed in over.keys() - failed[-_FAILED_KEPT:]:
            del self._zygotes[needed]

    def _own(self, needed: Conditions, script: str) -> Make:
        loop = asyncio.get_running_loop()

        def make(learned: Collection[str], on_ready: OnReady) -> Source:
            return ZygoteSource(
                needed, script, learned, self._descriptors, loop, self._apart, on_ready
            )

        return make

    def _inner_zygote(self, order: LaunchOrder, needed: Conditions) -> Make:
        loop, program, script = asyncio.get_running_loop(), needed.modules[0], order.argv[1]
        # No plane's process to watch: its minder does that.
        argv = (_script(needed.home, "zygote.py"), "{link}", "-1", "0", str(needed.home), program)
        order = replace(order, env=dict(needed.env), cwd=needed.cwd)

        def make(learned: Collection[str], on_ready: OnReady) -> Source:
            told = told_zygote(needed, script, learned)
            launch = super(ZygoteLauncher, self)._launch
            return InnerSource(
                order, argv, told, learned, launch, self._descriptors, loop, on_ready
            )

        return make

    def _snapshot(self, order: LaunchOrder) -> Zygote | None:
        key = snapshot_key(order)
        if not key or order.snapshot is None or self._closed:
            return None
        if key not in self._snapshots:
            endpoint = order.snapshot.endpoint
            for old, kept in list(self._snapshots.items()):
                if kept.endpoint == endpoint:  # its code or its variables have changed
                    kept.zygote.dismiss()
                    del self._snapshots[old]
            self._snapshots[key] = _Snapshot(order.owner, endpoint, self._new_snapshot(order))
        return self._snapshots[key].zygote

    def _new_snapshot(self, order: LaunchOrder) -> Zygote:
        loop, ahead, snapshot = asyncio.get_running_loop(), order.ahead, order.snapshot
        assert ahead is not None
        assert snapshot is not None
        argv = (_script(ahead.home, "snapshot.py"), "{link}", ahead.program)

        def make(learned: Collection[str], on_ready: OnReady) -> Source:
            based = replace(order, ahead=replace(ahead, learned=tuple(learned)))

            async def launch(order: LaunchOrder, events: ProcessEvents) -> WorkerProcess:
                zygote = self._zygote(based)
                if zygote is None:
                    raise OSError("there is no process to fork")
                await zygote.settled()
                worker = await self._fork(order, events, zygote)
                if worker is None and zygote.is_lost():
                    raise SupervisorLostError("the process to fork was killed")
                if worker is None:
                    raise OSError(zygote.unfit or "it could not be forked")
                return worker

            return InnerSource(
                order, argv, snapshot.told, learned, launch, self._descriptors, loop, on_ready
            )

        return Zygote(make, loop, self._delay, self._idle, self._trim)


def _script(home: Path, name: str) -> str:
    """Where a worker's Python finds a file of this folder."""
    return str(Path(home, "runpod_flash", "engines", "local", "processes", name))
