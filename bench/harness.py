"""What every benchmark gives: tables of figures, and a file of them with the machine they are from.

A benchmark makes one `Result`, adds tables to it, and ends with `save`, which writes
`results/NAME.json`. Ratios are medians over the ratios of each round, so that what disturbs a round
disturbs both.
"""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as distribution_version
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "bench" / "results"
# What a benchmark ends with that cannot run on this machine.
_LEFT_OUT = 77


@dataclass(frozen=True)
class Row:
    """One figure: a sample for each round, and the median of their ratios to the table's base."""

    name: str
    unit: str
    samples: Sequence[float]
    ratio: float | None = None

    @property
    def value(self) -> float:
        """The median of the samples."""
        return median(self.samples)


@dataclass(frozen=True)
class Table:
    """Figures of one kind; `base` names what the ratios are to ("" where nothing is compared)."""

    title: str
    base: str
    rows: Sequence[Row]

    def show(self) -> None:
        ratio = f"of {self.base}" if self.base else ""
        print(f"\n{self.title}\n\n{'':34} {'median':>9} {'min':>9} {'max':>9}       {ratio}")
        for row in self.rows:
            figures = " ".join(f"{x:9.3f}" for x in (row.value, min(row.samples), max(row.samples)))
            ratio = "" if row.ratio is None else f"{row.ratio:7.3f}"
            print(f"{row.name:34} {figures} {row.unit:5}{ratio}", flush=True)


class Result:
    """What the benchmark of `file` has found. The first line of `about` is its question.

    `peers` are the distributions or commands whose versions are to be noted.
    """

    def __init__(self, file: str, about: str, *peers: str) -> None:
        self.name = Path(file).stem
        self._question = about.splitlines()[0]
        self._machine = _machine(peers)
        self._tables: list[Table] = []
        self._left_out: dict[str, str] = {}
        print(f"{self._question}\n{self._machine}", flush=True)

    def compare(
        self, title: str, unit: str, rounds: Mapping[str, Sequence[float]], base: str
    ) -> None:
        """Add a table of samples that were taken in turns, with their ratios to those of `base`."""
        rows = [
            Row(name, unit, samples, ratio(samples, rounds[base]))
            for name, samples in rounds.items()
        ]
        self.add(Table(title, base, rows))

    def figures(self, title: str, unit: str, found: Mapping[str, Sequence[float]]) -> None:
        """Add a table of samples that are compared with nothing."""
        self.add(Table(title, "", [Row(name, unit, samples) for name, samples in found.items()]))

    def add(self, table: Table) -> None:
        self._tables.append(table)
        table.show()

    def leave_out(self, what: str, why: str) -> None:
        """Say, and note, that a peer or a part is missing."""
        self._left_out[what] = why
        print(f"\nleft out: {what}: {why}", flush=True)

    def save(self) -> None:
        """Write `results/NAME.json`, a line for each row, unless options asked for a part only."""
        if len(sys.argv) > 1:
            print(f"\nnot written to {self.name}.json: a part of it, not all, was asked for")
            return
        head = {
            "question": self._question,
            "command": f"scripts/bench {self.name}",
            "machine": self._machine,
            "left_out": self._left_out,
        }
        lines = [f" {json.dumps(key)}: {json.dumps(value)}," for key, value in head.items()]
        tables = ",\n".join(_table_text(table) for table in self._tables)
        RESULTS.mkdir(exist_ok=True)
        text = "\n".join(["{", *lines, ' "tables": [', tables, " ]", "}", ""])
        (RESULTS / f"{self.name}.json").write_text(text)


def ratio(samples: Sequence[float], base: Sequence[float]) -> float:
    """The median of the ratios of the rounds."""
    return median(mine / theirs for mine, theirs in zip(samples, base, strict=True))


def need(command: str, package: str = "") -> None:
    """End the benchmark where a command is missing that it cannot do without."""
    if shutil.which(command) is None:
        leave(f"{command} is missing: install it (Debian: apt install {package or command}).")


def leave(why: str) -> NoReturn:
    """End the benchmark, for a reason that is no failure."""
    print(why, file=sys.stderr)
    raise SystemExit(_LEFT_OUT)


def _table_text(table: Table) -> str:
    rows = ",\n".join(f"   {json.dumps(_row(row))}" for row in table.rows)
    head = f'  {{"title": {json.dumps(table.title)}, "base": {json.dumps(table.base)}, "rows": ['
    return f"{head}\n{rows}\n  ]}}"


def _row(row: Row) -> dict[str, object]:
    return {
        "name": row.name,
        "value": _rounded(row.value),
        "unit": row.unit,
        "ratio": None if row.ratio is None else _rounded(row.ratio),
        "samples": [_rounded(sample) for sample in row.samples],
    }


def _rounded(value: float) -> float:
    """Four digits are more than repeat."""
    return float(f"{value:.4g}")


def _machine(peers: Sequence[str]) -> dict[str, object]:
    """Where figures come from; nothing that names a host."""
    return {
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None,
        "cpu": _cpu(),
        "memory_gb": round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 1e9),
        "kernel": f"{platform.system()} {platform.release().partition('-')[0]}",
        "python": platform.python_version(),
        "versions": {peer: _version(peer) for peer in peers},
        "date": datetime.now(timezone.utc).date().isoformat(),
        "commit": _commit(),
        "load": [round(each, 1) for each in os.getloadavg()],
    }


def _cpu() -> str:
    file = Path("/proc/cpuinfo")
    text = file.read_text() if file.exists() else ""
    found = re.search(r"model name\s*: (.+)", text)
    return found[1] if found else platform.machine()


def _version(peer: str) -> str:
    try:
        return distribution_version(peer)
    except PackageNotFoundError:
        if shutil.which(peer) is None:
            return "missing"
    said = subprocess.run([peer, "--version"], capture_output=True, text=True, check=False).stdout
    found = re.search(r"\d+(\.\d+)+", said)
    return found[0] if found else "unknown"


def _commit() -> str:
    """The commit that is measured, and whether files differ from it."""
    commit = _git("rev-parse", "--short", "HEAD")
    return f"{commit} and changes" if _git("status", "--porcelain", "--", "src") else commit


def _git(*arguments: str) -> str:
    command = ["git", "-C", str(ROOT), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
