"""`flash simulate`: tables and JSON of what settings would do, and its refusals."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from unit.command_line import flash

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def trace(tmp_path: Path) -> str:
    path = tmp_path / "calls.csv"
    path.write_text("timestamp,duration\n0,5\n60,5\n200,5\n")
    return str(path)


def test_a_trace_is_told_in_cold_starts_waits_hours_and_money(trace: str) -> None:
    done = flash("simulate", "--trace", trace, "--price", "36", "--idle-timeout", "60")
    assert done.returncode == 0, done.stderr
    title, _, head, row = done.stdout.splitlines()
    assert title == "3 calls in 0.1 hours; workers 0 to 3, ready after 10 s"
    names = "idle_timeout cold starts wait p50 p95 p99 worker hours per call cost"
    assert " ".join(head.split()) == names
    assert " ".join(row.split()) == "60 66.7% 10.0 s 10.0 s 10.0 s 0.06 66.7 s 2.00"


def test_scripts_get_json_for_each_setting(trace: str) -> None:
    given = ["--idle-timeout", "300", "--idle-timeout", "learned", "--start-seconds", "1", "--json"]
    done = flash("simulate", "--trace", trace, "--workers", "1-2", *given)
    fixed, learned = json.loads(done.stdout)
    assert fixed == {
        "idle_timeout": 300, "calls": 3, "cold_starts": 1, "cost": None,
        "wait_seconds": {"p50": 0.0, "p95": 1.0, "p99": 1.0}, "worker_seconds": 505.0,
    }  # fmt: skip
    assert learned["idle_timeout"] == "learned"


def test_a_trace_shorter_than_a_workers_start_is_told_too(tmp_path: Path) -> None:
    (tmp_path / "one.csv").write_text("1,1\n")
    done = flash("simulate", "--trace", str(tmp_path / "one.csv"), "--idle-timeout", "5")
    assert done.returncode == 0, done.stderr
    row = done.stdout.splitlines()[-1]
    assert " ".join(row.split()) == "5 100.0% 10.0 s 10.0 s 10.0 s 0.00 16.0 s"


def test_a_shape_needs_no_file() -> None:
    done = flash("simulate", "--shape", "bursts", "--hours", "6", "--idle-timeout", "60")
    assert done.returncode == 0, done.stderr
    assert " calls in " in done.stdout


@pytest.mark.parametrize(
    ("given", "code", "said"),
    [
        ([], 2, "Give the calls with --trace FILE, or made ones with --shape NAME."),
        (["--shape", "dayly"], 2, "Did you mean 'daily'?"),
        (["--shape", "steady", "--workers", "few"], 2, "write a maximum such as 3, or 0-3."),
        (["--shape", "steady", "--workers", "3-1"], 2, "min cannot exceed max"),
        (["--shape", "steady", "--workers", "0"], 2, "no call would ever run"),
        (["--shape", "steady", "--idle-timeout", "0"], 1, "a whole number from 1 to 3600"),
        (["--shape", "steady", "--idle-timeout", "ever"], 1, "or 'learned'"),
        (["--shape", "steady", "--hours", "nan"], 2, "'--hours': nan is no finite number."),
        (["--shape", "steady", "--price", "nan"], 2, "'--price': nan is no finite number."),
        (["--shape", "steady", "--price", "-1"], 2, "'--price': -1.0 is not in the range"),
        (["--shape", "steady", "--scaler-value", "nan"], 2, "'--scaler-value': nan is no finite"),
        (
            ["--shape", "steady", "--scaler-value", "1e-320"],
            2,
            "'--scaler-value': 1e-320 is not in",
        ),
        (["--shape", "steady", "--start-seconds", "nan"], 2, "'--start-seconds': nan is no finite"),
        (["--shape", "steady", "--start-seconds", "inf"], 2, "'--start-seconds': inf is not in"),
        (["--shape", "steady", "--start-seconds", "1e12"], 2, "is not in the range 0<=x<=86400"),
        (["--trace", "calls.csv", "--hours", "24"], 2, "--hours is for calls of a --shape: a --"),
        (["--trace", "calls.csv", "--seed", "1"], 2, "--seed is for calls of a --shape: a --trace"),
        (["--trace", "nowhere.csv"], 1, "nowhere.csv: No such file or directory"),
    ],
)
def test_what_cannot_be_simulated_is_refused_in_one_sentence(
    given: list[str], code: int, said: str
) -> None:
    done = flash("simulate", *given)
    assert (done.returncode, done.stdout) == (code, "")
    assert said in done.stderr
    assert "Traceback" not in done.stderr
