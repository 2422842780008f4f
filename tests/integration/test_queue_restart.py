"""The queue API before and after a restart of its server."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from contextlib import closing
from typing import TYPE_CHECKING, Any

import pytest

from integration.served import serving
from runpod_flash.plane.store.sqlite import SqliteStore

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from integration.served import Served

WORK = """
    from runpod_flash import Endpoint

    @Endpoint(name="count", cpu="cpu3c-1-2")
    def count(n: int):
        for i in range(n):
            yield "x" * 20_000 + str(i)

    @Endpoint(name="one", cpu="cpu3c-1-2")
    async def one():
        return 1

    @Endpoint(name="fails", cpu="cpu3c-1-2")
    def fails():
        raise ValueError("no")
"""


def lives(tmp_path: Path, *scenarios: Callable[[Served], Awaitable[None]]) -> None:
    """Each scenario has a server of its own, all with the same data."""

    async def one(scenario: Callable[[Served], Awaitable[None]]) -> None:
        store = SqliteStore(tmp_path / "flash.db", time.time)
        async with serving(tmp_path, {"work.py": WORK}, store=store) as served:
            await scenario(served)
        await store.close()

    for scenario in scenarios:
        asyncio.run(one(scenario))


def test_a_key_gives_the_same_job_after_a_restart(tmp_path: Path) -> None:
    ids: list[str] = []

    async def run(served: Served, n: int) -> Any:
        body = {"input": {"n": n, "pad": "x" * 50_000}, "policy": {"ttl": 60_000}}
        return await served.post("/v2/fails/run", body, headers={"Idempotency-Key": "one"})

    async def before(served: Served) -> None:
        ids.append((await run(served, 1)).json()["id"])
        while (await served.get(f"/v2/fails/status/{ids[0]}")).json()["status"] != "FAILED":
            await asyncio.sleep(0.02)

    async def after(served: Served) -> None:
        again = (await run(served, 1)).json()
        assert again == {"id": ids[0], "status": "FAILED"}
        assert (await run(served, 2)).status_code == 409
        assert (await served.get("/v2/fails/health")).json()["jobs"]["failed"] == 1

    lives(tmp_path, before, after)


def test_results_streams_and_counters_are_there_after_a_restart(tmp_path: Path) -> None:
    kept: dict[str, Any] = {}

    async def before(served: Served) -> None:
        job = (await served.post("/v2/count/run", {"input": {"n": 3}})).json()
        while job["status"] != "COMPLETED":
            await asyncio.sleep(0.02)
            job = (await served.get(f"/v2/count/status/{job['id']}")).json()
        kept.update(job)

    async def after(served: Served) -> None:
        job_id = kept["id"]
        assert (await served.get(f"/v2/count/status/{job_id}")).json() == kept
        part = (await served.get(f"/v2/count/stream/{job_id}?start=1")).json()
        assert [each["output"] for each in part["stream"]] == kept["output"][1:]
        assert (await served.get("/v2/count/health")).json()["jobs"]["completed"] == 1
        listed = (await served.get("/v2/count/requests")).json()["requests"]
        assert [each["id"] for each in listed] == [job_id]
        assert listed[0]["workerId"] == kept["workerId"] != ""

    lives(tmp_path, before, after)


def test_a_job_that_has_failed_can_be_retried_after_a_restart(tmp_path: Path) -> None:
    ids: list[str] = []

    async def ended(served: Served) -> Any:
        while True:
            job = (await served.get(f"/v2/fails/status/{ids[0]}")).json()
            if job["status"] == "FAILED":
                return job
            await asyncio.sleep(0.02)

    async def before(served: Served) -> None:
        ids.append((await served.post("/v2/fails/run", {"input": {}})).json()["id"])
        await ended(served)

    async def after(served: Served) -> None:
        retried = await served.post(f"/v2/fails/retry/{ids[0]}")
        assert retried.json() == {"id": ids[0], "status": "IN_QUEUE"}
        assert (await ended(served))["retries"] == 1

    lives(tmp_path, before, after)


@pytest.mark.parametrize(
    ("path", "headers"),
    [
        ("/v2/one/runsync", {}),
        ("/v2/one/runsync", {"Idempotency-Key": "k"}),
        ("/work/one/runsync", {}),
    ],
    ids=["queue API", "with a key", "function"],
)
def test_an_answer_with_a_result_waits_for_its_commit(
    tmp_path: Path, path: str, headers: dict[str, str]
) -> None:
    states = "SELECT state FROM jobs ORDER BY key"

    async def scenario(served: Served) -> None:
        await served.post(path, {"input": {}})  # (a worker is there)
        (pool,) = (each for each in served.plane.pools() if each.spec.name == "one")
        with closing(sqlite3.connect(tmp_path / "flash.db", isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")  # the server's own commits wait for it
            answer = asyncio.ensure_future(served.post(path, {"input": {}}, headers=headers))
            while (await served.plane.store.tally(pool.key)).completed < 2:
                await asyncio.sleep(0.01)
            await asyncio.sleep(0.1)
            assert not answer.done()
            other.execute("ROLLBACK")
            assert (await answer).json()["output"] == 1
            assert other.execute(states).fetchall() == [("COMPLETED",), ("COMPLETED",)]

    lives(tmp_path, scenario)
