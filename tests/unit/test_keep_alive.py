"""What is learned from idle times: how long to keep a worker, and when to have one again."""

from __future__ import annotations

import math
import random

import pytest

from runpod_flash.plane.autoscaler import Counters, Desired, desired
from runpod_flash.plane.keep_alive import ENOUGH, LONGEST, IdleTimes, KeepAlive, Learned
from runpod_flash.spec import Scaling

WORTH = 300.0
SCALING = Scaling(0, 3, idle_timeout=300, learned=True)


def learned(*idle: float, worth: float = WORTH, start_seconds: float = 10.0) -> KeepAlive:
    times = IdleTimes()
    for seconds in idle:
        times.add(seconds)
    found = times.keep_alive(worth, start_seconds)
    assert found is not None
    return found


def test_too_few_idle_times_tell_nothing() -> None:
    times = IdleTimes()
    for _ in range(ENOUGH - 1):
        times.add(60)
    times.add(0.5)  # too short to count
    assert times.keep_alive(WORTH) is None
    times.add(60)
    assert times.keep_alive(WORTH) is not None


def test_a_worker_is_kept_for_calls_that_come_soon() -> None:
    found = learned(*[40.0, 50.0, 60.0] * 10)
    assert 60 < found.keep < 70
    assert found.prewarm == math.inf


def test_a_worker_goes_at_once_where_the_next_call_is_far_and_comes_at_no_certain_time() -> None:
    rng = random.Random(1)
    found = learned(*[rng.expovariate(1 / 20_000) for _ in range(100)])
    assert found.keep < 5
    assert found.prewarm == math.inf


def test_ahead_of_a_timers_call_a_worker_is_there_again() -> None:
    found = learned(*[3599.0, 3600.0, 3601.0] * 10)
    assert found.keep == 1.0
    assert 3200 < found.prewarm < 3589, "before the call by what a start takes"
    assert 3601 < found.until < 4000


def test_a_start_ahead_of_a_call_has_to_pay_as_well() -> None:
    hourly = [3600.0] * 30
    assert learned(*hourly, worth=700, start_seconds=10).prewarm < math.inf
    assert learned(*hourly, worth=700, start_seconds=690).prewarm == math.inf
    assert learned(*hourly, worth=100, start_seconds=10).prewarm == math.inf


def test_what_no_histogram_holds_counts_as_longer() -> None:
    assert learned(*[LONGEST * 2] * 20) == KeepAlive(1.0)


def test_an_endpoint_that_changes_is_learned_anew() -> None:
    found = learned(*[3600.0] * 100, *[30.0] * 500)
    assert 30 < found.keep < 40
    assert found.prewarm == math.inf
    assert learned(*[30.0] * 20_000) == learned(*[30.0] * 20), "however long it goes on"


def test_idle_times_are_those_between_work() -> None:
    pool = Learned()
    for number in range(ENOUGH):
        pool.work(number * 100.0, WORTH)
        pool.work(number * 100.0 + 5, WORTH)  # a second call meanwhile
        pool.quiet(number * 100.0 + 60)
    assert pool.keep_alive is None
    assert pool.keep(7) == 7
    pool.work(ENOUGH * 100.0, WORTH)
    assert pool.quiet_since == math.inf
    assert 40 < pool.keep(7) < 45


# What the autoscaler makes of it


def quiet(now: float, keep_alive: KeepAlive, *idle: float) -> Desired:
    counters = Counters(
        now=now, workers=len(idle), idle_since=idle, quiet_since=100.0, keep_alive=keep_alive
    )
    return desired(SCALING, counters)


def test_an_idle_worker_is_kept_for_what_was_learned_and_not_for_the_idle_timeout() -> None:
    assert quiet(119, KeepAlive(20), 100.0) == Desired(1, 120.0)
    assert quiet(120, KeepAlive(20), 100.0) == Desired(0, None)


def test_a_worker_is_wanted_from_ahead_of_the_forecast_call_until_it_is_overdue() -> None:
    timer = KeepAlive(20, 3500, 3700)
    assert quiet(120, timer, 100.0) == Desired(0, 3600.0)
    assert quiet(3599, timer) == Desired(0, 3600.0)
    assert quiet(3600, timer) == Desired(1, 3800.0)
    assert quiet(3700, timer, 3610.0) == Desired(1, 3800.0)
    assert quiet(3800, timer, 3610.0) == Desired(0, None)


def test_while_there_is_work_nothing_is_forecast() -> None:
    counters = Counters(
        now=5000, workers=2, running=1, idle_since=(4990.0,), keep_alive=KeepAlive(20, 30, 40)
    )
    assert desired(SCALING, counters) == Desired(2, 5010.0)


@pytest.mark.parametrize("most", [0, 2])
def test_the_bounds_hold_for_a_forecast(most: int) -> None:
    counters = Counters(now=50, quiet_since=0.0, keep_alive=KeepAlive(1, 40, 60))
    assert desired(Scaling(0, most, learned=True), counters).workers == min(most, 1)
