"""Traces: calls with their times, read from a file or made in the shapes that traffic has."""

from __future__ import annotations

import bisect
import csv
import json
import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from runpod_flash.errors import ConfigurationError

if TYPE_CHECKING:
    import random
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

HOUR, DAY = 3600.0, 86_400.0
# Seconds since 1970 are below for 3000 years yet; milliseconds are not.
_MOST = 1e11


@dataclass(frozen=True, slots=True, order=True)
class Arrival:
    """A call: when it comes, and how long it runs, in seconds."""

    at: float
    seconds: float


# The calls of each endpoint, in order.
Trace = dict[str, "list[Arrival]"]


def read_trace(path: Path) -> Trace:
    """The calls that a CSV file or a file of JSON lines tells.

    Each has a `timestamp` (seconds, or ISO 8601) and a `duration` (seconds), and `endpoint` where
    there are several. Raises `ConfigurationError` with the first line that is wrong.
    """
    found: Trace = {}
    for number, row in _rows(path):
        try:
            call = Arrival(_time(row["timestamp"]), _duration(row["duration"]))
        except KeyError as missing:
            raise _wrong(path, number, f"has no {missing.args[0]!r}") from None
        except ValueError as problem:
            raise _wrong(path, number, str(problem)) from None
        if not abs(call.at) < _MOST or not 0 <= call.seconds < _MOST:
            raise _wrong(path, number, "has a time that is negative, too large or no number")
        found.setdefault(str(row.get("endpoint") or ""), []).append(call)
    if not found:
        raise ConfigurationError(f"{path} has no calls: write a line timestamp,duration for each.")
    start = min(call.at for calls in found.values() for call in calls)
    return {
        name: sorted(Arrival(call.at - start, call.seconds) for call in calls)
        for name, calls in found.items()
    }


def _rows(path: Path) -> Iterator[tuple[int, Mapping[str, Any]]]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            lines = [(number, line) for number, line in enumerate(file, 1) if line.strip()]
    except UnicodeDecodeError:
        raise ConfigurationError(
            f"{path} is no text in UTF-8: a trace is CSV, or JSON lines."
        ) from None
    if lines and lines[0][1].lstrip().startswith("{"):
        for number, line in lines:
            yield number, _json(path, number, line)
        return
    names = ["timestamp", "duration", "endpoint"]
    for number, line in lines:
        row = _cells(path, number, line)
        heads = [cell.strip().lower() for cell in row]
        if number == lines[0][0] and "timestamp" in heads:
            names = heads
        else:
            yield number, dict(zip(names, row, strict=False))


def _cells(path: Path, number: int, line: str) -> list[str]:
    try:
        return next(csv.reader([line]))
    except csv.Error:  # a NUL, or a cell of 128 KiB
        raise _wrong(path, number, "is no CSV") from None


def _json(path: Path, number: int, line: str) -> Mapping[str, Any]:
    try:
        value = json.loads(line)
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise _wrong(path, number, "is no JSON object")
    return value


def _time(value: Any) -> float:
    try:
        return float(value)
    except OverflowError:
        return math.inf
    except (TypeError, ValueError):
        from datetime import datetime, timezone

        # (Python 3.10 reads no "Z", and only three or six digits.)
        text = re.sub(r"\.(\d+)", lambda part: f".{part[1]:0<6.6}", str(value).strip())
        try:
            moment = datetime.fromisoformat(text.replace("Z", "+00:00"))
        except ValueError:
            raise ValueError(f"{value!r} is no time") from None
        return (moment if moment.tzinfo else moment.replace(tzinfo=timezone.utc)).timestamp()


def _duration(value: Any) -> float:
    try:
        return float(value)
    except OverflowError:
        return math.inf
    except (TypeError, ValueError):
        raise ValueError(f"{value!r} is no duration") from None


def _wrong(path: Path, number: int, what: str) -> ConfigurationError:
    return ConfigurationError(
        f"{path}, line {number}: {what}; a line is timestamp,duration (in seconds), or a JSON "
        'object such as {"timestamp": 12.5, "duration": 0.3}.'
    )


# Shapes


def steady(hours: float, rng: random.Random, *, each: float = 30.0, runs: float = 2.0) -> Trace:
    """Calls that know nothing of each other, one in `each` seconds on average."""
    return {"steady": _calls(_poisson(lambda _: 1 / each, 1 / each, hours, rng), runs, rng)}


def bursts(hours: float, rng: random.Random, *, every: float = HOUR, runs: float = 2.0) -> Trace:
    """Some minutes of many calls, about `every` so many seconds, and nothing between."""
    times, at = [], rng.uniform(0, every)
    while at < hours * HOUR:
        end = at + rng.uniform(60, 300)
        while at < min(end, hours * HOUR):
            times.append(at)
            at += rng.expovariate(1 / 5)
        at += every * rng.uniform(0.9, 1.1)
    return {"bursts": _calls(times, runs, rng)}


def daily(hours: float, rng: random.Random, *, peak: float = 20.0, runs: float = 2.0) -> Trace:
    """One call in `peak` seconds at noon, and hardly any at night."""

    def rate(at: float) -> float:
        return (0.5 - 0.5 * math.cos(2 * math.pi * at / DAY)) ** 3 / peak

    return {"daily": _calls(_poisson(rate, 1 / peak, hours, rng), runs, rng)}


def mixed(hours: float, rng: random.Random, *, endpoints: int = 12) -> Trace:
    """Endpoints of the three shapes above, each with a pace of its own."""
    found: Trace = {}
    for number in range(endpoints):
        pace = math.exp(rng.uniform(math.log(20), math.log(4 * HOUR)))
        if number % 3 == 0:
            made = steady(hours, rng, each=pace)
        elif number % 3 == 1:
            made = bursts(hours, rng, every=600 + pace)
        else:
            made = daily(hours, rng, peak=pace / 4)
        found.update({f"{name}-{number}": calls for name, calls in made.items()})
    return found


# Azure's functions, July 2019 ("Serverless in the Wild", sections 3.2 to 3.4): calls of an
# application a day, as points of the published distribution; the shares of timers among triggers;
# the log-normal of how long functions run.
_CALLS_A_DAY = ((0.0, 0.3), (0.45, 24.0), (0.81, 1440.0), (0.95, 17_280.0), (1.0, 86_400.0))
_TIMERS = 0.29
_PERIODS = (300.0, 600.0, 900.0, 1800.0, HOUR, 2 * HOUR, 6 * HOUR, DAY)
_RUN_MU, _RUN_SIGMA = -0.38, 2.36
_LONGEST_RUN = 60.0


def azure(hours: float, rng: random.Random, *, endpoints: int = 40) -> Trace:
    """Endpoints as Azure's applications are: most hardly called, some by timers, a few often.

    Rates above two calls a minute are left out: such endpoints are hardly ever idle.
    """
    return {f"app-{number:03}": _application(hours, rng) for number in range(endpoints)}


def _application(hours: float, rng: random.Random) -> list[Arrival]:
    runs = min(rng.lognormvariate(_RUN_MU, _RUN_SIGMA), _LONGEST_RUN)
    if rng.random() < _TIMERS:
        period = rng.choice(_PERIODS)
        times = _timer(period, hours, rng)
        runs = min(runs, period / 4)
    else:
        each = DAY / min(_quantile(_CALLS_A_DAY, rng.random()), DAY / 30)
        # Half of them come in clusters, whose idle times vary more than those of single calls.
        clustered = rng.random() < 0.5
        times = _clusters(each, hours, rng) if clustered else _even(each, hours, rng)
    return _calls(times, runs, rng)


def _timer(period: float, hours: float, rng: random.Random) -> list[float]:
    start = rng.uniform(0, period)
    count = math.floor((hours * HOUR - start) / period) + 1
    return [start + period * number + rng.uniform(0, 1) for number in range(count)]


def _clusters(each: float, hours: float, rng: random.Random) -> list[float]:
    times, at, size = [], rng.expovariate(1 / each), 5
    while at < hours * HOUR:
        times.append(at)
        within = rng.random() < 1 - 1 / size
        at += rng.expovariate(1 / (each / 20 if within else each * size))
    return times


def _even(each: float, hours: float, rng: random.Random) -> list[float]:
    return _poisson(lambda _: 1 / each, 1 / each, hours, rng)


def _poisson(
    rate: Callable[[float], float], most: float, hours: float, rng: random.Random
) -> list[float]:
    """Times of a Poisson process of the rate, which is never above `most` (by thinning)."""
    times, at = [], rng.expovariate(most)
    while at < hours * HOUR:
        if rng.random() * most < rate(at):
            times.append(at)
        at += rng.expovariate(most)
    return times


def _calls(times: Iterable[float], runs: float, rng: random.Random) -> list[Arrival]:
    return [Arrival(at, runs * rng.uniform(0.5, 1.5)) for at in times]


def _quantile(points: Sequence[tuple[float, float]], share: float) -> float:
    """Between the points of a distribution, along the logarithm of the values."""
    right = max(1, bisect.bisect_left([known for known, _ in points], share))
    (low, small), (high, large) = points[right - 1], points[right]
    part = (share - low) / (high - low)
    return math.exp(math.log(small) + part * (math.log(large) - math.log(small)))


SHAPES: dict[str, Callable[[float, random.Random], Trace]] = {
    "steady": steady,
    "bursts": bursts,
    "daily": daily,
    "mixed": mixed,
    "azure": azure,
}
