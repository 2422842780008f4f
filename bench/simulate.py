"""Cold starts and worker-seconds of fixed and learned idle times, over traces of several shapes.

    scripts/bench simulate [CHART.svg]

Nothing is measured here: the outcome is the same on every machine. `docs/scaling.svg` is its chart.
"""

from __future__ import annotations

import random
import sys
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

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

    setting: float
    hours: float
    cold_share: float


def curve(name: str, settings: tuple[int, ...], *, learned: bool) -> list[Point]:
    points = []
    for setting in settings:
        scaling = replace(FIXED, idle_timeout=setting, learned=learned)
        found = simulate(TRACES[name], scaling, start_seconds=START_SECONDS)
        points.append(Point(setting, found.worker_seconds / 3600, found.cold_share))
    return points


def row(name: str) -> str:
    learned = replace(FIXED, idle_timeout=300, learned=True)
    found = simulate(TRACES[name], learned, start_seconds=START_SECONDS)
    timeout, equal = equal_fixed(
        TRACES[name], FIXED, found.worker_seconds, start_seconds=START_SECONDS
    )
    ratio = f"{found.cold / equal.cold:.2f}" if equal.cold else "-"
    return (
        f"{name:8} {found.calls:8,} {found.worker_seconds / 3600:8.1f} {found.cold:8,}"
        f" {equal.cold:8,} {timeout:8.0f} {ratio:>6}"
    )


# The chart

WIDTH, HEIGHT, MARGIN = 300, 190, 44
COLOURS = {"fixed": "#8a8f98", "learned": "#5b5bd6"}


def panel(number: int, name: str, curves: dict[str, list[Point]]) -> list[str]:
    """One trace: worker-hours to the right, the share of cold starts upwards."""
    left, top = (number % 3) * WIDTH + MARGIN, (number // 3) * (HEIGHT + 50) + 40
    wide, high = WIDTH - MARGIN - 16, HEIGHT - 30
    everything = [point for points in curves.values() for point in points]
    hours = max(point.hours for point in everything) * 1.05
    share = max(point.cold_share for point in everything) * 1.05 or 1.0

    def place(point: Point) -> tuple[float, float]:
        x = left + wide * point.hours / hours
        return round(x, 1), round(top + high * (1 - point.cold_share / share), 1)

    lines = [
        f'<text x="{left}" y="{top - 10}" font-weight="600">{name}</text>',
        f'<path d="M{left} {top}v{high}h{wide}" fill="none" stroke="#8a8f98"/>',
        f'<text x="{left - 6}" y="{top + 8}" text-anchor="end">{share:.0%}</text>',
        f'<text x="{left + wide}" y="{top + high + 15}" text-anchor="end">{hours:.0f} h</text>',
    ]
    for kind, points in curves.items():
        path = " ".join(f"{x},{y}" for x, y in map(place, points))
        line = f'fill="none" stroke="{COLOURS[kind]}" stroke-width="1.5"'
        lines.append(f'<polyline points="{path}" {line}/>')
        for point in points:
            x, y = place(point)
            about = f"{kind}, {point.setting:g} s: {point.cold_share:.1%}, {point.hours:.1f} h"
            dot = f'<circle cx="{x}" cy="{y}" r="3" fill="{COLOURS[kind]}">'
            lines.append(f"{dot}<title>{about}</title></circle>")
    return lines


def chart(curves: dict[str, dict[str, list[Point]]]) -> str:
    width, height = 3 * WIDTH, 2 * (HEIGHT + 50) + 10
    body = [
        line for number, (name, of) in enumerate(curves.items()) for line in panel(number, name, of)
    ]
    left, top = 2 * WIDTH + MARGIN, HEIGHT + 110
    legend = [
        ("#6b7280", "share of cold starts over worker-hours"),
        (COLOURS["fixed"], "fixed idle_timeout, 5 s to 1 h"),
        (COLOURS["learned"], "learned, a start worth 30 to 1000 s"),
    ]
    for number, (colour, text) in enumerate(legend):
        body.append(f'<text x="{left}" y="{top + 20 * number}" fill="{colour}">{text}</text>')
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
    head += 'font-family="sans-serif" font-size="11" fill="#6b7280">'
    return "\n".join([head, *body, "</svg>", ""])


def main() -> None:
    print(f"{HOURS:g} hours, workers ready after {START_SECONDS:g} s; learned beside the fixed")
    print("timeout that takes as many worker-hours\n")
    print(
        f"{'':8} {'calls':>8} {'hours':>8} {'learned':>8} {'fixed':>8} {'timeout':>8} {'ratio':>6}"
    )
    curves = {}
    for name in TRACES:
        print(row(name), flush=True)
        curves[name] = {
            "fixed": curve(name, TIMEOUTS, learned=False),
            "learned": curve(name, WORTHS, learned=True),
        }
    if len(sys.argv) > 1:
        Path(sys.argv[1]).write_text(chart(curves))


if __name__ == "__main__":
    main()
