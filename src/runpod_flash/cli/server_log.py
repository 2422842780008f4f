"""What a server tells of itself: workers, failed jobs, refused requests. No inputs, keys or values.

(What workers print is theirs: it is in their own logs, and on the terminal.)
"""

from __future__ import annotations

import logging
import sys
from typing import TYPE_CHECKING, Literal

from runpod_flash.cli import dev_screen
from runpod_flash.cli.log_lines import JsonLines, LogLines, PlainLines, log
from runpod_flash.client.terminal import Printer
from runpod_flash.plane.events import (
    JobEnded,
    JobStarted,
    Logged,
    Notice,
    WorkerEnded,
    WorkerReady,
    WorkerStarted,
)
from runpod_flash.plane.store.base import JobState
from runpod_flash.printable import printable

if TYPE_CHECKING:
    from collections.abc import Callable

    from runpod_flash.gateway.noting import Answered
    from runpod_flash.plane.events import Event
    from runpod_flash.plane.plane import Plane
    from runpod_flash.plane.store.base import Job
    from runpod_flash.project.catalog import Catalog, Problem

LogFormat = Literal["json", "text"]


def default_format() -> LogFormat:
    """Lines for a person on a terminal, for programs elsewhere."""
    return "text" if sys.stderr.isatty() else "json"


class ServerLog:
    """All that a server says, from its start to its end."""

    def __init__(self, form: LogFormat, level: str = "info") -> None:
        self._plain = form == "text"
        self._all = level == "debug"
        self._lines = LogLines(PlainLines() if self._plain else JsonLines())
        logging.getLogger("runpod_flash").setLevel(level.upper())

    def close(self) -> None:
        self._lines.close()

    def follow(self, plane: Plane, request_of: Callable[[str], str]) -> None:
        """Tell of a plane from now on; `request_of` gives the request that made a job."""
        teller = _Teller(plane.name_of, request_of, self._all)
        kinds = (JobEnded, Notice, WorkerEnded, WorkerReady, WorkerStarted)
        plane.events.subscribe(teller, *kinds, *((JobStarted,) if self._all else ()))
        if self._plain:
            plane.events.subscribe(Printer(lambda line: self._lines.put(line.rstrip("\n"))), Logged)

    def answered(self, told: Answered) -> None:
        """A request has its status; those that went well are told to the curious only."""
        if told.status < 400 and not self._all:
            return
        level = logging.DEBUG if told.status < 400 else logging.INFO
        asked = f"{printable(told.method)} {printable(told.path)}"
        text = f"{asked} {told.status} ({told.seconds * 1000:.0f} ms)"
        log(
            "request", text, level, method=told.method, path=told.path, status=told.status,
            ms=round(told.seconds * 1000, 1), request_id=told.request_id, endpoint=told.endpoint,
        )  # fmt: skip

    def problems(self, found: tuple[Problem, ...]) -> None:
        """Why files or endpoints are not served."""
        if self._plain:
            dev_screen.problems(found)
            return
        for each in found:
            log("problem", each.message, logging.ERROR, endpoint=each.endpoint, detail=each.detail)

    def serving(self, catalog: Catalog, address: str) -> None:
        """Requests are accepted from now on."""
        if self._plain:
            dev_screen.served(catalog, address)
        else:
            names = [each.spec.name for each in catalog.endpoints]
            log("serving", f"serving at {address}", address=address, endpoints=names)

    def not_apart(self, reason: str) -> None:
        """One app's workers may meet another's."""
        text = (
            f"apps are not kept apart on this machine ({reason}): whoever may deploy here can read "
            "what this server's user can; --isolation none says that this is meant"
        )
        log("not_apart", text, logging.WARNING)

    def unreadable(self, why: str) -> None:
        """Calls are going to fail."""
        log("unreadable", why, logging.WARNING)

    def draining(self, grace: float) -> None:
        """Nothing starts any more."""
        log("draining", f"draining: running jobs get {grace:g} s (again: at once)")


class _Teller:
    """A subscriber of the plane's events."""

    def __init__(
        self, name_of: Callable[[str], str], request_of: Callable[[str], str], all_: bool
    ) -> None:
        self._name_of = name_of
        self._request_of = request_of
        self._all = all_

    def __call__(self, event: Event) -> None:
        if isinstance(event, JobEnded):
            expected = event.job.state in _EXPECTED
            if not expected or self._all:
                level = logging.DEBUG if expected else logging.INFO
                self._job("job_ended", event.job.state.value, event.job, level)
        elif isinstance(event, JobStarted):
            self._job("job_started", "started", event.job, logging.DEBUG)
        elif isinstance(event, Notice):
            log("notice", event.text, endpoint=event.endpoint)
        elif isinstance(event, WorkerStarted):
            _worker("worker_started", f"{event.worker_id} started", event)
        elif isinstance(event, WorkerReady):
            text = f"{event.worker_id} ready after {event.seconds:.2f} s"
            _worker("worker_ready", text, event, seconds=round(event.seconds, 3))
        elif isinstance(event, WorkerEnded):
            level = logging.WARNING if event.by_itself else logging.INFO
            _worker("worker_ended", f"{event.worker_id} {event.reason}", event, level)

    def _job(self, event: str, what: str, job: Job, level: int) -> None:
        failure = job.outcome.failure if job.outcome is not None else None
        # (The type alone: a message may hold what the job was given.)
        error = failure.type_name if failure is not None else ""
        log(
            event, f"job {job.id} {what}" + (f": {error}" if error else ""), level, job=job.id,
            endpoint=self._name_of(job.endpoint), worker=job.worker, attempt=job.attempt,
            error=error, request_id=self._request_of(job.id),
        )  # fmt: skip


# Jobs that end so are no news.
_EXPECTED = (JobState.COMPLETED, JobState.CANCELLED)


def _worker(
    name: str,
    text: str,
    event: WorkerStarted | WorkerReady | WorkerEnded,
    level: int = logging.INFO,
    **more: float,
) -> None:
    log(name, text, level, endpoint=event.endpoint, worker=event.worker_id, **more)
