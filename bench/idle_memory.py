"""How much memory do ten idle torch workers take: fresh processes beside forks?

    scripts/bench idle_memory

Proportional set size of all processes that a program has started: workers, their minders, and what
is kept ready to fork. torch has to be found by uv (UV_FIND_LINKS).
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import psutil
from harness import Result
from workers import FRESH, program

PROGRAM = """
import asyncio, os, sys, time
from runpod_flash import Endpoint, ServerlessScalerType
from runpod_flash.testing import use_node

@Endpoint(
    name="torch", cpu="cpu3c-2-4", dependencies=["torch==2.13.0", "numpy"], python_version="3.11",
    workers=(0, 10), scaler_type=ServerlessScalerType.REQUEST_COUNT, scaler_value=1,
    idle_timeout=600,
)
async def with_torch(seconds):
    import torch
    assert torch.ones(200, 200).sum() == 40000
    await asyncio.sleep(seconds)
    return os.getpid()

async def main():
    print("ready", flush=True)
    for count in (1, 1, 1, 10):
        await asyncio.to_thread(sys.stdin.readline)
        pids = await asyncio.gather(*(with_torch(20 if count > 1 else 0) for _ in range(count)))
        print(len(set(pids)), flush=True)
        if count == 1:
            await asyncio.sleep(8)
            os.kill(pids[0], 9)
            await asyncio.sleep(1)
    await asyncio.to_thread(sys.stdin.readline)

if __name__ == "__main__":
    use_node([], cores=16)
    asyncio.run(main())
"""


def megabytes(root: Path, name: str, **variables: str) -> float:
    with program(root, name, PROGRAM, **variables) as running:
        for _ in range(3):
            running.ask("go")
        workers = int(running.ask("go"))
        assert workers == 10, workers
        own = psutil.Process(running.pid).children(recursive=True)
        return sum(each.memory_full_info().pss for each in own) / 1e6


def main() -> None:
    result = Result(__file__, str(__doc__))
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        found = {
            "fresh processes": [megabytes(root, "fresh.py", **FRESH)],
            "forks": [megabytes(root, "forks.py")],
        }
    title = "Ten workers that have computed, and what starts them"
    result.compare(title, "MB", found, "fresh processes")
    result.save()


if __name__ == "__main__":
    main()
