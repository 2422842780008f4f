"""Draw the charts, and fill in the tables of README.md, from results/*.json: `bench/charts.py`.

`scripts/bench` does so after each run. Charts follow the reader's light or dark scheme.
"""

from __future__ import annotations

import json
import re
from html import escape
from itertools import pairwise
from math import floor, log10
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "bench" / "results"
TABLES = ROOT / "bench" / "README.md"

# Figures


def result(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((RESULTS / f"{name}.json").read_text())
    return found


def rows(of: dict[str, Any], title: str) -> list[dict[str, Any]]:
    """Those of the first table whose title begins like that."""
    return next(table["rows"] for table in of["tables"] if table["title"].startswith(title))


def digits(value: float) -> str:
    """Three digits, all of those before the point."""
    after = max(0, 2 - floor(log10(abs(value)))) if value else 0
    return f"{value:,.{after}f}"


# Drawings

STYLE = """
<style>
.card { fill: #ffffff; stroke: #d0d7de } text { fill: #1f2328 } .quiet { fill: #59636e }
.peer { fill: #b4bcc6 } .ours { fill: #5b5bd6 } .line { stroke: #8a8f98; fill: none }
.peer-line { stroke: #8a8f98; fill: none } .ours-line { stroke: #5b5bd6; fill: none }
@media (prefers-color-scheme: dark) {
.card { fill: #0d1117; stroke: #30363d } text { fill: #e6edf3 } .quiet { fill: #9198a1 }
.peer { fill: #59636e } .ours { fill: #8f8ff0 } .ours-line { stroke: #8f8ff0 }
}
</style>"""


def drawing(width: float, height: float, title: str, body: list[str]) -> str:
    """An SVG of this size, on a card of its own."""
    size = f'viewBox="0 0 {width:g} {height:g}" width="{width:g}" height="{height:g}"'
    head = f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="sans-serif"'
    card = (
        f'<rect x=".5" y=".5" width="{width - 1:g}" height="{height - 1:g}" rx="8" class="card"/>'
    )
    about = f"<title>{escape(title)}</title>"
    return "\n".join([f'{head} font-size="12">', about, STYLE.strip(), card, *body, "</svg>", ""])


def text(x: float, y: float, what: str, more: str = "") -> str:
    return f'<text x="{x:g}" y="{y:g}"{more}>{escape(what, quote=False)}</text>'


class Bar(NamedTuple):
    label: str
    value: float
    shown: str
    ours: bool


LABELS, SHOWN, STEP = 150, 70, 21


def bars(left: float, top: float, width: float, title: str, all_bars: list[Bar]) -> list[str]:
    """Bars to the right, from nothing to the longest, each with what it is."""
    longest = max(bar.value for bar in all_bars)
    room = width - LABELS - SHOWN
    lines = [text(left, top, title, ' font-weight="600"')]
    for number, bar in enumerate(all_bars):
        y = top + 12 + STEP * number
        wide = max(1.0, round(room * bar.value / longest, 1))
        place = f'x="{left + LABELS:g}" y="{y:g}" width="{wide:g}" height="14"'
        kind = "ours" if bar.ours else "peer"
        lines += [
            text(left + LABELS - 8, y + 11, bar.label, ' text-anchor="end"'),
            f'<rect {place} rx="2" class="{kind}"/>',
            text(left + LABELS + wide + 6, y + 11, bar.shown, ' class="quiet"'),
        ]
    return lines


def cold_start() -> str:
    found = result("cold_start")
    all_bars = []
    for what in ("nothing", "numpy", "torch"):
        for row in rows(found, f"An endpoint that imports {what}"):
            ours = row["name"] == "fork"
            label = "Flash" if ours else f"{what}: new process"
            all_bars.append(Bar(label, row["value"], f"{digits(row['value'])} ms", ours))
    title = "From submit to result with no worker there, by what the endpoint imports"
    return drawing(720, 170, title, bars(24, 28, 680, title, all_bars))


def serving() -> str:
    calls = [
        Bar(_name(row), row["value"], f"{row['value']:.2f} ms", _ours(row))
        for row in rows(result("warm_call"), "A warm call")
    ]
    body = bars(24, 28, 680, "A warm call of an empty function in a program", calls)
    top = 28 + STEP * len(calls) + 40
    found = result("serving")
    for left, figure, title in (
        (24, "1 client: round trip, p50", "Served, 1 client: round trip, Flash = 1"),
        (372, "32 clients: requests a second", "Served, 32 clients: requests a second, Flash = 1"),
    ):
        peers = [
            Bar(_name(row), row["ratio"], f"{row['ratio']:.2f}", _ours(row))
            for row in rows(found, figure)
            if row["name"] not in ("the unavoidable", "by hand")  # which serve nobody
        ]
        body += bars(left, top, 340, title, peers)
    height = top + STEP * len(peers) + 22
    return drawing(720, height, "Warm calls: in a program, and served", body)


def _ours(row: dict[str, Any]) -> bool:
    return str(row["name"]).startswith("flash")


def _name(row: dict[str, Any]) -> str:
    return "Flash" if _ours(row) else str(row["name"])


WIDTH, HEIGHT, MARGIN = 300, 190, 44


class Point(NamedTuple):
    setting: str
    hours: float
    share: float

    @property
    def kind(self) -> str:
        return "ours" if self.setting.startswith("learned") else "peer"


def panel(number: int, name: str, points: list[Point]) -> list[str]:
    """One trace: worker-hours to the right, the share of cold starts upwards."""
    left, top = (number % 3) * WIDTH + MARGIN, (number // 3) * (HEIGHT + 50) + 40
    wide, high = WIDTH - MARGIN - 16, HEIGHT - 30
    hours = max(point.hours for point in points) * 1.05
    share = max(point.share for point in points) * 1.05 or 1.0

    def place(point: Point) -> tuple[float, float]:
        x = left + wide * point.hours / hours
        return round(x, 1), round(top + high * (1 - point.share / share), 1)

    lines = [
        text(left, top - 10, name, ' font-weight="600"'),
        f'<path d="M{left} {top}v{high}h{wide}" class="line"/>',
        text(left - 6, top + 8, f"{share:.0f}%", ' text-anchor="end" class="quiet"'),
        text(left + wide, top + high + 15, f"{hours:.0f} h", ' text-anchor="end" class="quiet"'),
    ]
    for before, point in pairwise(points):
        if before.kind == point.kind:
            (x1, y1), (x2, y2) = place(before), place(point)
            lines.append(f'<path d="M{x1} {y1}L{x2} {y2}" class="{point.kind}-line"/>')
    for point in points:
        x, y = place(point)
        about = f"{point.setting}: {point.share:.1f}%, {point.hours:.1f} h"
        dot = f'<circle cx="{x}" cy="{y}" r="3" class="{point.kind}">'
        lines.append(f"{dot}<title>{about}</title></circle>")
    return lines


def scaling() -> str:
    found = result("simulate")
    body = []
    for number, name in enumerate(("steady", "bursts", "daily", "mixed", "azure")):
        hours = rows(found, f"{name}, worker-hours")
        shares = rows(found, f"{name}, share of cold starts")
        points = [
            Point(row["name"], row["value"], share["value"])
            for row, share in zip(hours, shares, strict=True)
        ]
        body += panel(number, name, points)
    left, top = 2 * WIDTH + MARGIN, HEIGHT + 110
    body.append(text(left, top, "Share of cold starts over worker-hours", ' class="quiet"'))
    for number, (kind, what) in enumerate(
        (
            ("peer", "fixed idle_timeout, 5 s to 1 h"),
            ("ours", "learned, a start worth 30 to 1000 s"),
        ),
        1,
    ):
        body.append(f'<circle cx="{left + 4}" cy="{top + 20 * number - 4}" r="4" class="{kind}"/>')
        body.append(text(left + 14, top + 20 * number, what, ' class="quiet"'))
    return drawing(3 * WIDTH, 2 * (HEIGHT + 50) + 10, "Fixed and learned idle times", body)


CHARTS: dict[Path, Callable[[], str]] = {
    ROOT / "docs" / "cold-start.svg": cold_start,
    ROOT / "docs" / "serving.svg": serving,
    ROOT / "docs" / "scaling.svg": scaling,
}

# Tables


def filled(page: str) -> str:
    """The page, with the tables of the results that there are between its marks."""

    def between(found: re.Match[str]) -> str:
        there = (RESULTS / f"{found[2]}.json").exists()
        return found[1] + "".join(markdown(result(found[2])) if there else ()) + found[3]

    marks = r"(<!-- results/(\w+)\.json -->\n).*?(<!-- end -->)"
    return re.sub(marks, between, page, flags=re.DOTALL)


def markdown(found: dict[str, Any]) -> Iterator[str]:
    """What compares, or all where nothing does; then the machine."""
    compared = [table for table in found["tables"] if table["base"]] or found["tables"]
    yield "\n| | median | min to max | ratio |\n|---|---|---|---|\n"
    for table in compared:
        of = f"of {table['base']}" if table["base"] else ""
        yield f"| **{table['title']}** | | | {of} |\n"
        for row in table["rows"]:
            yield f"| {row['name']} | {digits(row['value'])} {row['unit']} | {_spread(row)} |\n"
    left_out = "".join(f" Left out: {what} ({why})." for what, why in found["left_out"].items())
    yield f"\n{_machine(found['machine'])}{left_out}\n"


def _spread(row: dict[str, Any]) -> str:
    samples = row["samples"]
    spread = f"{digits(min(samples))} to {digits(max(samples))}" if len(samples) > 1 else ""
    return f"{spread} | {'' if row['ratio'] is None else digits(row['ratio'])}"


def _machine(machine: dict[str, Any]) -> str:
    versions = "".join(f", {name} {version}" for name, version in machine["versions"].items())
    return (
        f"{machine['date']}, {machine['commit']}: {machine['cores']} cores ({machine['cpu']}),"
        f" {machine['memory_gb']} GB, {machine['kernel']}, Python {machine['python']}{versions};"
        f" load average {machine['load'][0]} at the start."
    )


if __name__ == "__main__":
    for file, draw in CHARTS.items():
        file.write_text(draw())
    TABLES.write_text(filled(TABLES.read_text()))
