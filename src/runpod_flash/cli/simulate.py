"""`flash simulate`: what scaling settings would do with a trace of calls, and cost."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from runpod_flash.cli import output
from runpod_flash.cli.json_output import print_json
from runpod_flash.cli.numbers import Number

if TYPE_CHECKING:
    from collections.abc import Iterator

    from runpod_flash.simulation.simulator import Outcome
    from runpod_flash.simulation.traces import Trace
    from runpod_flash.spec import Scaling

_TIMEOUTS = ("5", "60", "300", "900", "learned")
_HOUR = 3600.0


@click.command()
@click.option("--trace", type=click.Path(path_type=Path), help="The calls: CSV or JSON lines.")
@click.option("--shape", help="Made calls instead: steady, bursts, daily, mixed or azure.")
@click.option("--hours", type=Number(0.1, 24 * 60), default=24.0, show_default=True,
              help="How long calls of a shape come.")  # fmt: skip
@click.option("--seed", type=int, default=1, show_default=True, help="For a shape.")
@click.option("--workers", metavar="[MIN-]MAX", default="0-3", show_default=True)
@click.option("--idle-timeout", "timeouts", multiple=True, metavar="SECONDS|learned",
              help="May be given often.  [default: 5, 60, 300, 900 and learned]")  # fmt: skip
@click.option("--scaler", type=click.Choice(["QUEUE_DELAY", "REQUEST_COUNT"]),
              default="QUEUE_DELAY", show_default=True)  # fmt: skip
@click.option("--scaler-value", type=Number(0.001, 1e6), default=4.0,
              show_default=True)  # fmt: skip
@click.option("--start-seconds", type=Number(0, 24 * 3600), default=10.0, show_default=True,
              help="What a worker takes to be ready.")  # fmt: skip
@click.option("--price", type=Number(0, 1e9), help="Of an hour of a worker.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def simulate(
    trace: Path | None, shape: str | None, hours: float, seed: int, workers: str,
    timeouts: tuple[str, ...], scaler: Any, scaler_value: float, start_seconds: float,
    price: float | None, as_json: bool,
) -> None:  # fmt: skip
    """Say what scaling settings do with a trace of calls, and what they cost.

    A trace has a line for each call: timestamp,duration (in seconds), and a name where there are
    several endpoints; or JSON lines with these fields.

    Example: flash simulate --trace calls.csv --workers 0-5 --price 1.10
    """
    from runpod_flash.spec import Scaling

    calls = _calls(trace, shape, hours, seed)
    least, most = _workers(workers)
    base = Scaling(least, most, scaler=scaler, scaler_value=scaler_value)
    settings = [(text, _idle(base, text)) for text in timeouts or _TIMEOUTS]
    rows = list(_rows(calls, settings, start_seconds, price))
    if as_json:
        print_json([row.as_json() for row in rows])
        return
    click.echo(_title(calls, least, most, start_seconds))
    heads = ["idle_timeout", "cold starts", "wait p50", "p95", "p99", "worker hours", "per call"]
    cells = [row.cells() for row in rows]
    if price is not None:
        heads.append("cost")
    for line in output.headed(heads, cells, right=range(1, len(heads))):
        click.echo(line)


@dataclass(frozen=True)
class _Row:
    setting: str
    found: Outcome
    price: float | None

    @property
    def hours(self) -> float:
        return self.found.worker_seconds / _HOUR

    def cells(self) -> list[str]:
        found = self.found
        per_call = found.worker_seconds / found.calls
        cells = [self.setting, f"{found.cold_share:.1%}"]
        cells += [f"{found.wait(share):.1f} s" for share in (0.5, 0.95, 0.99)]
        cells += [f"{self.hours:,.2f}", f"{per_call:.1f} s"]
        return cells if self.price is None else [*cells, f"{self.hours * self.price:,.2f}"]

    def as_json(self) -> dict[str, Any]:
        found = self.found
        return {
            "idle_timeout": self.setting if self.setting == "learned" else int(self.setting),
            "calls": found.calls,
            "cold_starts": found.cold,
            "wait_seconds": {f"p{round(s * 100)}": found.wait(s) for s in (0.5, 0.95, 0.99)},
            "worker_seconds": found.worker_seconds,
            "cost": None if self.price is None else self.hours * self.price,
        }


def _rows(
    calls: Trace, settings: list[tuple[str, Scaling]], start_seconds: float, price: float | None
) -> Iterator[_Row]:
    from runpod_flash.simulation.simulator import simulate as simulated

    for text, scaling in settings:
        yield _Row(text, simulated(calls, scaling, start_seconds=start_seconds), price)


def _calls(trace: Path | None, shape: str | None, hours: float, seed: int) -> Trace:
    import random

    from runpod_flash.simulation.traces import SHAPES, read_trace
    from runpod_flash.suggest import did_you_mean

    if (trace is None) == (shape is None):
        raise click.UsageError("Give the calls with --trace FILE, or made ones with --shape NAME.")
    if trace is not None:
        _refuse_for_a_trace("hours", "seed")
        return read_trace(trace)
    assert shape is not None
    if shape not in SHAPES:
        hint = did_you_mean(shape, SHAPES)
        raise click.UsageError(f"--shape {shape}: one of {', '.join(SHAPES)}.{hint}")
    made = SHAPES[shape](hours, random.Random(seed))
    if not any(made.values()):
        raise click.UsageError(f"No call of {shape} comes in {hours:g} hours: give more --hours.")
    return made


def _refuse_for_a_trace(*options: str) -> None:
    context = click.get_current_context()
    for name in options:
        if context.get_parameter_source(name) is not ParameterSource.DEFAULT:
            raise click.UsageError(f"--{name} is for calls of a --shape: a --trace tells its own.")


def _workers(text: str) -> tuple[int, int]:
    from runpod_flash.scaling import parse_workers

    least, _, most = text.rpartition("-")
    try:
        found = parse_workers((int(least or 0), int(most)))
    except ValueError as problem:
        plain = f"--workers {text}: write a maximum such as 3, or 0-3."
        raise click.UsageError(
            str(problem) if least.isdigit() and most.isdigit() else plain
        ) from None
    if found[1] == 0:
        raise click.UsageError(f"--workers {text}: no call would ever run; allow at least one.")
    return found


def _idle(base: Scaling, text: str) -> Scaling:
    from runpod_flash.declaration import parse_idle_timeout
    from runpod_flash.scaling import LEARNED, LEARNED_WORTH

    value = parse_idle_timeout(int(text) if text.isdecimal() else text)
    if value == LEARNED:
        return replace(base, idle_timeout=LEARNED_WORTH, learned=True)
    return replace(base, idle_timeout=int(value))


def _title(calls: Trace, least: int, most: int, start_seconds: float) -> str:
    count = sum(map(len, calls.values()))
    hours = max(each[-1].at for each in calls.values() if each) / _HOUR
    ends = f" of {len(calls)} endpoints" if len(calls) > 1 else ""
    return (
        f"{output.counted(count, 'call')}{ends} in {hours:,.1f} hours; "
        f"workers {least} to {most}, ready after {start_seconds:g} s\n"
    )
