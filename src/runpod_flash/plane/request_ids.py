"""Which HTTP request a job comes from: the id that its answer carries, and that logs name."""

from __future__ import annotations

from collections import deque
from contextvars import ContextVar
from typing import TYPE_CHECKING

from runpod_flash.plane.events import JobAccepted, JobEnded

if TYPE_CHECKING:
    from runpod_flash.plane.events import Event, EventStream

# The id of the request that is being answered here; empty outside of one.
current: ContextVar[str] = ContextVar("flash_request", default="")
_MOST = 100_000
_ENDED = 1000


class RequestIds:
    """Remembers each job's request until the job has ended, and a little longer.

    A nested job has its parent's.
    """

    def __init__(self, events: EventStream) -> None:
        self._of: dict[str, str] = {}
        self._ended: deque[str] = deque()
        events.subscribe(self._accepted, JobAccepted)
        events.subscribe(self._job_ended, JobEnded)

    def of(self, job_id: str) -> str:
        """The request that made the job; empty where there was none, or it is not known any more.

        (A server that was started again knows its jobs, not where they came from.)
        """
        return self._of.get(job_id, "")

    def _accepted(self, event: Event) -> None:
        if not isinstance(event, JobAccepted):
            return
        job = event.job
        # What a worker asks is handled in the context of whatever request opened its link.
        request_id = self.of(job.parent) if job.parent else current.get()
        if request_id:
            if len(self._of) >= _MOST:
                self._of.pop(next(iter(self._of)), None)
            self._of[job.id] = request_id

    def _job_ended(self, event: Event) -> None:
        if isinstance(event, JobEnded):
            # (Others hear of the end after this, and a last line may come after it.)
            self._ended.append(event.job.id)
            if len(self._ended) > _ENDED:
                self._of.pop(self._ended.popleft(), None)
