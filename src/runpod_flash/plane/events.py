"""The plane's one stream of events: job states, chunks, log lines, notices, in order."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Union

if TYPE_CHECKING:
    from collections.abc import Callable

    from runpod_flash.links.base import LogLine
    from runpod_flash.plane.store.base import Chunk, Job


@dataclass(frozen=True, slots=True)
class JobEnded:
    """The job took its final state."""

    job: Job


@dataclass(frozen=True, slots=True)
class ChunkAdded:
    """A stream grew by one chunk."""

    job_id: str
    chunk: Chunk


@dataclass(frozen=True, slots=True)
class Logged:
    """A worker of `endpoint` wrote a line."""

    endpoint: str
    line: LogLine


@dataclass(frozen=True, slots=True)
class Notice:
    """Something about an endpoint that a person should know: a build, a limit, a fallback."""

    endpoint: str
    text: str


Event = Union[JobEnded, ChunkAdded, Logged, Notice]


class EventStream:
    """Hands events to subscribers at once, on the thread where they happen; callbacks are short."""

    def __init__(self) -> None:
        self._all: list[Callable[[Event], None]] = []
        self._by_job: dict[str, list[Callable[[Event], None]]] = {}

    def subscribe(self, callback: Callable[[Event], None]) -> None:
        self._all.append(callback)

    def follow(self, job_id: str, callback: Callable[[Event], None]) -> None:
        """Get the events of one job, until it has ended or `unfollow`."""
        self._by_job.setdefault(job_id, []).append(callback)

    def unfollow(self, job_id: str, callback: Callable[[Event], None]) -> bool:
        """Whether the callback was still there to be taken away."""
        followers = self._by_job.get(job_id, [])
        try:
            followers.remove(callback)
        except ValueError:
            return False
        if not followers:
            self._by_job.pop(job_id, None)
        return True

    def publish(self, event: Event) -> None:
        if isinstance(event, JobEnded):
            for callback in self._by_job.pop(event.job.id, ()):
                callback(event)
        elif isinstance(event, ChunkAdded):
            for callback in tuple(self._by_job.get(event.job_id, ())):
                callback(event)
        for callback in self._all:
            callback(event)
