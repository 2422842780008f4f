"""Whether a worker that asks over HTTP is still there, by its requests and heartbeats."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable

# So many heartbeats may fail to come.
BEATS = 3
# A worker without heartbeats asks for jobs at least so often.
_QUIET_SECONDS = 180.0
_DEFAULT_INTERVAL = 10.0


class Connection(Protocol):
    """One by which a worker asks."""

    def keep(self, holder: object, lost: Callable[[], None]) -> None:
        """Have `lost` called once the worker has closed it; until then it may be idle."""

    def let_go(self, holder: object) -> None:
        """It may end, if it is idle."""


class SignsOfLife:
    """What was heard of one worker, and when; `polls` of its requests are held now."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self.polls = 0
        self._interval = _DEFAULT_INTERVAL
        self._seen_at = clock()
        self._beat_at: float | None = None
        self._broke_at: float | None = None
        self._connections: set[Connection] = set()

    def seen(self) -> None:
        """The worker itself has asked or told something."""
        self._seen_at, self._broke_at = self._clock(), None

    def asks_by(self, connection: Connection) -> None:
        """It has a connection, which its process holds open for as long as it lives."""
        self._connections.add(connection)
        connection.keep(self, partial(self._closed, connection))

    def _closed(self, connection: Connection) -> None:
        self._connections.discard(connection)
        if not self._connections:
            self.broke()

    def end(self) -> None:
        """It is of no interest any more."""
        connections, self._connections = self._connections, set()
        for each in connections:
            each.let_go(self)

    def beat(self, interval: float) -> None:
        """Its helper has sent a heartbeat, and will send the next one in so many seconds."""
        self._beat_at, self._interval = self._clock(), max(interval, 1.0)

    def broke(self) -> None:
        """It has closed a connection on which it waited, or all. The living ask again at once."""
        self._broke_at = self._clock()

    def death(self) -> str:
        """Why the worker is taken for dead, as a phrase; empty while it is not.

        A killed worker's helper goes on sending heartbeats for ever, and a worker that computes
        asks nothing for as long as it likes. But only the dead close what they wait on, or all that
        they have: who computes closes nothing.
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
