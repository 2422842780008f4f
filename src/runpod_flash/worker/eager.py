"""Tasks that run at once to their first await, as `eager_start` has them from Python 3.12 on.

Most jobs are over by then, and are spared a turn of the loop.
"""

from __future__ import annotations

import asyncio
import functools
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

if sys.version_info >= (3, 12):

    def task(work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """A task of the running loop; call it where none is running."""
        return asyncio.Task(work, loop=asyncio.get_running_loop(), eager_start=True)

else:

    def task(work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """A task of the running loop; call it where none is running."""
        loop = asyncio.get_running_loop()
        if not isinstance(loop, asyncio.BaseEventLoop):  # the user's choice
            return loop.create_task(work)
        steps: list[Callable[[], None]] = []
        held = vars(loop)
        own, before = loop.call_soon, held.get("call_soon")

        def soon(call: Any, *args: Any, context: Any = None) -> Any:
            # (Others may call as well: what a collection of garbage in between finalizes.)
            task = getattr(call, "__self__", None)
            if not (isinstance(task, asyncio.Task) and task.get_coro() is work):
                return own(call, *args, context=context)
            steps.append(functools.partial(context.run, call))
            return None

        held["call_soon"] = soon  # what the new task would have done soon is done now
        try:
            made: asyncio.Task[None] = asyncio.Task(work, loop=loop)
        finally:
            if before is None:
                del held["call_soon"]
            else:
                held["call_soon"] = before
        (first_step,) = steps
        first_step()
        return made
