"""What does a warm call of an empty function take: Flash embedded, a process pool, a Ray actor?

    scripts/bench warm_call

From an event loop, one call at a time, and 32 at once on a worker that takes as many. The peers
take turns, so that each meets the same noise.
"""

from __future__ import annotations

import asyncio
import statistics
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from typing import TYPE_CHECKING, Any

from harness import Result

from runpod_flash import Endpoint

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

ROUNDS = 15
CALLS = 400
IN_FLIGHT = 32


@Endpoint(name="empty", cpu="cpu3c-1-2", workers=(1, 1), max_concurrency=IN_FLIGHT)
async def empty() -> None: ...


def empty_here() -> None: ...


async def p50(call: Callable[[], Awaitable[Any]]) -> float:
    """The median of single calls, in milliseconds."""
    taken = []
    for _ in range(CALLS):
        start = time.perf_counter()
        await call()
        taken.append((time.perf_counter() - start) * 1000)
    return statistics.median(taken)


async def rate(call: Callable[[], Awaitable[Any]]) -> float:
    """Calls a second with so many in flight."""

    async def client() -> None:
        for _ in range(CALLS // 4):
            await call()

    start = time.perf_counter()
    await asyncio.gather(*(client() for _ in range(IN_FLIGHT)))
    return IN_FLIGHT * (CALLS // 4) / (time.perf_counter() - start)


def ray_actor() -> Callable[[], Awaitable[Any]]:
    import ray

    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")

    @ray.remote
    class Actor:
        async def empty(self) -> None: ...

    actor: Any = Actor.remote()
    return lambda: actor.empty.remote()


async def main() -> None:
    result = Result(__file__, str(__doc__), "ray")
    loop = asyncio.get_running_loop()
    with ProcessPoolExecutor(1) as pool:
        peers: dict[str, Callable[[], Awaitable[Any]]] = {
            "flash, embedded": empty,
            "ProcessPoolExecutor": lambda: loop.run_in_executor(pool, empty_here),
        }
        if "--no-ray" not in sys.argv:
            peers["Ray actor"] = ray_actor()
        for title, unit, measure in (
            ("A warm call, p50", "ms", p50),
            (f"{IN_FLIGHT} warm calls in flight, calls a second", "/s", rate),
        ):
            for call in peers.values():
                await measure(call)  # warm up
            rounds: dict[str, list[float]] = {name: [] for name in peers}
            for _ in range(ROUNDS):
                for name, call in peers.items():
                    rounds[name].append(await measure(call))
            result.compare(title, unit, rounds, "ProcessPoolExecutor")
    result.save()


if __name__ == "__main__":
    asyncio.run(main())
