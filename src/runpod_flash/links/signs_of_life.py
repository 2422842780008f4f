"""Whether a worker that asks over HTTP is still there, by its requests and heartbeats."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

# So many heartbeats may fail to come.
BEATS = 3
# A worker without heartbeats asks for jobs at least so often.
_QUIET_SECONDS = 180.0
_DEFAULT_INTERVAL = 10.0


class SignsOfLife:
    """What was heard of one worker, and when; `polls` of its requests are held now."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self.polls = 0
        self._interval = _DEFAULT_INTERVAL
        self._seen_at = clock()
        self._beat_at: float | None = None
        self._broke_at: float | None = None

    def seen(self) -> None:
        """The worker itself has asked or told something."""
        self._seen_at, self._broke_at = self._clock(), None

    def beat(self, interval: float) -> None:
        """Its helper has sent a heartbeat, and will send the next one in so many seconds."""
        self._beat_at, self._interval = self._clock(), max(interval, 1.0)

    def broke(self) -> None:
        """It has closed a connection on which it waited. The living ask again at once."""
        self._broke_at = self._clock()

    def death(self) -> str:
        """Why the worker is taken for dead, as a phrase; empty while it is not.

        A killed worker's helper goes on sending heartbeats for ever, and a worker that computes
        asks nothing for as long as it likes. But only the dead close what they wait on.
        """
        clock = self._clock()
        patience = BEATS * self._interval
        if self._beat_at is not None and clock - self._beat_at > patience:
            return f"sent no heartbeat for {patience:.0f} s"
        if self.polls:
            return ""
        if self._broke_at is not None and clock - self._broke_at > patience:
            return "closed its connections"
        if self._beat_at is None and clock - self._seen_at > _QUIET_SECONDS:
            return f"was not heard of for {_QUIET_SECONDS:.0f} s"
        return ""
