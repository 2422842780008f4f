"""Results that were delivered: kept for a while for those who ask again, within a bound."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from runpod_flash.plane.store.base import Job

_ROW_BYTES = 1500


class Delivered:
    """Calls `forget` for jobs in the order in which they were delivered; on the plane's loop."""

    def __init__(self, forget: Callable[[str], None], limit: int) -> None:
        self._forget = forget
        self._limit = limit
        self._kept: deque[tuple[float, int, str]] = deque()
        self._bytes = 0
        self._sweep: asyncio.TimerHandle | None = None

    def add(self, job: Job, seconds: float) -> None:
        """Keep it for so long, if those of others leave room for it."""
        outcome = job.outcome
        size = _ROW_BYTES + (outcome.payload.nbytes if outcome and outcome.payload else 0)
        self._kept.append((time.monotonic() + seconds, size, job.id))
        self._bytes += size
        if self._bytes > self._limit:
            self._clear()
        elif self._sweep is None:
            self._sweep = asyncio.get_running_loop().call_later(seconds, self._clear)

    def _clear(self) -> None:
        if self._sweep is not None:
            self._sweep.cancel()
            self._sweep = None
        clock = time.monotonic()
        while self._kept and (self._kept[0][0] <= clock or self._bytes > self._limit):
            _, size, job_id = self._kept.popleft()
            self._bytes -= size
            self._forget(job_id)
        if self._kept:
            delay = self._kept[0][0] - clock
            self._sweep = asyncio.get_running_loop().call_later(delay, self._clear)
