"""Tasks of Flash's own: their failures are told, and none outlives it."""

from __future__ import annotations

import asyncio
from typing import Any

from runpod_flash.plane.tasks import Tasks


def test_a_task_that_fails_is_told_to_the_loop_and_ends_no_other() -> None:
    told: list[dict[str, Any]] = []

    async def fails() -> None:
        raise LookupError("a fault")

    async def goes_on(done: asyncio.Event) -> None:
        await asyncio.sleep(0)
        done.set()

    async def main() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context))
        tasks, done = Tasks(), asyncio.Event()
        tasks.spawn(fails())
        tasks.spawn(goes_on(done))
        await done.wait()

    asyncio.run(main())
    (context,) = told
    assert context["message"] == "a task of Flash failed"
    assert str(context["exception"]) == "a fault"


def test_closing_ends_what_runs_and_tells_nobody() -> None:
    told: list[dict[str, Any]] = []
    ended: list[str] = []

    async def runs() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append("runs")

    async def main() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context))
        tasks = Tasks()
        tasks.spawn(runs())
        await asyncio.sleep(0)
        await tasks.close()
        assert tasks.closed and ended == ["runs"]

    asyncio.run(main())
    assert not told
