"""The plane's one stream of events: job states, chunks, log lines, notices, in order."""

from __future__ import annotations

import logging
import threading
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from runpod_flash.links.base import LogLine
    from runpod_flash.plane.store.base import Chunk, Job


class JobEnded(NamedTuple):
    """The job took its final state."""

    job: Job


class ChunkAdded(NamedTuple):
    """A stream grew by one chunk."""

    job_id: str
    chunk: Chunk


class Logged(NamedTuple):
    """A worker of `endpoint`, of that app, wrote a line."""

    endpoint: str
    line: LogLine
    app: str = ""


class Notice(NamedTuple):
    """Something about an endpoint that a person should know: a build, a limit, a fallback."""

    endpoint: str
    text: str
    app: str = ""


Event: TypeAlias = "JobEnded | ChunkAdded | Logged | Notice"


class EventStream:
    """Hands events to subscribers at once, on the thread where they happen; callbacks are short."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._all: list[Callable[[Event], None]] = []
        self._by_job: dict[str, list[Callable[[Event], None]]] = {}

    def subscribe(self, callback: Callable[[Event], None]) -> None:
        self._all.append(callback)

    def unsubscribe(self, callback: Callable[[Event], None]) -> None:
        self._all = [each for each in self._all if each != callback]

    def follow(self, job_id: str, callback: Callable[[Event], None]) -> None:
        """Get the events of one job, until it has ended or `unfollow`."""
        with self._lock:
            self._by_job.setdefault(job_id, []).append(callback)

    def unfollow(self, job_id: str, callback: Callable[[Event], None]) -> bool:
        """Whether the callback was still there to be taken away."""
        with self._lock:
            followers = self._by_job.get(job_id, [])
            if callback not in followers:
                return False
            followers.remove(callback)
            if not followers:
                del self._by_job[job_id]
            return True

    def publish(self, event: Event) -> None:
        for callback in self._all:
            _hand(event, callback)
        for callback in self._followers(event):
            _hand(event, callback)

    def _followers(self, event: Event) -> Sequence[Callable[[Event], None]]:
        if isinstance(event, JobEnded):
            with self._lock:
                return self._by_job.pop(event.job.id, ())
        if isinstance(event, ChunkAdded):
            with self._lock:
                return tuple(self._by_job.get(event.job_id, ()))
        return ()


def _hand(event: Event, callback: Callable[[Event], None]) -> None:
    try:
        callback(event)
    except Exception:
        # Not the business of the worker that sent the result, nor of the other subscribers.
        logging.getLogger(__name__).exception("a subscriber failed on %s", type(event).__name__)
