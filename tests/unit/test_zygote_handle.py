"""When there is a process to fork, as the plane sees it."""

from __future__ import annotations

import asyncio
import errno
import os
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

from runpod_flash.engines.local.processes.zygote_handle import Zygote

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from runpod_flash.engines.local.processes.launcher import LaunchOrder

ORDER = cast("LaunchOrder", SimpleNamespace(ahead=None))


class ScriptedSource:
    """A process to fork that lives until it `died`."""

    names: tuple[str, ...] = ()
    learned: frozenset[str] = frozenset()

    def __init__(self, say: Callable[[dict[str, Any]], None]) -> None:
        self.say = say
        self.died = False

    def is_lost(self) -> bool:
        return self.died

    def is_current(self) -> bool:
        return True

    def ended(self) -> bool:
        return self.died

    def let_go(self) -> None:
        pass


def test_one_that_dies_right_after_a_fork_is_followed_by_another() -> None:
    async def scenario() -> None:
        made: list[ScriptedSource] = []

        def make(learned: Collection[str], say: Callable[[dict[str, Any]], None]) -> Any:
            made.append(ScriptedSource(say))
            return made[-1]

        zygote = Zygote(make, asyncio.get_running_loop(), 0, 300, lambda: None)
        zygote.want(ORDER)
        await asyncio.sleep(0.001)
        made[0].say({"names": []})
        assert zygote.is_ready_for(ORDER)
        made[0].died = True
        # Another start finds it dead before this one's fork is known to have worked.
        assert not zygote.is_ready_for(ORDER)
        zygote.has_forked()
        zygote.want(ORDER)
        await asyncio.sleep(0.001)
        assert len(made) == 2

    asyncio.run(scenario())


def test_nobody_waits_for_one_that_cannot_be_started() -> None:
    async def scenario() -> None:
        def make(learned: Collection[str], say: Callable[[dict[str, Any]], None]) -> Any:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

        zygote = Zygote(make, asyncio.get_running_loop(), 0.001, 300, lambda: None)
        zygote.expect(ORDER)
        await asyncio.wait_for(zygote.settled(), 10)
        assert zygote.is_over()

    asyncio.run(scenario())
