"""The simulator on traces whose outcome is known, the shapes, and what learning gains."""

from __future__ import annotations

import random
import statistics
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from runpod_flash.errors import ConfigurationError
from runpod_flash.simulation.simulator import equal_fixed, simulate
from runpod_flash.simulation.traces import (
    DAY,
    HOUR,
    SHAPES,
    Arrival,
    azure,
    daily,
    mixed,
    read_trace,
)
from runpod_flash.spec import Scaling

if TYPE_CHECKING:
    from pathlib import Path

    from runpod_flash.simulation.traces import Trace

FIXED = Scaling(0, 3, idle_timeout=60)
LEARNED = replace(FIXED, idle_timeout=300, learned=True)


def calls(*times: float, seconds: float = 5.0) -> Trace:
    return {"": [Arrival(at, seconds) for at in times]}


def test_a_call_within_the_idle_timeout_finds_a_worker_and_a_later_one_does_not() -> None:
    found = simulate(calls(0, 60, 200), FIXED, start_seconds=10)
    assert found.waits == (10.0, 0.0, 10.0)
    assert found.cold == 2
    # Until 65 + 60, and from 200 until the end, which is an idle timeout after the last call's.
    assert found.worker_seconds == 125 + 75


def test_calls_wait_for_the_workers_that_may_be() -> None:
    one = simulate(calls(0, 0, 0), replace(FIXED, workers_max=1), start_seconds=10)
    assert one.waits == (10.0, 15.0, 20.0)
    assert (one.wait(0.5), one.wait(0.99)) == (15.0, 20.0)
    three = simulate(calls(0, 0, 0), replace(FIXED, scaler="REQUEST_COUNT", scaler_value=1),
                     start_seconds=10)  # fmt: skip
    assert three.waits == (10.0, 10.0, 10.0)
    kept = simulate(calls(100), replace(FIXED, workers_min=1), start_seconds=10)
    assert (kept.cold, kept.waits) == (0, (0.0,))


def test_calls_that_wait_long_after_the_last_has_come_run_and_cost_too() -> None:
    backlog = calls(*[0.0] * 100, seconds=60)
    found = simulate(backlog, replace(FIXED, workers_max=1, idle_timeout=5), start_seconds=1)
    assert (found.calls, found.cold, max(found.waits)) == (100, 100, 1 + 99 * 60)
    assert found.worker_seconds == 1 + 100 * 60 + 5


def test_each_endpoint_has_its_minimum_until_the_last_call_of_all_has_ended() -> None:
    two = {"a": calls(0, seconds=1)[""], "b": calls(0, seconds=990)[""], "c": []}
    kept = replace(FIXED, workers_min=1, workers_max=1, idle_timeout=5)
    assert simulate(two, kept, start_seconds=10).worker_seconds == 3 * (10 + 990 + 5)


def test_endpoints_are_scaled_alone_and_counted_together() -> None:
    two = {"a": calls(0)[""], "b": calls(1)[""]}
    found = simulate(two, FIXED, start_seconds=10)
    assert (found.calls, found.cold, found.cold_share) == (2, 2, 1.0)


def test_a_timer_finds_a_prewarmed_worker_once_it_is_learned() -> None:
    hourly = calls(*[HOUR * number for number in range(48)])
    fixed = simulate(hourly, FIXED, start_seconds=10)
    learned = simulate(hourly, replace(LEARNED, idle_timeout=600), start_seconds=10)
    assert fixed.cold == 48
    assert learned.cold <= 8, "those from which it learned"
    always = replace(FIXED, workers_min=1)
    hours = simulate(hourly, always, start_seconds=10).worker_seconds
    assert learned.worker_seconds < 0.35 * hours


# Three traces that no number of the policy was chosen by: scripts/bench simulate has the others.
HELD_OUT = {"azure": (azure, 101), "azure-2": (azure, 102), "mixed": (mixed, 201)}


@pytest.mark.slow
@pytest.mark.parametrize("name", HELD_OUT)
def test_learned_idle_times_halve_the_cold_starts_at_equal_worker_seconds(name: str) -> None:
    make, seed = HELD_OUT[name]
    trace = make(48, random.Random(seed), endpoints=12)
    learned = simulate(trace, LEARNED, start_seconds=10)
    timeout, fixed = equal_fixed(trace, FIXED, learned.worker_seconds, start_seconds=10)
    print(
        f"{name}: {learned.cold} cold starts, {fixed.cold} with {timeout:.0f} s, of {fixed.calls}"
    )
    assert fixed.worker_seconds >= learned.worker_seconds
    assert learned.cold <= fixed.cold / 2


def test_the_fixed_timeout_of_equal_worker_seconds_is_found() -> None:
    trace = daily(12, random.Random(1))
    wanted = simulate(trace, replace(FIXED, idle_timeout=100), start_seconds=10)
    timeout, found = equal_fixed(trace, FIXED, wanted.worker_seconds, start_seconds=10)
    assert timeout == pytest.approx(100, rel=0.05)
    assert 1 <= found.worker_seconds / wanted.worker_seconds < 1.005


# Shapes and files


@pytest.mark.parametrize("shape", SHAPES)
def test_a_shape_is_in_order_and_the_same_for_a_seed(shape: str) -> None:
    made = SHAPES[shape](24, random.Random(5))
    assert made == SHAPES[shape](24, random.Random(5))
    assert any(made.values())
    for each in made.values():
        assert each == sorted(each)
        assert all(0 <= call.at < DAY and 0 < call.seconds < 100 for call in each)


@pytest.mark.parametrize("shape", SHAPES)
def test_no_call_of_a_shape_comes_after_its_hours(shape: str) -> None:
    made = SHAPES[shape](0.1, random.Random(1))
    # (A timer's call comes up to a second late.)
    assert max((each[-1].at for each in made.values() if each), default=0) < 0.1 * HOUR + 1


def test_azures_endpoints_are_as_unequal_as_those_published() -> None:
    made = azure(24, random.Random(3), endpoints=400)
    a_day = sorted(len(each) for each in made.values())
    hourly = sum(count <= 24 for count in a_day) / 400
    assert 0.3 < hourly < 0.6, "45% are called once an hour at most, timers aside"
    assert sum(a_day[-76:]) > 0.75 * sum(a_day), "the busiest fifth has most calls"
    assert statistics.median(a_day) < 200


CSV = "timestamp,duration\n10,1.5\n12.5,2\n"
JSON = '{"timestamp": "2026-01-01T00:00:10Z", "duration": 1.5}\n' \
       '{"duration": 2, "timestamp": "2026-01-01T00:00:12.5+00:00"}\n'  # fmt: skip


@pytest.mark.parametrize("text", [CSV, CSV.partition("\n")[2], JSON, "\ufeff" + CSV + "\n\n"])
def test_a_trace_is_read_from_csv_and_from_json_lines(text: str, tmp_path: Path) -> None:
    (tmp_path / "trace").write_text(text, encoding="utf-8")
    assert read_trace(tmp_path / "trace") == {"": [Arrival(0.0, 1.5), Arrival(2.5, 2.0)]}


def test_a_header_may_be_written_in_capitals(tmp_path: Path) -> None:
    (tmp_path / "trace").write_text("Duration, TIMESTAMP ,Endpoint\n2,10,A\n")
    assert read_trace(tmp_path / "trace") == {"A": [Arrival(0, 2)]}


@pytest.mark.parametrize("data", [b"\x7fELF\x02\x01\xff\xfe", "1,2\n".encode("utf-16")])
def test_a_file_that_is_no_text_is_refused_by_its_name(data: bytes, tmp_path: Path) -> None:
    (tmp_path / "trace").write_bytes(data)
    with pytest.raises(ConfigurationError, match="trace is no text in UTF-8"):
        read_trace(tmp_path / "trace")


def test_a_trace_may_have_several_endpoints_in_any_order(tmp_path: Path) -> None:
    (tmp_path / "trace").write_text("endpoint,duration,timestamp\nb,1,30\na,2,20\nb,3,10\n")
    found = read_trace(tmp_path / "trace")
    assert found == {"b": [Arrival(0, 3), Arrival(20, 1)], "a": [Arrival(10, 2)]}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "has no calls"),
        ("timestamp,duration\n", "has no calls"),
        ("1,2\nsoon,3\n", "line 2: 'soon' is no time"),
        ("1,2\n3\n", "line 2: has no 'duration'"),
        ("1,2\n1,abc\n", "line 2: 'abc' is no duration; a line is timestamp,duration"),
        ('{"timestamp": 1, "duration": null}\n', "line 1: None is no duration"),
        ("1,-2\n", "line 1: has a time that is negative"),
        ("nan,2\n", "line 1: has a time that is negative, too large or no number"),
        ("1,nan\n", "line 1: has a time that is negative, too large or no number"),
        ("1,2\n1e300,2\n", "line 2: has a time that is negative, too large"),
        ("1,1e300\n", "line 1: has a time that is negative, too large"),
        (f'{{"timestamp": 1{"0" * 400}, "duration": 1}}\n', "line 1: has a time"),
        ("1,2\n1,2," + "x" * 200_000, "line 2: is no CSV"),
        ('{"timestamp": 1, "duration": 2}\n[1]\n', "line 2: is no JSON object"),
    ],
)
def test_a_line_that_is_wrong_is_named(text: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "trace").write_text(text)
    with pytest.raises(ConfigurationError, match=said):
        read_trace(tmp_path / "trace")
