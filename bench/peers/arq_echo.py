"""arq with Redis: `python arq_echo.py worker|client`.

REDIS has its address. A client is a task, and waits for its result with `Job.result`.
"""

from __future__ import annotations

import asyncio
import os
import sys
from typing import Any

from arq import create_pool, run_worker
from arq.connections import RedisSettings
from closed_loop import Timed, serve

# (By default the queue is looked at twice a second, and a result every 500 ms.)
POLL_SECONDS = 0.001


async def echo(ctx: dict[str, Any], value: Any) -> Any:
    return value


class WorkerSettings:
    functions = (echo,)
    redis_settings = RedisSettings.from_dsn(os.environ["REDIS"])
    max_jobs = 32
    poll_delay = POLL_SECONDS


async def all_clients(count: int, seconds: float) -> Timed:
    redis = await create_pool(WorkerSettings.redis_settings)
    timed = Timed(seconds)

    async def client() -> None:
        while timed.going():
            with timed.call():
                job = await redis.enqueue_job("echo", "hello")
                assert job is not None
                assert await job.result(timeout=60, poll_delay=POLL_SECONDS) == "hello"

    await asyncio.gather(*(client() for _ in range(count)))
    await redis.aclose()
    return timed


def clients(count: int, seconds: float) -> Timed:
    return asyncio.run(all_clients(count, seconds))


if __name__ == "__main__":
    if sys.argv[1] == "worker":
        run_worker(WorkerSettings)
    else:
        serve(clients)
