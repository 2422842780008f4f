"""How long does a NumPy array take in and out, beside a process pool and a copy of its bytes?

    scripts/bench large_values

One call at a time, from an event loop. The function gives back what it was given. The table of
bandwidth counts the bytes in and the bytes out of a call.
"""

from __future__ import annotations

import asyncio
import statistics
import time
from concurrent.futures import ProcessPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np
from harness import Result

from runpod_flash import Endpoint

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

ROUNDS = 15
MEGABYTES = {1: 40, 10: 8, 100: 1}  # calls in a round


@Endpoint(name="mirror", cpu="cpu3c-1-2", workers=(0, 1), dependencies=["numpy"])
def mirror(array: Any) -> Any:
    return array


def mirror_here(array: Any) -> Any:
    return array


async def p50(call: Callable[[], Awaitable[Any]], calls: int) -> float:
    """The median of single calls, in milliseconds; nobody keeps what they give."""
    taken = []
    for _ in range(calls):
        start = time.perf_counter()
        await call()
        taken.append((time.perf_counter() - start) * 1000)
    return statistics.median(taken)


async def measure(result: Result, megabytes: int, calls: int, pool: ProcessPoolExecutor) -> None:
    loop = asyncio.get_running_loop()
    array = np.arange(megabytes * 1_000_000 // 8, dtype=np.float64)
    target = np.ones_like(array)

    async def copy() -> None:
        np.copyto(target, array)

    peers: dict[str, Callable[[], Awaitable[Any]]] = {
        "memcpy": copy,
        "flash, embedded": lambda: mirror(array),
        "ProcessPoolExecutor": lambda: loop.run_in_executor(pool, mirror_here, array),
    }
    for call in peers.values():
        await p50(call, 3)  # warm up
    rounds: dict[str, list[float]] = {name: [] for name in peers}
    for _ in range(ROUNDS):
        for name, call in peers.items():
            rounds[name].append(await p50(call, calls))
    result.compare(f"{megabytes} MB in and out, p50", "ms", rounds, base="memcpy")
    pairs = zip(rounds["memcpy"], rounds["flash, embedded"], strict=True)
    shares = [2 * copied / called for copied, called in pairs]
    title = f"{megabytes} MB in and out, bandwidth of a call"
    result.figures(title, "of memcpy's", {"flash, embedded": shares})


async def main() -> None:
    result = Result(__file__, str(__doc__), "numpy")
    with ProcessPoolExecutor(1) as pool:
        for megabytes, calls in MEGABYTES.items():
            await measure(result, megabytes, calls, pool)
    result.save()


if __name__ == "__main__":
    asyncio.run(main())
