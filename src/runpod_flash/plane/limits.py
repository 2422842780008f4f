"""Time limits of jobs and requests that run; all stand still while a person debugs one of them.

All, for which others wait for that one is not to be known: by its results, or for its worker,
its device or a place in its queue.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable


@dataclass(slots=True, eq=False)
class _Limit:
    """`left` is what remained at `since`, when the timer was set."""

    expired: Callable[[], None]
    left: float
    since: float = 0.0
    timer: asyncio.TimerHandle | None = None


class TimeLimits:
    """By the ids of jobs and requests; on the loop, except `drop`, which any thread may call."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._limits: dict[str, _Limit] = {}
        self._holds = 0

    def set(self, key: str, seconds: float, expired: Callable[[], None]) -> None:
        """Call back in so many seconds, unless `drop` comes first."""
        former = self._limits.pop(key, None)
        if former is not None:
            self._stop(former)
        limit = self._limits[key] = _Limit(expired, seconds)
        if not self._holds:
            self._start(key, limit)

    def drop(self, key: str) -> None:
        limit = self._limits.pop(key, None)
        if limit is not None:
            self._loop.call_soon_threadsafe(self._stop, limit)

    def hold(self) -> None:
        """Have time stand still until `let_go` was called as often."""
        self._holds += 1
        for limit in list(self._limits.values()):
            self._stop(limit)

    def let_go(self) -> None:
        self._holds -= 1
        if not self._holds:
            for key, limit in list(self._limits.items()):
                self._start(key, limit)

    def _start(self, key: str, limit: _Limit) -> None:
        limit.since = self._loop.time()
        limit.timer = self._loop.call_later(limit.left, self._expire, key, limit)

    def _stop(self, limit: _Limit) -> None:
        if limit.timer is not None:
            limit.timer.cancel()
            limit.timer = None
            limit.left = max(limit.left - (self._loop.time() - limit.since), 0.0)

    def _expire(self, key: str, limit: _Limit) -> None:
        if self._limits.get(key) is limit:
            del self._limits[key]
            limit.expired()
