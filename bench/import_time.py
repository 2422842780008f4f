"""What does `from runpod_flash import Endpoint, GpuType` cost a program at its start?

    scripts/bench import_time

Whole interpreters, one after another, next to one that does nothing.
"""

from __future__ import annotations

import subprocess
import sys
import time

from harness import Result

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
    result = Result(__file__, str(__doc__))
    rounds: dict[str, list[float]] = {name: [] for name in PROGRAMS}
    for _ in range(ROUNDS):
        for name, program in PROGRAMS.items():
            rounds[name].append(milliseconds(program))
    result.compare("A program's start and end", "ms", rounds, "python -c pass")
    result.save()


if __name__ == "__main__":
    main()
