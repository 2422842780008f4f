"""The plane's side of a zygote: when there is one, and whether a worker may be its fork."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from runpod_flash.engines.local.processes.supervisors import SupervisorLostError

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator
    from pathlib import Path

    from runpod_flash.engines.local.processes.launcher import LaunchOrder
    from runpod_flash.engines.local.processes.source import Source
    from runpod_flash.engines.local.processes.supervisors import Forker

    Make = Callable[[Collection[str], Callable[[dict[str, Any]], None]], Source]

_MAX_LOSSES = 3
_MAX_LEFT_OUT = 5


class Zygote:
    """There at some times: from a while after it is first wanted until it is idle or was killed.

    It is replaced, when the next one is ready, by one that has imported what was learned meanwhile.
    `unfit` says why there is to be none, `left_out` which modules it does not import, and why.
    `on_grown` is called when there is one that was not there before.
    """

    def __init__(
        self,
        make: Make,
        loop: asyncio.AbstractEventLoop,
        delay: float,
        idle: float,
        on_grown: Callable[[], None],
    ) -> None:
        self._make = make
        self._on_grown = on_grown
        self._loop = loop
        self._delay = delay
        self._idle = idle
        self._timer: asyncio.TimerHandle | None = None
        self._timer_starts = False
        self._learned: tuple[str, ...] = ()
        self._current: Source | None = None
        self._coming: Source | None = None
        self._leaving: list[Source] = []
        self._losses = 0
        self._changed = asyncio.Event()
        self.used_at = 0.0
        self.unfit = ""
        self.left_out: dict[str, str] = {}

    @property
    def forker(self) -> Forker:
        assert self._current is not None
        assert self._current.forker is not None
        return self._current.forker

    @property
    def has_failed(self) -> bool:
        """Whether it knows of something that is not to be tried again and again."""
        return bool(self.unfit or self.left_out or self._losses)

    def is_over(self) -> bool:
        """Whether nothing is left of it, and nothing is to come."""
        self._reap()
        there = self._current is not None or self._coming is not None or self._timer is not None
        return not there and not self._leaving

    def _reap(self) -> None:
        self._leaving = [each for each in self._leaving if not each.ended()]

    def is_ready_for(self, order: LaunchOrder) -> bool:
        self._reap()
        if self._current is None:
            return False
        if self._current.is_lost():
            self._lose()
            return False
        if not self._current.is_current():
            self._retire()
            return False
        folders = order.ahead.folders if order.ahead is not None else ()
        names = self._current.names or ()
        return not any(_has_module(folder, names) for folder in folders)

    def want(self, order: LaunchOrder) -> None:
        """Have one come, after a while, that has imported what the order would.

        The order's worker, or one like it, has started by now.
        """
        if self._current is None:
            self.used_at = self._loop.time()
        self.expect(order)

    def expect(self, order: LaunchOrder) -> None:
        """As `want`, where no such worker has started yet."""
        if order.ahead is not None:
            self._learned = order.ahead.learned
        if self.unfit or self._coming is not None:
            return
        if self._current is None and self._timer is None:
            self._set_timer(self._delay, self._start)
        elif self._current is not None and self._lacks(self._current):
            self._start()

    def memory(self) -> int:
        """Bytes that the one that is there takes."""
        return 0 if self._current is None else self._current.memory()

    def has_forked(self) -> None:
        self.used_at = self._loop.time()
        self._losses = 0
        if self._current is not None:  # (it may have been killed after the fork)
            self._set_timer(self._idle, self._retire)

    def is_lost(self) -> bool:
        """Whether there is none for a while only: it was killed, or has been idle."""
        return not self.unfit and (self._current is None or self._current.is_lost())

    def was_refused(self, refusal: OSError) -> None:
        """What was refused to a fork alone, and not by the system, always will be."""
        passing = refusal.errno or isinstance(refusal, SupervisorLostError)
        if not passing and self._current is not None and not self._current.is_lost():
            self.unfit = str(refusal)
            self._retire()

    def stop(self) -> None:
        """Start no more, and end one that nothing depends on yet."""
        self._set_timer(None)
        self._changed.set()
        if self._coming is not None:
            self._coming.kill()
            self._leaving.append(self._coming)
            self._coming = None

    def dismiss(self) -> None:
        """Have none any more; the one that is there ends when its workers have."""
        self.stop()
        self._retire()

    def close(self) -> list[Source]:
        """End it, and those that were only waiting for their workers: these."""
        self.dismiss()
        ending, self._leaving = self._leaving, []
        for process in ending:
            process.kill()
        return ending

    def abandon(self) -> None:
        for process in (*self._leaving, self._current, self._coming):
            if process is not None:
                process.abandon()

    def _lacks(self, process: Source) -> bool:
        return not process.learned.issuperset(self._to_import())

    def _to_import(self) -> list[str]:
        return list(_without(self._learned, self.left_out))

    def _start(self) -> None:
        self._set_timer(None)
        with suppress(OSError):  # the next worker's own start tells
            self._coming = self._make(self._to_import(), self._take)
        self._changed.set()

    def _take(self, answer: dict[str, Any]) -> None:
        """What the one to come has said."""
        came, self._coming = self._coming, None
        assert came is not None
        if "names" in answer:
            self._retire()
            self._current = came
            self._set_timer(self._idle, self._retire)
            again = self._lacks(came)
        else:
            again = self._leave_out(answer)
            came.let_go()
            self._leaving.append(came)
        if again and not self.unfit:
            self._start()
        self._changed.set()
        if self._current is came:
            self._on_grown()

    async def settled(self) -> None:
        """Wait for the one that comes, if one does."""
        while not self.unfit and (self._coming is not None or self._timer_starts):
            self._changed.clear()
            await self._changed.wait()

    def _leave_out(self, answer: dict[str, Any]) -> bool:
        """Note what failed; whether to try at once without it."""
        module, error = str(answer.get("module", "")), str(answer.get("error", ""))
        if module and len(self.left_out) < _MAX_LEFT_OUT:
            self.left_out[module] = error
            return True
        if error:
            self.unfit = error
        else:
            self._count_loss()
        return False

    def _lose(self) -> None:
        self._count_loss()
        self._retire()

    def _count_loss(self) -> None:
        self._losses += 1
        if self._losses == _MAX_LOSSES:
            self.unfit = f"the process to fork ended {_MAX_LOSSES} times by itself"

    def _retire(self) -> None:
        """Let it end when its workers have; the next one is started when it is wanted."""
        self._set_timer(None)
        if self._current is not None:
            self._current.let_go()
            self._leaving.append(self._current)
        self._current = None

    def _set_timer(self, seconds: float | None, action: Callable[[], None] | None = None) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = None
        self._timer_starts = action == self._start
        if seconds is not None and action is not None:
            self._timer = self._loop.call_later(seconds, action)


def _without(names: Iterable[str], left_out: Collection[str]) -> Iterator[str]:
    for name in names:
        if not any(name == other or name.startswith(f"{other}.") for other in left_out):
            yield name


def _has_module(folder: Path, names: Collection[str]) -> bool:
    """Whether a module there has one of the names. (A folder without `__init__` is behind all.)"""
    with suppress(OSError):
        alike = [path for path in folder.iterdir() if path.name.partition(".")[0] in names]
        return any(
            path.suffix in (".py", ".so") or (path / "__init__.py").exists() for path in alike
        )
    return False
