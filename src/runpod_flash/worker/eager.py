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
    from contextvars import Context

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

        def soon(step: Callable[[], None], context: Context) -> None:
            steps.append(functools.partial(context.run, step))

        held: Any = loop
        held.call_soon = soon  # what the new task would have done soon is done now
        try:
            made: asyncio.Task[None] = asyncio.Task(work, loop=loop)
        finally:
            del held.call_soon
        (first_step,) = steps
        first_step()
        return made
