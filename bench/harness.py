"""What the benchmarks share: interleaved rounds, medians, ratios, and the machine's description."""

from __future__ import annotations

import os
import platform
import statistics
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping


def machine() -> str:
    """One line that says where the figures come from."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    pages, size = os.sysconf("SC_PHYS_PAGES"), os.sysconf("SC_PAGE_SIZE")
    python = ".".join(map(str, sys.version_info[:3]))
    memory = pages * size / 1e9
    return f"{platform.platform()}, {cores} cores, {memory:.0f} GB, Python {python}"


def report(title: str, unit: str, rounds: Mapping[str, list[float]], base: str) -> None:
    """Print the median over the rounds, its spread, and the ratio of each round to `base`'s."""
    print(f"\n{title}\n{machine()}; {len(rounds[base])} interleaved rounds\n")
    print(f"{'':28} {'median':>10} {'min':>10} {'max':>10} {'ratio':>8}")
    for name, values in rounds.items():
        ratios = [mine / theirs for mine, theirs in zip(values, rounds[base], strict=True)]
        print(
            f"{name:28} {statistics.median(values):8.3f} {unit} {min(values):7.3f} {unit}"
            f" {max(values):7.3f} {unit} {statistics.median(ratios):7.2f}x"
        )
