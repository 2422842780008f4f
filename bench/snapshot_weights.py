"""How soon is there a first result of a snapshot that holds 1 GB, beside one that holds none?

    scripts/bench snapshot_weights

All workers are forks of a process that has loaded the module. A round kills the worker and times
the next call, from submit to result.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

from harness import Result
from workers import ROUNDS, program

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
KINDS = {
    "heap": "an ordinary heap",
    "huge pages": "huge pages",
    "shared": "shared memory",
    "mapped file": "a mapped file",
}


def weights(result: Result, root: Path) -> None:
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
            result.compare(f"1 GB in {KINDS[kind]}", "ms", rounds, "nothing")


if __name__ == "__main__":
    found = Result(__file__, str(__doc__))
    with tempfile.TemporaryDirectory() as name:
        weights(found, Path(name))
    found.save()
