"""The plane's one stream of events: jobs, workers, chunks, log lines, notices, in order."""

from __future__ import annotations

import logging
import threading
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from runpod_flash.links.base import LogLine
    from runpod_flash.plane.store.base import Chunk, Job


class JobAccepted(NamedTuple):
    """The store has taken a new job; on the thread, and in the context, of whoever submitted it."""

    job: Job


class JobStarted(NamedTuple):
    """A worker was given the job; once for each attempt."""

    job: Job


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


class WorkerStarted(NamedTuple):
    """A worker of `endpoint` exists; it has yet to load the user's code."""

    endpoint: str
    worker_id: str


class WorkerReady(NamedTuple):
    """A worker takes jobs from now on, `seconds` after it was ordered."""

    endpoint: str
    worker_id: str
    seconds: float
    app: str = ""


class WorkerEnded(NamedTuple):
    """A worker is gone: `reason` is a phrase such as "exited with code 1".

    `by_itself` says that nobody asked for it. `gpu_seconds` is how long it had devices, times how
    many.
    """

    endpoint: str
    worker_id: str
    reason: str
    by_itself: bool = False
    gpu_seconds: float = 0.0
    app: str = ""


Event: TypeAlias = (
    "JobAccepted | JobStarted | JobEnded | ChunkAdded | Logged | Notice"
    " | WorkerStarted | WorkerReady | WorkerEnded"
)
_KINDS: tuple[type, ...] = (
    JobAccepted, JobStarted, JobEnded, ChunkAdded, Logged, Notice,
    WorkerStarted, WorkerReady, WorkerEnded,
)  # fmt: skip


class EventStream:
    """Hands events to subscribers at once, on the thread where they happen; callbacks are short."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._by_kind: dict[type, list[Callable[[Event], None]]] = {}
        self._by_job: dict[str, list[Callable[[Event], None]]] = {}

    def subscribe(self, callback: Callable[[Event], None], *kinds: type) -> None:
        """Get the events of these kinds, or all of them.

        Naming them spares the others' way: a warm call has several that most do not need.
        """
        for kind in kinds or _KINDS:
            self._by_kind.setdefault(kind, []).append(callback)

    def unsubscribe(self, callback: Callable[[Event], None]) -> None:
        for kind, callbacks in self._by_kind.items():
            # (Somebody may be going through the old list.)
            self._by_kind[kind] = [each for each in callbacks if each != callback]

    def heard(self, kind: type) -> bool:
        """Whether somebody subscribes to events of a kind; others need not be made."""
        return bool(self._by_kind.get(kind))

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
        callbacks = self._by_kind.get(type(event))
        if callbacks:
            _hand(event, callbacks)
        if isinstance(event, JobEnded):
            with self._lock:
                followers = self._by_job.pop(event.job.id, None)
        elif isinstance(event, ChunkAdded):
            with self._lock:
                followers = [*self._by_job.get(event.job_id, ())]
        else:
            return
        if followers:
            _hand(event, followers)


def _hand(event: Event, callbacks: Sequence[Callable[[Event], None]]) -> None:
    for callback in callbacks:
        try:
            callback(event)
        except Exception:
            # Not the business of the worker that sent the result, nor of the other subscribers.
            text = "a subscriber failed on %s"
            logging.getLogger(__name__).exception(text, type(event).__name__)
