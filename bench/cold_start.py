"""How soon is there a result where no worker was: fresh processes beside forks of a zygote?

    scripts/bench cold_start [bare] [numpy] [torch]

Two programs take turns; in one of them every worker is a fresh process. A round kills the worker
and times the next call, from submit to result. torch has to be found by uv (UV_FIND_LINKS).
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

from harness import Result
from workers import FRESH, ROUNDS, program

PROGRAM = """
import asyncio, os, sys, time
from runpod_flash import Endpoint

CPU = "cpu3c-2-4"

@Endpoint(name="bare", cpu=CPU)
async def bare():
    return os.getpid()

@Endpoint(name="numpy", cpu=CPU, dependencies=["numpy"])
async def with_numpy():
    import numpy
    return os.getpid()

@Endpoint(name="torch", cpu=CPU, dependencies=["torch==2.13.0", "numpy"], python_version="3.11")
async def with_torch():
    import torch
    return os.getpid()

async def main():
    pids = {}
    print("ready", flush=True)
    while name := (await asyncio.to_thread(sys.stdin.readline)).strip():
        call = {"bare": bare, "numpy": with_numpy, "torch": with_torch}[name]
        if name in pids:
            os.kill(pids[name], 9)
            await asyncio.sleep(0.3)
        began = time.perf_counter()
        pids[name] = await call()
        print(1000 * (time.perf_counter() - began), flush=True)

if __name__ == "__main__":
    asyncio.run(main())
"""
TITLES = {"bare": "imports nothing", "numpy": "imports numpy", "torch": "imports torch"}


def compare(result: Result, root: Path, name: str) -> None:
    with (
        program(root, "fresh.py", PROGRAM, **FRESH) as fresh,
        program(root, "forks.py", PROGRAM) as forks,
    ):
        fresh.call(name)
        forks.settle(name, slow=name == "torch")
        peers = {"fresh process": fresh, "fork": forks}
        rounds: dict[str, list[float]] = {peer: [] for peer in peers}
        for _ in range(ROUNDS):
            for peer, running in peers.items():
                rounds[peer].append(running.call(name))
                time.sleep(0.3)
    result.compare(f"An endpoint that {TITLES[name]}", "ms", rounds, "fresh process")


def main() -> None:
    result = Result(__file__, str(__doc__))
    with tempfile.TemporaryDirectory() as name:
        for each in sys.argv[1:] or TITLES:
            compare(result, Path(name), each)
    result.save()


if __name__ == "__main__":
    main()
