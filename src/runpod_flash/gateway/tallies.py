"""Counts what happens, for /metrics: in plain numbers, since every warm call passes here."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter, defaultdict
from typing import TYPE_CHECKING

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


class Durations:
    """How many were how long: `counts` by bound, the last one beyond all."""

    def __init__(self) -> None:
        self.counts = [0] * (len(BOUNDS) + 1)
        self.seconds = 0.0

    def add(self, seconds: float) -> None:
        self.counts[bisect_left(BOUNDS, seconds)] += 1
        self.seconds += seconds


class Tallies:
    """All by the names of endpoints; `name_of` gives that for the key that a job has."""

    def __init__(self, events: EventStream, name_of: Callable[[str], str]) -> None:
        self._name_of = name_of
        self._names: dict[str, str] = {}
        self.ended: Counter[tuple[str, JobState]] = Counter()
        self.retried: Counter[str] = Counter()
        self.waits: defaultdict[str, Durations] = defaultdict(Durations)
        self.runs: defaultdict[str, Durations] = defaultdict(Durations)
        self.cold_starts: defaultdict[str, Durations] = defaultdict(Durations)
        self.deaths: Counter[str] = Counter()
        self.gpu_seconds: defaultdict[str, float] = defaultdict(float)
        self.answers: Counter[tuple[str, int]] = Counter()
        self.route_answers: Counter[tuple[str, int]] = Counter()
        events.subscribe(self._note_job, JobStarted, JobEnded)
        events.subscribe(self._note_worker, WorkerReady, WorkerEnded)

    def _note_job(self, event: Event) -> None:
        if isinstance(event, JobEnded):
            self._job_ended(event.job)
        elif isinstance(event, JobStarted):
            self._job_started(event.job)

    def _note_worker(self, event: Event) -> None:
        if isinstance(event, WorkerReady):
            self.cold_starts[event.endpoint].add(event.seconds)
        elif isinstance(event, WorkerEnded):
            self.deaths[event.endpoint] += event.by_itself
            self.gpu_seconds[event.endpoint] += event.gpu_seconds

    def _job_started(self, job: Job) -> None:
        name = self._name(job.endpoint)
        if job.attempt > 1:
            self.retried[name] += 1
        elif job.started_at is not None:
            self.waits[name].add(job.started_at - job.created_at)

    def _job_ended(self, job: Job) -> None:
        name = self._name(job.endpoint)
        self.ended[name, job.state] += 1
        if job.started_at is not None and job.finished_at is not None:
            self.runs[name].add(job.finished_at - job.started_at)

    def _name(self, key: str) -> str:
        known = self._names.get(key)
        if known is None:
            if len(self._names) >= _NAMES:
                self._names.clear()
            known = self._names[key] = self._name_of(key)
        return known

    def answered(self, operation: str, status: int, endpoint: str = "") -> None:
        """A request got its status; `endpoint` is the one whose route it was."""
        self.answers[operation, status] += 1
        if endpoint:
            self.route_answers[endpoint, status] += 1
