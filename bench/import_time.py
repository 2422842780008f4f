"""What `from runpod_flash import Endpoint, GpuType` costs a program at its start.

    scripts/bench import_time

Whole interpreters, one after another, next to one that does nothing.
"""

from __future__ import annotations

import subprocess
import sys
import time

from harness import report

ROUNDS = 30
PROGRAMS = {
    "python -c pass": "pass",
    "import Endpoint, GpuType": "from runpod_flash import Endpoint, GpuType",
}


def milliseconds(program: str) -> float:
    start = time.perf_counter()
    subprocess.run([sys.executable, "-c", program], check=True)
    return (time.perf_counter() - start) * 1000


def main() -> None:
    rounds: dict[str, list[float]] = {name: [] for name in PROGRAMS}
    for _ in range(ROUNDS):
        for name, program in PROGRAMS.items():
            rounds[name].append(milliseconds(program))
    report("A program's start", "ms", rounds, base="python -c pass")


if __name__ == "__main__":
    main()
