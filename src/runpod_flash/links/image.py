"""The link to a container of which its image says what it is: a queue worker or an HTTP server.

It becomes the one or the other by the first sign: it asks for a job, or its port answers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from runpod_flash.errors import JobError, WorkerStartError
from runpod_flash.links.base import Part
from runpod_flash.links.http_server import HttpServerLink
from runpod_flash.links.runpod_http import RunPodLink
from runpod_flash.wire.failures import capture, to_wire

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Mapping

    from runpod_flash.links.base import JobRef, LinkEvents
    from runpod_flash.plane.store.base import Job
    from runpod_flash.spec import EndpointSpec
    from runpod_flash.wire.codec import Payload


class ImageLink:
    """`WorkerLink`; the worker is ready, and its link `real`, from the first sign on.

    `on_stop` has the container end.
    """

    def __init__(self, worker_id: str, on_stop: Callable[[], None]) -> None:
        self.worker_id = worker_id
        self._on_stop = on_stop
        self._queue = RunPodLink(worker_id)
        self._opened: tuple[LinkEvents, EndpointSpec, Mapping[str, str]] | None = None
        self._wanted: RunPodLink | HttpServerLink | None = None
        self.real: RunPodLink | HttpServerLink | None = None
        self._closed = False

    @property
    def decided(self) -> bool:
        """Whether it has turned out what the worker is."""
        return self._wanted is not None

    def cannot_start(self, problem: str) -> None:
        """It will be neither; `problem` is a clause."""
        if self._opened is not None:
            events, spec, _ = self._opened
            text = f"no worker of {spec.name!r} can start: {problem}"
            events.start_failed(capture(WorkerStartError(text), origin="system"))

    def asks(self) -> RunPodLink | None:
        """The worker asks for jobs; the link that gives them, None where it is to get none."""
        self._decide(self._queue)
        return self.queue

    @property
    def queue(self) -> RunPodLink | None:
        """The link of a worker that has asked for jobs."""
        return self._queue if self.real is self._queue else None

    def serves(self, base: str) -> None:
        """The worker answers requests at this address."""
        if self._wanted is None:
            self._decide(HttpServerLink(self.worker_id, base))

    def _decide(self, link: RunPodLink | HttpServerLink) -> None:
        if self._wanted is None and not self._closed:
            self._wanted = link
            if self._opened is not None:
                self.open(*self._opened)

    # For the plane

    def open(self, events: LinkEvents, spec: EndpointSpec, caller_env: Mapping[str, str]) -> None:
        self._opened = events, spec, caller_env
        if self._wanted is not None:
            self.real = self._wanted
            self.real.open(events, spec, caller_env)

    def run(self, job: Job, *, trusted: bool) -> None:
        assert self.real is not None
        self.real.run(job, trusted=trusted)

    def exchange(self, part: Part) -> None:
        if isinstance(self.real, HttpServerLink):
            self.real.exchange(part)
        elif part.kind == "start" and self._opened is not None:
            text = f"{self.worker_id} takes jobs, and no requests: call it by run() or runsync()"
            failure = to_wire(capture(JobError(text), origin="system"))
            self._opened[0].exchange(Part(part.exchange, "end", {"failure": failure}))

    def cancel(self, ref: JobRef) -> None:
        if self.real is not None:
            self.real.cancel(ref)

    def lend(self, loop: asyncio.AbstractEventLoop) -> None:
        """There is nothing to read."""

    def grant(self, ref: JobRef, chunks: int) -> None:
        """These streams are not held back."""

    def answer(self, call_id: int, fields: Mapping[str, Any], payload: Payload | None) -> None:
        """They ask nothing of the plane."""

    def stop(self) -> None:
        if self.real is not None:
            self.real.stop()
        self._on_stop()

    def drain(self) -> None:
        """Nothing is on its way but in requests."""

    def close(self) -> None:
        self._closed = True
        for link in (self._queue, self.real):
            if link is not None:
                link.close()
