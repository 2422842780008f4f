"""The unmodified `runpod` client, sync and async, against the queue API over real HTTP."""

from __future__ import annotations

import asyncio
import json
import os
import textwrap
import time
from typing import TYPE_CHECKING, Any

import pytest

from integration.foreign import QUICK_ANSWERS, RUNPOD, python_with
from integration.served import KEY, serve, serving
from runpod_flash.control.key import owners_ring
from runpod_flash.gateway.access import Keyed
from runpod_flash.gateway.rate_limit import RateLimit, RateLimiter
from runpod_flash.testing import ManualClock

if TYPE_CHECKING:
    from pathlib import Path

    from integration.served import Served

pytestmark = pytest.mark.network  # installs the package, once

WORK = """
    import asyncio
    from runpod_flash import Endpoint

    CPU = "cpu3c-1-2"

    @Endpoint(name="double", cpu=CPU)
    def double(x: int) -> int:
        return 2 * x

    @Endpoint(name="fails", cpu=CPU)
    def fails():
        raise ValueError("too long")

    @Endpoint(name="count", cpu=CPU)
    async def count(n: int):
        for i in range(n):
            yield {"i": i}

    @Endpoint(name="sleeper", cpu=CPU)
    async def sleeper(seconds: float = 60):
        await asyncio.sleep(seconds)
        return "awake"
"""

SYNC = """
    import json, time, requests, runpod

    runpod.api_key = "a-key"

    def refused(call):
        try:
            return ["answered", call()]
        except requests.HTTPError as error:
            return [error.response.status_code, error.response.json()]

    def until(job, *states):
        while job.status() not in states:
            time.sleep(0.05)
        return job.status()

    told = {}
    double, count = runpod.Endpoint("double"), runpod.Endpoint("count")
    fails, sleeper = runpod.Endpoint("fails"), runpod.Endpoint("sleeper")

    job = double.run({"input": {"x": 2}})
    told["id"] = job.job_id
    told["output"] = job.output(timeout=60)
    told["status"] = job.status()
    told["wrapped"] = double.run({"x": 3}).output(timeout=60)
    told["run_sync"] = double.run_sync({"input": {"x": 4}}, timeout=60)
    told["outlasting the wait"] = sleeper.run_sync({"input": {"seconds": 0.5}}, timeout=60)
    told["failed run_sync"] = fails.run_sync({"input": {"__": 0}}, timeout=60)
    told["stream"] = list(count.run({"input": {"n": 5}}).stream())

    failed = fails.run({"input": {"__": 0}})
    told["failed"] = until(failed, "FAILED")

    running = sleeper.run({"input": {"seconds": 50}})
    told["running"] = until(running, "IN_PROGRESS")
    waiting = [sleeper.run({"input": {"seconds": 50}}) for _ in range(2)]
    told["health"] = sleeper.health()
    told["purged"] = sleeper.purge_queue()
    told["purged status"] = [job.status() for job in waiting]
    told["cancelled"] = running.cancel()
    told["cancelled status"] = running.status()
    told["stream of a cancelled one"] = refused(lambda: list(running.stream()))
    told["cancelling a finished one"] = job.cancel()

    told["unknown endpoint"] = refused(lambda: runpod.Endpoint("unknown").run({"input": {}}))
    told["unknown health"] = refused(lambda: runpod.Endpoint("unknown").health())
    told["oversize"] = refused(lambda: double.run({"input": {"x": "x" * 10_000_001}}))
    told["bad policy"] = refused(lambda: double.run({"input": {"x": 1}, "policy": {"ttl": 1}}))
    job = double.run({"input": {"x": 1}})
    job.job_id = "unheard-of"
    told["unknown job"] = refused(job.status)
    print(json.dumps(told))
"""

ASYNC = """
    import asyncio, json, aiohttp, runpod
    from runpod import AsyncioEndpoint

    runpod.api_key = "a-key"

    async def until(job, *states):
        while await job.status() not in states:
            await asyncio.sleep(0.05)
        return await job.status()

    async def main():
        told = {}
        async with aiohttp.ClientSession() as session:
            double, count = AsyncioEndpoint("double", session), AsyncioEndpoint("count", session)
            sleeper = AsyncioEndpoint("sleeper", session)
            job = await double.run({"x": 2})
            told["output"] = await job.output(timeout=60)
            told["status"] = await job.status()
            told["stream"] = [each async for each in (await count.run({"n": 4})).stream()]
            running = await sleeper.run({"seconds": 50})
            told["running"] = await until(running, "IN_PROGRESS")
            told["cancelled"] = await running.cancel()
            told["cancelled status"] = await running.status()
            try:
                await AsyncioEndpoint("unknown", session).run({})
                told["unknown endpoint"] = "taken for a job"
            except KeyError as error:
                told["unknown endpoint"] = str(error)
            told["many"] = [
                await each.output(timeout=60)
                for each in [await double.run({"x": x}) for x in range(20)]
            ]
        print(json.dumps(told))

    asyncio.run(main())
"""


WRONG_KEY = """
    import asyncio, json, aiohttp, runpod

    runpod.api_key = "a-forged-key"
    told = []
    try:
        runpod.Endpoint("double").run({"input": {"x": 2}})
    except RuntimeError as error:
        told.append(str(error))

    async def main():
        async with aiohttp.ClientSession() as session:
            try:
                await runpod.AsyncioEndpoint("double", session).run({"x": 2})
            except KeyError as error:
                told.append(str(error))

    asyncio.run(main())
    print(json.dumps(told))
"""

TOO_OFTEN = """
    import asyncio, json, aiohttp, requests, runpod

    runpod.api_key = "a-key"
    told, double = {}, runpod.Endpoint("double")
    job = [double.run({"input": {"x": 2}}) for _ in range(50)][-1]
    try:
        double.run({"input": {"x": 2}})
    except requests.HTTPError as error:
        told["run"] = [error.response.status_code, error.response.headers["Retry-After"]]
    told["output"] = job.output(timeout=60)

    async def main():
        async with aiohttp.ClientSession() as session:
            try:
                await runpod.AsyncioEndpoint("double", session).run({"x": 2})
            except KeyError as error:
                told["async"] = str(error)

    asyncio.run(main())
    print(json.dumps(told))
"""


async def client(served: Served, code: str) -> Any:
    """What a program that uses the client prints last, as JSON."""
    process = await asyncio.create_subprocess_exec(
        python_with(RUNPOD), "-c", textwrap.dedent(code),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={
            "PATH": os.environ["PATH"],
            "HOME": str(served.root),
            **QUICK_ANSWERS,
            "RUNPOD_ENDPOINT_BASE_URL": f"{served.address}/v2",
        },
    )  # fmt: skip
    output, errors = await process.communicate()
    assert process.returncode == 0, errors.decode()
    return json.loads(output.decode().splitlines()[-1])


def test_the_sync_client_does_all_that_it_can(tmp_path: Path) -> None:
    async def scenario(served: Served) -> None:
        told = await client(served, SYNC)
        assert told["id"].endswith("-u1")
        assert (told["output"], told["status"]) == (4, "COMPLETED")
        assert (told["wrapped"], told["run_sync"]) == (6, 8)
        assert told["outlasting the wait"] == "awake"
        assert told["failed run_sync"] is None
        assert told["stream"] == [{"i": i} for i in range(5)]
        assert (told["failed"], told["running"]) == ("FAILED", "IN_PROGRESS")
        assert told["health"]["jobs"]["inQueue"] == 2
        assert told["health"]["workers"]["running"] == 1
        assert told["purged"] == {"removed": 2, "status": "completed"}
        assert told["purged status"] == ["CANCELLED"] * 2
        assert told["cancelled"]["status"] == told["cancelled status"] == "CANCELLED"
        assert told["cancelling a finished one"]["status"] == "COMPLETED"
        for name, status in (
            ("stream of a cancelled one", 409),
            ("unknown endpoint", 404),
            ("unknown health", 404),
            ("unknown job", 404),
            ("oversize", 413),
            ("bad policy", 400),
        ):
            assert told[name][0] == status, name
            assert told[name][1].keys() == {"error"}, name

    serve(tmp_path, {"work.py": WORK}, scenario)


def test_the_async_client_does_all_that_it_can(tmp_path: Path) -> None:
    async def scenario(served: Served) -> None:
        told = await client(served, ASYNC)
        assert (told["output"], told["status"]) == (4, "COMPLETED")
        assert told["stream"] == [{"i": i} for i in range(4)]
        assert told["running"] == "IN_PROGRESS"
        assert told["cancelled"]["status"] == told["cancelled status"] == "CANCELLED"
        assert told["unknown endpoint"] == "'id'"
        assert told["many"] == [2 * x for x in range(20)]

    serve(tmp_path, {"work.py": WORK}, scenario)


def test_a_wrong_key_is_told_and_is_never_taken_for_success(tmp_path: Path) -> None:
    async def scenario() -> None:
        access = Keyed(owners_ring(KEY, time.time))
        async with serving(tmp_path, {"work.py": WORK}, access) as served:
            sync, asynchronous = await client(served, WRONG_KEY)
            assert "401" in sync
            assert asynchronous == "'id'"
            right = {"authorization": f"Bearer {KEY}"}
            done = await served.post("/v2/double/runsync", {"input": {"x": 2}}, headers=right)
            assert done.json()["output"] == 4

    asyncio.run(scenario())


def test_whoever_asks_too_often_gets_the_clients_own_error(tmp_path: Path) -> None:
    async def scenario(served: Served) -> None:
        told = await client(served, TOO_OFTEN)
        assert told == {"run": [429, "72"], "output": 4, "async": "'id'"}

    # (The client asks for the status once a second.)
    limiter = RateLimiter(RateLimit.parse("50/h"), ManualClock())
    serve(tmp_path, {"work.py": WORK}, scenario, limiter=limiter)
