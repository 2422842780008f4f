"""Counts what happens, for /metrics: in plain numbers, since every warm call passes here."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter, defaultdict
from typing import TYPE_CHECKING, NamedTuple

from runpod_flash.gateway.session_ids import is_session_id
from runpod_flash.plane.events import JobEnded, JobStarted, WorkerEnded, WorkerReady

if TYPE_CHECKING:
    from collections.abc import Callable

    from runpod_flash.plane.events import Event, EventStream
    from runpod_flash.plane.store.base import Job, JobState

# Programs come and go with apps of their own.
_NAMES = 10_000
# Seconds. From a warm call to a training run.
BOUNDS = (
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5,
    1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 1800.0,
)  # fmt: skip


class Series(NamedTuple):
    """What an endpoint's numbers are kept by; without `app` for the apps of programs, which come
    and go."""

    endpoint: str
    app: str


def series(endpoint: str, app: str) -> Series:
    """That of an endpoint of an app."""
    return Series(endpoint, "" if is_session_id(app) else app)


class Durations:
    """How many were how long: `counts` by bound, the last one beyond all."""

    def __init__(self) -> None:
        self.counts = [0] * (len(BOUNDS) + 1)
        self.seconds = 0.0

    def add(self, seconds: float) -> None:
        self.counts[bisect_left(BOUNDS, seconds)] += 1
        self.seconds += seconds


class Tallies:
    """`names_of` gives the names of the endpoint and of its app for the key that a job has."""

    def __init__(self, events: EventStream, names_of: Callable[[str], tuple[str, str]]) -> None:
        self._names_of = names_of
        self._series: dict[str, Series] = {}
        self.ended: Counter[tuple[Series, JobState]] = Counter()
        self.retried: Counter[Series] = Counter()
        self.waits: defaultdict[Series, Durations] = defaultdict(Durations)
        self.runs: defaultdict[Series, Durations] = defaultdict(Durations)
        self.cold_starts: defaultdict[Series, Durations] = defaultdict(Durations)
        self.deaths: Counter[Series] = Counter()
        self.gpu_seconds: defaultdict[Series, float] = defaultdict(float)
        self.answers: Counter[tuple[str, int]] = Counter()
        self.route_answers: Counter[tuple[Series, int]] = Counter()
        events.subscribe(self._note_job, JobStarted, JobEnded)
        events.subscribe(self._note_worker, WorkerReady, WorkerEnded)

    def _note_job(self, event: Event) -> None:
        if isinstance(event, JobEnded):
            self._job_ended(event.job)
        elif isinstance(event, JobStarted):
            self._job_started(event.job)

    def _note_worker(self, event: Event) -> None:
        if isinstance(event, WorkerReady):
            self.cold_starts[series(event.endpoint, event.app)].add(event.seconds)
        elif isinstance(event, WorkerEnded):
            of = series(event.endpoint, event.app)
            self.deaths[of] += event.by_itself
            self.gpu_seconds[of] += event.gpu_seconds

    def _job_started(self, job: Job) -> None:
        of = self._of(job.endpoint)
        if job.attempt > 1:
            self.retried[of] += 1
        elif job.started_at is not None:
            self.waits[of].add(job.started_at - job.created_at)

    def _job_ended(self, job: Job) -> None:
        of = self._of(job.endpoint)
        self.ended[of, job.state] += 1
        if job.started_at is not None and job.finished_at is not None:
            self.runs[of].add(job.finished_at - job.started_at)

    def _of(self, key: str) -> Series:
        known = self._series.get(key)
        if known is None:
            if len(self._series) >= _NAMES:
                self._series.clear()
            known = self._series[key] = series(*self._names_of(key))
        return known

    def answered(self, operation: str, status: int, endpoint: str = "", app: str = "") -> None:
        """A request got its status; `endpoint` is the one whose route it was, of that app."""
        self.answers[operation, status] += 1
        if endpoint:
            self.route_answers[series(endpoint, app), status] += 1
