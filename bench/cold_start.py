"""From no worker to the first result, with the environment built: fresh processes beside forks.

    scripts/bench cold_start [numpy] [torch] [weights]

Two programs take turns; in one of them every worker is a fresh process. A round kills the worker
and times the next call, from submit to result. `weights` has endpoints that hold 1 GB of them,
beside one that holds nothing: all are snapshots. torch has to be found by uv (UV_FIND_LINKS).
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from harness import report

if TYPE_CHECKING:
    from collections.abc import Iterator

FRESH = """
if __name__ == "__main__":
    from runpod_flash.engines.local.processes import fresh, zygotes
    zygotes.ZygoteLauncher = fresh.FreshProcessLauncher
"""
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
# Each holds 1 GB, written to; `nothing` holds none.
WEIGHTS = """
import asyncio, mmap, os, sys, time
from runpod_flash import Endpoint

KIND, SIZE = os.environ["KIND"], 10**9

def touched(area):
    for place in range(0, SIZE, 4096):
        area[place] = 1
    return area

def load():
    if KIND == "heap":
        area = mmap.mmap(-1, SIZE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        area.madvise(mmap.MADV_NOHUGEPAGE)
        return touched(area)
    if KIND == "huge pages":
        area = mmap.mmap(-1, SIZE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        area.madvise(mmap.MADV_HUGEPAGE)
        return touched(area)
    if KIND == "shared":
        return touched(mmap.mmap(-1, SIZE))
    if KIND == "mapped file":
        path = os.path.join(os.environ["FOLDER"], "weights")
        with open(path, "wb") as file:
            file.truncate(SIZE)
        with open(path, "rb") as file:
            area = mmap.mmap(file.fileno(), SIZE, access=mmap.ACCESS_READ)
        assert sum(memoryview(area)[::4096]) == 0
        return area

# Only in workers: this program has no use for them.
HELD = load() if KIND != "nothing" and __name__ != "__main__" else None
BY = os.getpid()

@Endpoint(name="weights", cpu="cpu3c-2-4", env={k: os.environ[k] for k in ("KIND", "FOLDER")})
async def weights():
    return os.getpid(), BY

async def main():
    pid = 0
    print("ready", flush=True)
    while (await asyncio.to_thread(sys.stdin.readline)).strip():
        if pid:
            os.kill(pid, 9)
            await asyncio.sleep(0.3)
        began = time.perf_counter()
        pid, by = await weights()
        print(1000 * (time.perf_counter() - began), "fresh" if by == pid else "", flush=True)

if __name__ == "__main__":
    asyncio.run(main())
"""
KINDS = ("heap", "huge pages", "shared", "mapped file")
ROUNDS = 15


class Running:
    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self.ask("")

    @property
    def pid(self) -> int:
        return self._process.pid

    def ask(self, name: str) -> str:
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None
        assert stdout is not None
        if name:
            stdin.write(f"{name}\n")
            stdin.flush()
        return stdout.readline()

    def call(self, name: str) -> float:
        return float(self.ask(name).split()[0])

    def settle(self, name: str) -> None:
        """Call until the next worker is as all later ones are: each pause makes it so for one of
        the environment's zygote, that with what was learned, and the endpoint's snapshot."""
        longer = 2 if name == "torch" else 1
        for pause in (3.0, 3.0, 2.0, 0.3):
            self.ask(name)
            time.sleep(longer * pause)


@contextmanager
def program(root: Path, name: str, source: str, **variables: str) -> Iterator[Running]:
    file = root / name
    file.write_text(source)
    with subprocess.Popen(
        [sys.executable, str(file)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=root,
        env={**os.environ, **variables},
    ) as process:
        try:
            yield Running(process)
        finally:
            process.kill()


def compare(root: Path, name: str) -> None:
    with (
        program(root, "fresh.py", FRESH + PROGRAM) as fresh,
        program(root, "forks.py", PROGRAM) as forks,
    ):
        fresh.call(name)
        forks.settle(name)
        peers = {"fresh process": fresh, "fork": forks}
        rounds: dict[str, list[float]] = {peer: [] for peer in peers}
        for _ in range(ROUNDS):
            for peer, running in peers.items():
                rounds[peer].append(running.call(name))
                time.sleep(0.3)
    report(f"Submit to result from zero, {name}", "ms", rounds, "fresh process")


def weights(root: Path) -> None:
    with program(root, "nothing.py", WEIGHTS, KIND="nothing", FOLDER=str(root)) as without:
        without.settle("go")
        for kind in KINDS:
            with program(root, "holds.py", WEIGHTS, KIND=kind, FOLDER=str(root)) as holds:
                holds.settle("go")
                rounds: dict[str, list[float]] = {"nothing": [], kind: []}
                for _ in range(ROUNDS):
                    rounds["nothing"].append(without.call("go"))
                    time.sleep(0.3)
                    rounds[kind].append(holds.call("go"))
                    time.sleep(0.3)
            report(f"A snapshot that holds 1 GB: {kind}", "ms", rounds, "nothing")


def main() -> None:
    wanted = sys.argv[1:] or ["bare", "numpy", "torch", "weights"]
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        for each in wanted:
            if each == "weights":
                weights(root)
            else:
                compare(root, each)


if __name__ == "__main__":
    main()
