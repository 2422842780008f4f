"""Those who read lines as they are written, each with a bound on what it has yet to read."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from runpod_flash.plane.logs.record import LogRecord


class Follower:
    """Made on its reader's loop; `offer` may be called by any thread.

    A reader that falls behind by more than `bound` lines is cut off: `cut` is set, and it gets no
    more.
    """

    def __init__(self, wants: Callable[[LogRecord], bool], bound: int) -> None:
        self.cut = asyncio.Event()
        self._wants = wants
        self._bound = bound
        self._loop = asyncio.get_running_loop()
        self._records: deque[LogRecord] = deque()
        self._more = asyncio.Event()
        self._behind = False

    def offer(self, record: LogRecord) -> None:
        if self._behind or not self._wants(record):
            return
        self._records.append(record)
        if len(self._records) > self._bound:
            self._behind = True
            self._records.clear()
            self._loop.call_soon_threadsafe(self.cut.set)
        elif len(self._records) == 1:
            self._loop.call_soon_threadsafe(self._more.set)

    async def next(self) -> Sequence[LogRecord]:
        """What was written since the last time, waited for."""
        await self._more.wait()
        self._more.clear()
        found = []
        while self._records:
            found.append(self._records.popleft())
        return found
