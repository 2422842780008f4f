"""Jobs for HTTP clients: submitting, waiting, cancelling, and looking at their chunks."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from runpod_flash.gateway.delivered import Delivered
from runpod_flash.gateway.idempotency import new_id
from runpod_flash.gateway.job_object import JobObjects
from runpod_flash.gateway.messages import Answer, Refusal, answer
from runpod_flash.gateway.session_ids import is_session_id
from runpod_flash.gateway.settings import Settings
from runpod_flash.gateway.streams import Streams
from runpod_flash.gateway.targets import Targets
from runpod_flash.plane.events import JobEnded
from runpod_flash.plane.futures import complete
from runpod_flash.plane.store.base import Call, NewJob, Policy
from runpod_flash.plane.store.memory import now
from runpod_flash.plane.views import JobViews
from runpod_flash.wire.codec import encode_safe

if TYPE_CHECKING:
    from collections.abc import Sequence

    from runpod_flash.plane.events import Event
    from runpod_flash.plane.plane import Plane
    from runpod_flash.plane.pool import Pool
    from runpod_flash.plane.store.base import Chunk, Job

_T = TypeVar("_T")
_O = TypeVar("_O")


class Jobs:
    """See the module; runs on the plane's loop. One for all gateways of a plane."""

    def __init__(self, plane: Plane, settings: Settings | None = None) -> None:
        self._plane = plane
        self.settings = settings = settings or Settings()
        self.store = plane.store
        self.streams = Streams(self, plane.store)
        self.targets = Targets(settings)
        self.views = JobViews(plane)
        self.objects = JobObjects(plane)
        self._delivered = Delivered(self.views.forget, settings.delivered_bytes)

    # Submitting

    def submit(self, pool: Pool, value: Any, method: str = "") -> str:
        """Queue a job with an `input`; its id."""
        new = self._new(pool, value, method)
        self.accept(pool, new)
        return new.id

    def accept(self, pool: Pool, new: NewJob) -> None:
        """Queue a job. One of that id that is there already stays as it is."""
        self._plane.submit(pool, new)

    def run(self, pool: Pool, value: Any, method: str = "") -> tuple[str, asyncio.Future[Job]]:
        """Queue a job, and a future that has it once it has ended."""
        new = self._new(pool, value, method)
        return new.id, self.run_new(pool, new)

    def _new(self, pool: Pool, value: Any, method: str) -> NewJob:
        policy = Policy.of(pool.spec.placement)
        return NewJob(new_id(), pool.key, call_of(value, method), policy)

    def run_new(self, pool: Pool, new: NewJob) -> asyncio.Future[Job]:
        """Queue it; a future that has the job once it has ended, and no crash can change that."""
        ended: asyncio.Future[Job] = asyncio.get_running_loop().create_future()

        def follow(event: Event) -> None:
            if isinstance(event, JobEnded):
                self.store.when_durable(partial(complete, ended, event.job))

        self._plane.events.follow(new.id, follow)
        try:
            self.accept(pool, new)
        except BaseException:
            self._plane.events.unfollow(new.id, follow)
            raise
        return ended

    # Looking

    def has(self, pool: Pool, job_id: str) -> bool:
        """Whether the endpoint has a job of that id."""
        job = now(self._plane.store.get(job_id))
        return job is not None and job.endpoint == pool.key

    def has_for_program(self, name: str, job_id: str) -> bool:
        """Whether there is a job of that id for an endpoint of that name in a program's own app.

        The app may have ended, and its endpoint with it.
        """
        job = now(self._plane.store.get(job_id))
        app, _, rest = ("", "", "") if job is None else job.endpoint.partition(":")
        return is_session_id(app) and rest.startswith(f"{name}:")

    def get(self, pool: Pool, job_id: str) -> Job:
        """The endpoint's job of that id; 404 if it has none."""
        job = now(self._plane.store.get(job_id))
        if job is None or job.endpoint != pool.key:
            kept = self.settings.run_retention_ms, self.settings.sync_retention_ms
            minutes = " and ".join(f"{ms / 60_000:g}" for ms in kept)
            raise Refusal(
                404,
                f"{pool.spec.name} has no job {job_id!r}: it never had, or its result has expired "
                f"(results of run and runsync are kept for {minutes} minutes)",
            )
        return job

    async def end(self, job_id: str, seconds: float) -> Job | None:
        """The job once it has ended; None after so many seconds, or if it is not known.

        No crash can change its end.
        """
        ended: asyncio.Future[Job | None] = asyncio.get_running_loop().create_future()

        def end(job: Job | None) -> None:
            self.store.when_durable(partial(complete, ended, job))

        leave = self.views.wait(job_id, end)
        try:
            return await within(seconds, ended, None)
        finally:
            leave()

    async def chunks(
        self, job_id: str, start: int, seconds: float
    ) -> tuple[Sequence[Chunk], Job | None]:
        """Chunks from number `start`, waited for; the job as well if none will follow."""
        loop = asyncio.get_running_loop()
        found: asyncio.Future[tuple[Sequence[Chunk], Job | None]] = loop.create_future()

        def arrived(chunks: Sequence[Chunk], job: Job | None) -> None:
            complete(found, (chunks, job))

        leave = self.views.chunks(job_id, start, arrived)
        try:
            return await within(seconds, found, ((), None))
        finally:
            leave()

    def pending(self, job_id: str) -> Answer:
        """The answer about a job that has not ended in time."""
        job = now(self._plane.store.get(job_id))
        return (
            answer(404, {"error": "the job is gone"}) if job is None else self.objects.answer(job)
        )

    # Changing

    def cancel(self, job_id: str) -> None:
        """End it, if it has not ended."""
        self._plane.dispatcher.cancel(job_id)

    def retry(self, pool: Pool, job: Job) -> None:
        """Queue it again; 400 where it has not failed, 409 while its code still runs."""
        if self._plane.dispatcher.holder(job.id) is not None and job.state.final:
            text = f"the code of job {job.id} is still being stopped; try again in a moment"
            raise Refusal(409, text)
        if self._plane.dispatcher.retry(pool, job.id) is None:
            text = f"job {job.id} is {job.state.value}: only one that is FAILED or TIMED_OUT"
            raise Refusal(400, f"{text} can be retried")

    def purge(self, pool: Pool) -> int:
        """End every waiting job; how many there were."""
        waiting = now(self._plane.store.waiting(pool.key, limit=1 << 30))
        return sum(self._plane.dispatcher.cancel(job.id) for job in waiting)

    def delivered(self, job: Job) -> None:
        """Somebody has the result: it need not be kept as long as one that nobody has."""
        own = job.policy.retention_ms or self.settings.sync_retention_ms
        self._delivered.add(job, own / 1000)


def call_of(value: Any, method: str = "") -> Call:
    """The call of an `input` that came as JSON."""
    payload = encode_safe(value)
    if payload is None:
        raise Refusal(400, "the input is nested too deeply: at most 100 levels can be passed on")
    return Call(payload, "input", method)


async def within(seconds: float, future: asyncio.Future[_T], otherwise: _O) -> _T | _O:
    """The future's result; the other one after so many seconds, or where the server stops.

    (`wait_for` costs each request a future and a turn of the loop more.)
    """
    timer = asyncio.get_running_loop().call_later(seconds, complete, future, otherwise)
    try:
        return await future
    except asyncio.CancelledError:  # the client still hears how far its job is
        return otherwise
    finally:
        timer.cancel()
