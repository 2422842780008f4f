"""Tells webhooks of the ends of their jobs: once these are durable, until somebody listens.

The store keeps an ended job until its webhook was told, so that a restart forgets none. One may be
told twice, where the server died between the answer and its note of it.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, NamedTuple, Protocol

from runpod_flash.errors import StoreFullError
from runpod_flash.gateway.targets import ForbiddenTargetError
from runpod_flash.gateway.webhook_secret import new_secret
from runpod_flash.gateway.webhook_sender import WebhookSender
from runpod_flash.plane.events import JobEnded, Notice
from runpod_flash.plane.store.memory import now
from runpod_flash.plane.tasks import Tasks

if TYPE_CHECKING:
    from collections.abc import Sequence

    from runpod_flash.gateway.job_object import JobObjects
    from runpod_flash.gateway.jobs import Jobs
    from runpod_flash.plane.events import Event
    from runpod_flash.plane.plane import Plane
    from runpod_flash.plane.store.base import Job


# So many are sent at once.
_AT_ONCE = 64
_DISK_SECONDS = 5.0


class _Tried(NamedTuple):
    """How a try went: why nobody took it, and whether there is no use in another."""

    text: str
    final: bool = False


class Sender(Protocol):
    """How a webhook is sent."""

    async def send(self, webhook: str, message_id: str, body: bytes) -> int:
        """The status of the answer. Raises `ForbiddenTargetError`, or `OSError` without one."""

    async def close(self) -> None: ...


class Webhooks:
    """The webhooks of a plane's jobs; `delays` are the seconds before each further try."""

    def __init__(
        self, plane: Plane, objects: JobObjects, sender: Sender, delays: Sequence[float]
    ) -> None:
        self._plane = plane
        self._objects = objects
        self._sender = sender
        self._delays = delays
        self._slots = asyncio.Semaphore(_AT_ONCE)
        self._tasks = Tasks()
        plane.events.subscribe(self._ended, JobEnded)
        for job_id in now(plane.store.owed()):
            self._begin(job_id)

    def _ended(self, event: Event) -> None:
        if isinstance(event, JobEnded) and event.job.webhook:
            self._tasks.loop.call_soon_threadsafe(self._begin, event.job.id)

    def _begin(self, job_id: str) -> None:
        if not self._tasks.closed:
            self._tasks.spawn(self._tell(job_id))

    async def close(self) -> None:
        """Send no more; those that are owed are sent by the next start. Before the plane's end."""
        await self._tasks.close()
        await self._sender.close()

    async def _tell(self, job_id: str) -> None:
        delays = iter(self._delays)
        while (job := await self._ended_job(job_id)) is not None:
            tried = await self._try(job)
            delay = None if tried.final else next(delays, None)
            if delay is None:
                if tried.text:
                    self._give_up(job, tried.text)
                now(self._plane.store.told(job_id))
                return
            await asyncio.sleep(delay)

    async def _ended_job(self, job_id: str) -> Job | None:
        """The job, once its end is durable; None if it was retried: its next end is told."""
        await self._durable()
        job = now(self._plane.store.get(job_id))
        return job if job is not None and job.state.final else None

    async def _durable(self) -> None:
        while True:
            try:
                return await self._plane.store.durable()
            except StoreFullError:
                await asyncio.sleep(_DISK_SECONDS)

    async def _try(self, job: Job) -> _Tried:
        body = self._objects.body(job, with_input=True)
        try:
            async with self._slots:
                status = await self._sender.send(job.webhook, f"{job.id}.{job.attempt}", body)
        except ForbiddenTargetError as error:
            return _Tried(str(error), final=True)
        except OSError as error:
            return _Tried(str(error))
        except Exception as error:  # else its job would be owed for ever
            return _Tried(f"{type(error).__name__}: {error}", final=True)
        taken = 200 <= status < 300
        return _Tried("" if taken else f"it answered {status}", final=taken)

    def _give_up(self, job: Job, fault: str) -> None:
        pool = self._plane.find(job.endpoint)
        name = pool.spec.name if pool is not None else job.endpoint
        text = f"the webhook {job.webhook} of job {job.id} was not told of its end: {fault}"
        self._plane.events.publish(Notice(name, text))


def open_webhooks(plane: Plane, jobs: Jobs) -> Webhooks:
    """Tell the webhooks of a server's jobs, by its settings."""
    settings = jobs.settings
    sender = WebhookSender(jobs.targets, settings.webhook_secret or new_secret())
    return Webhooks(plane, jobs.objects, sender, settings.webhook_delays)
