"""Looking at jobs from outside the dispatcher: their end, their stream, their state."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from runpod_flash.plane.events import JobEnded
from runpod_flash.plane.store.base import JobState
from runpod_flash.plane.store.memory import now
from runpod_flash.wire import failures

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from runpod_flash.plane.events import Event
    from runpod_flash.plane.plane import Plane
    from runpod_flash.plane.store.base import Chunk, Job
    from runpod_flash.wire.codec import Payload
    from runpod_flash.wire.failures import Failure


class Ended(NamedTuple):
    """A job's end: its final state's name, with the result or the failure."""

    state: str
    payload: Payload | None = None
    failure: Failure | None = None

    def to_wire(self) -> dict[str, Any]:
        """The fields of a frame that tells it; the payload is what the frame carries."""
        told: dict[str, Any] = {"state": self.state}
        if self.failure is not None:
            told["failure"] = failures.to_wire(self.failure)
        return told


class Snapshot(NamedTuple):
    """A job as it is now, in the queue API's terms. Times in milliseconds."""

    state: str
    worker_id: str = ""
    delay_ms: int | None = None
    execution_ms: int | None = None
    waits_for: str = ""
    ended: Ended | None = None

    def to_wire(self) -> dict[str, Any]:
        """The fields of a frame that answers `look`."""
        told = {**self._asdict(), "ended": self.ended is not None}
        return told if self.ended is None else {**told, **self.ended.to_wire()}


def ended(job: Job) -> Ended:
    """The end of a job that has ended."""
    outcome, state = job.outcome, job.state._value_
    if outcome is None:
        return Ended(state)
    return Ended(state, outcome.payload, outcome.failure)


class JobViews:
    """Callbacks are called once, at once or later, on any thread.

    `wait` and `chunks` give a function by which the caller stops listening.
    """

    def __init__(self, plane: Plane) -> None:
        self._plane = plane

    def wait(self, job_id: str, on_end: Callable[[Job | None], None]) -> Callable[[], object]:
        """Call back when the job has ended; with None if it is not known."""

        def follow(event: Event) -> None:
            if isinstance(event, JobEnded):
                on_end(event.job)

        events = self._plane.events
        events.follow(job_id, follow)
        job = self._get(job_id)
        # Whoever takes the follower away makes the call: the end may come at this very moment.
        if (job is None or job.state.final) and events.unfollow(job_id, follow):
            on_end(job)
        return lambda: events.unfollow(job_id, follow)

    def chunks(
        self,
        job_id: str,
        start: int,
        on_chunks: Callable[[Sequence[Chunk], Job | None], None],
        limit: int = 1000,
    ) -> Callable[[], object]:
        """Call back with chunks from number `start`, or with the job if none will follow."""

        def look() -> None:
            job = self._get(job_id)
            found = now(self._plane.store.chunks(job_id, start, limit))
            running = job is not None and not job.state.final
            if (found or not running) and self._plane.events.unfollow(job_id, follow):
                more = running or (job is not None and start + len(found) < job.chunks)
                on_chunks(found, None if more else job)

        def follow(event: Event) -> None:
            if isinstance(event, JobEnded):
                # The stream has taken the follower away already.
                self._plane.events.follow(job_id, follow)
            look()

        self._plane.dispatcher.consumed(job_id, start)
        self._plane.events.follow(job_id, follow)
        look()
        return lambda: self._plane.events.unfollow(job_id, follow)

    def look(self, job_id: str) -> Snapshot | None:
        job = self._get(job_id)
        if job is None:
            return None
        began, end = job.started_at, job.finished_at
        return Snapshot(
            state=job.state.value,
            worker_id="" if job.state is JobState.IN_QUEUE else job.worker,
            delay_ms=None if began is None else round((began - job.created_at) * 1000),
            execution_ms=None if end is None or began is None else round((end - began) * 1000),
            waits_for=self._plane.waits_for(job) if job.state is JobState.IN_QUEUE else "",
            ended=ended(job) if job.state.final else None,
        )

    def forget(self, job_id: str) -> None:
        """Drop an ended job: nobody will ask for it again."""
        now(self._plane.store.forget([job_id]))

    def _get(self, job_id: str) -> Job | None:
        return now(self._plane.store.get(job_id))
