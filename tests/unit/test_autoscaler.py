"""How many workers: the formulas, and whole traces on a clock that nobody waits for."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runpod_flash.plane.autoscaler import STEP_SECONDS, Counters, Desired, desired
from runpod_flash.spec import Scaling

if TYPE_CHECKING:
    from collections.abc import Sequence

DELAY = Scaling(0, 5, idle_timeout=60, scaler="QUEUE_DELAY", scaler_value=4)
COUNT = Scaling(0, 5, idle_timeout=60, scaler="REQUEST_COUNT", scaler_value=2)


def workers(scaling: Scaling, **counters: object) -> int:
    return desired(scaling, Counters(now=100.0, **counters)).workers  # type: ignore[arg-type]


# REQUEST_COUNT


@pytest.mark.parametrize(
    ("queued", "running", "value", "expected"),
    [(0, 0, 1, 0), (1, 0, 1, 1), (3, 1, 1, 4), (3, 0, 2, 2), (1, 4, 2, 3), (50, 0, 1, 5)],
)
def test_request_count_divides_the_requests_among_workers(
    queued: int, running: int, value: int, expected: int
) -> None:
    scaling = Scaling(0, 5, scaler="REQUEST_COUNT", scaler_value=value)
    assert workers(scaling, queued=queued, running=running) == expected


def test_request_count_asks_again_only_on_events() -> None:
    assert desired(COUNT, Counters(now=0.0, queued=9)) == Desired(5, None)


# QUEUE_DELAY


def test_the_first_job_gets_a_worker_at_once() -> None:
    assert desired(DELAY, Counters(now=0.0, queued=1, oldest_queued_at=0.0)) == Desired(1, None)


def test_queue_delay_adds_a_worker_once_the_oldest_job_has_waited_too_long() -> None:
    busy = Counters(now=3.9, queued=2, running=1, workers=1, oldest_queued_at=0.0)
    assert desired(DELAY, busy) == Desired(1, 4.0)
    late = Counters(now=4.0, queued=2, running=1, workers=1, oldest_queued_at=0.0)
    assert desired(DELAY, late) == Desired(2, 4.0 + STEP_SECONDS)


def test_queue_delay_takes_one_step_at_a_time() -> None:
    just_grown = Counters(
        now=4.5, queued=9, running=2, workers=2, oldest_queued_at=0.0, scaled_up_at=4.0
    )
    assert desired(DELAY, just_grown) == Desired(2, 4.0 + STEP_SECONDS)


def test_queue_delay_never_wants_more_workers_than_jobs() -> None:
    # A worker that takes minutes to start must not draw others after it for the same job.
    waiting = Counters(now=300.0, queued=1, workers=1, starting=1, oldest_queued_at=0.0)
    assert desired(DELAY, waiting) == Desired(1, None)


def test_a_fractional_queue_delay_is_kept_to() -> None:
    scaling = Scaling(0, 5, scaler_value=0.5)
    busy = Counters(now=0.4, queued=1, running=1, workers=1, oldest_queued_at=0.0)
    assert desired(scaling, busy) == Desired(1, 0.5)


# Bounds


@given(
    scaler=st.sampled_from(["QUEUE_DELAY", "REQUEST_COUNT"]),
    bounds=st.tuples(st.integers(0, 5), st.integers(0, 5)).map(sorted),
    queued=st.integers(0, 20),
    running=st.integers(0, 20),
    present=st.integers(0, 8),
    idle=st.lists(st.floats(0, 200), max_size=8),
    oldest=st.floats(0, 100),
    nested=st.integers(0, 3),
)
def test_the_bounds_hold_whatever_happens(
    scaler: str,
    bounds: list[int],
    queued: int,
    running: int,
    present: int,
    idle: list[float],
    oldest: float,
    nested: int,
) -> None:
    low, high = bounds
    counters = Counters(
        now=100.0,
        queued=queued,
        running=running,
        workers=max(present, len(idle)),
        oldest_queued_at=oldest if queued else None,
        idle_since=tuple(idle),
        nested=nested,
    )
    scaling = Scaling(low, high, 60, scaler, 4)  # type: ignore[arg-type]
    wanted = desired(scaling, counters)
    assert low <= wanted.workers <= high + nested
    assert wanted.again_at is None or wanted.again_at > counters.now


def test_the_minimum_is_there_without_any_job() -> None:
    assert desired(Scaling(2, 5), Counters(now=0.0)) == Desired(2, None)


def test_no_worker_is_wanted_where_none_is_allowed() -> None:
    assert workers(Scaling(0, 0), queued=3, oldest_queued_at=0.0) == 0


# Idle workers


def test_a_worker_goes_when_its_own_idle_time_is_over() -> None:
    counters = Counters(now=70.0, workers=3, idle_since=(10.0, 30.0))
    assert desired(DELAY, counters) == Desired(2, 90.0)


def test_a_busy_worker_is_kept() -> None:
    assert desired(DELAY, Counters(now=500.0, running=1, workers=1)) == Desired(1, None)


def test_idle_workers_of_the_minimum_are_kept_and_need_no_further_look() -> None:
    counters = Counters(now=500.0, workers=2, idle_since=(10.0, 10.0))
    assert desired(Scaling(2, 5, 60), counters) == Desired(2, None)


# Workers that wait for their own queue


def test_a_nested_job_of_a_full_pool_gets_a_worker_over_the_maximum() -> None:
    scaling = Scaling(0, 1)
    assert workers(scaling, queued=1, running=1, workers=1, nested=1) == 2


@pytest.mark.parametrize("coming", [{"starting": 1}, {"idle_since": (99.0,)}])
def test_one_worker_for_nested_jobs_is_enough_until_it_is_busy(coming: dict[str, object]) -> None:
    scaling = Scaling(0, 5)
    assert workers(scaling, queued=3, running=1, workers=2, nested=1, **coming) == 2


# Traces


@dataclass
class Simulation:
    """Workers that start in `start_seconds` and run jobs that take `job_seconds`, one at a time.

    `step` is how often the autoscaler looks; None: only when something happens, and when it asked.
    """

    scaling: Scaling
    arrivals: Sequence[float]
    step: float | None
    start_seconds: float = 2.0
    job_seconds: float = 3.0
    queue: list[float] = field(default_factory=list)
    starting: list[float] = field(default_factory=list)
    busy: list[float] = field(default_factory=list)
    idle: list[float] = field(default_factory=list)
    scaled_up_at: float = -math.inf
    decisions: list[tuple[float, int]] = field(default_factory=list)

    def run(self, until: float) -> list[tuple[float, int]]:
        coming = sorted(self.arrivals)
        look_at: float | None = 0.0
        while True:
            events = [*coming[:1], *self.starting, *self.busy]
            times = [t for t in (*events, look_at) if t is not None]
            if not times or min(times) > until:
                return self.decisions
            now = min(times)
            self._happen(now, coming)
            look_at = self._look(now)
            if self.step is not None:
                look_at = now + self.step

    def _happen(self, now: float, coming: list[float]) -> None:
        while coming and coming[0] <= now:
            self.queue.append(coming.pop(0))
        for group in (self.starting, self.busy):
            done = [at for at in group if at <= now]
            group[:] = [at for at in group if at > now]
            self.idle += done
        self._assign(now)

    def _assign(self, now: float) -> None:
        while self.queue and self.idle:
            self.queue.pop(0)
            self.idle.pop()
            self.busy.append(now + self.job_seconds)

    def _look(self, now: float) -> float | None:
        present = len(self.starting) + len(self.busy) + len(self.idle)
        wanted = desired(
            self.scaling,
            Counters(
                now=now,
                queued=len(self.queue),
                running=len(self.busy),
                workers=present,
                starting=len(self.starting),
                oldest_queued_at=self.queue[0] if self.queue else None,
                scaled_up_at=self.scaled_up_at,
                idle_since=tuple(self.idle),
            ),
        )
        if wanted.workers > present:
            self.scaled_up_at = now
            self.starting += [now + self.start_seconds] * (wanted.workers - present)
        for _ in range(min(present - wanted.workers, len(self.idle))):
            self.idle.remove(min(self.idle))
        after = len(self.starting) + len(self.busy) + len(self.idle)
        if not self.decisions or self.decisions[-1][1] != after:
            self.decisions.append((now, after))
        return wanted.again_at


def ticks(values: st.SearchStrategy[int]) -> st.SearchStrategy[list[float]]:
    # Sixteenths are exact in binary, so that both ways of looking see the same instants.
    return st.lists(values.map(lambda n: n / 16), max_size=25)


@pytest.mark.parametrize("scaler", ["QUEUE_DELAY", "REQUEST_COUNT"])
@settings(max_examples=40)
@given(arrivals=ticks(st.integers(0, 640)), low=st.integers(0, 2), value=st.sampled_from([0.5, 4]))
def test_looking_only_when_asked_to_decides_as_looking_all_the_time(
    scaler: str, arrivals: list[float], low: int, value: float
) -> None:
    scaling = Scaling(low, 5, idle_timeout=5, scaler=scaler, scaler_value=value)  # type: ignore[arg-type]
    by_events = Simulation(scaling, arrivals, step=None).run(until=90)
    by_polling = Simulation(scaling, arrivals, step=1 / 16).run(until=90)
    assert by_events == by_polling


@pytest.mark.parametrize("scaler", ["QUEUE_DELAY", "REQUEST_COUNT"])
@given(arrivals=ticks(st.integers(0, 640)), low=st.integers(0, 2))
def test_every_trace_ends_at_the_minimum_with_its_jobs_done(
    scaler: str, arrivals: list[float], low: int
) -> None:
    scaling = Scaling(low, 5, idle_timeout=5, scaler=scaler)  # type: ignore[arg-type]
    simulation = Simulation(scaling, arrivals, step=None)
    counts = [count for _, count in simulation.run(until=10_000)]
    assert not simulation.queue
    assert not simulation.busy
    assert min(counts) >= min(low, counts[0])
    assert max(counts) <= 5
    assert counts[-1] == low


def test_scale_to_zero_comes_exactly_one_idle_timeout_after_the_last_job() -> None:
    scaling = Scaling(0, 1, idle_timeout=60)
    decisions = Simulation(scaling, [0.0], step=None).run(until=1000)
    assert decisions == [(0.0, 1), (2.0 + 3.0 + 60.0, 0)]


def test_workers_that_became_idle_one_after_another_go_one_after_another() -> None:
    scaling = Scaling(0, 3, idle_timeout=10, scaler="REQUEST_COUNT", scaler_value=1)
    decisions = Simulation(scaling, [0.0, 1.0, 2.0], step=None).run(until=1000)
    assert decisions == [(0.0, 1), (1.0, 2), (2.0, 3), (15.0, 2), (16.0, 1), (17.0, 0)]


def test_a_long_queue_grows_the_pool_by_one_worker_a_second() -> None:
    scaling = Scaling(0, 4, scaler_value=4)
    simulation = Simulation(scaling, [0.0] * 100, step=None, start_seconds=1.0, job_seconds=50.0)
    assert simulation.run(until=20) == [(0.0, 1), (4.0, 2), (5.0, 3), (6.0, 4)]
