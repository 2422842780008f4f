"""How many cold starts do fixed and learned idle times give, over traces of several shapes?

    scripts/bench simulate

Nothing is measured here: the outcome is the same on every machine. Learned is beside the fixed
`idle_timeout` that takes as many worker-hours; `docs/scaling.svg` shows both over their settings.
"""

from __future__ import annotations

import random
from dataclasses import replace
from typing import NamedTuple

from harness import Result

from runpod_flash.simulation.simulator import equal_fixed, simulate
from runpod_flash.simulation.traces import azure, bursts, daily, mixed, steady
from runpod_flash.spec import Scaling

HOURS, START_SECONDS = 48.0, 10.0
FIXED = Scaling(0, 3)
TIMEOUTS = (5, 30, 60, 150, 300, 900, 3600)
WORTHS = (30, 100, 300, 1000)
TRACES = {
    "steady": steady(HOURS, random.Random(11), each=90),
    "bursts": bursts(HOURS, random.Random(12)),
    "daily": daily(HOURS, random.Random(13)),
    "mixed": mixed(HOURS, random.Random(201), endpoints=6),
    "azure": azure(HOURS, random.Random(102), endpoints=12),
}


class Point(NamedTuple):
    """What one setting gives."""

    setting: str
    hours: float
    cold_share: float


def curve(trace: str, settings: tuple[int, ...], *, learned: bool) -> list[Point]:
    points = []
    for setting in settings:
        scaling = replace(FIXED, idle_timeout=setting, learned=learned)
        found = simulate(TRACES[trace], scaling, start_seconds=START_SECONDS)
        name = f"{'learned' if learned else 'fixed'}, {setting} s"
        points.append(Point(name, found.worker_seconds / 3600, found.cold_share))
    return points


def compare(result: Result, name: str) -> None:
    """Learned beside the fixed timeout that takes as long."""
    learned = replace(FIXED, idle_timeout=300, learned=True)
    found = simulate(TRACES[name], learned, start_seconds=START_SECONDS)
    timeout, equal = equal_fixed(
        TRACES[name], FIXED, found.worker_seconds, start_seconds=START_SECONDS
    )
    fixed = f"fixed, {timeout:.0f} s"
    title = f"{name}: {found.calls:,} calls, {found.worker_seconds / 3600:.1f} worker-hours"
    result.compare(title, "cold", {fixed: [equal.cold], "learned": [found.cold]}, fixed)


def draw(result: Result, name: str) -> None:
    """What the chart shows."""
    points = curve(name, TIMEOUTS, learned=False) + curve(name, WORTHS, learned=True)
    result.figures(f"{name}, worker-hours", "h", {p.setting: [p.hours] for p in points})
    shares = {p.setting: [100 * p.cold_share] for p in points}
    result.figures(f"{name}, share of cold starts", "%", shares)


def main() -> None:
    result = Result(__file__, str(__doc__))
    for name in TRACES:
        compare(result, name)
        draw(result, name)
    result.save()


if __name__ == "__main__":
    main()
