"""Unmodified workers of RunPod's package that die, are cancelled, or do not belong."""

from __future__ import annotations

import asyncio
import signal
import time
from typing import TYPE_CHECKING

import pytest

from integration.http_proxy import proxied
from integration.runpod_workers import (
    OWNER,
    call,
    end,
    polling,
    register,
    run,
    runpod_worker,
    status,
    until,
)
from integration.served import serve
from runpod_flash.links.runpod_http import RunPodLink

if TYPE_CHECKING:
    from pathlib import Path

    import httpx

    from integration.served import Served

pytestmark = pytest.mark.network  # installs the package, once

SLEEPER = """
    import asyncio
    import time
    import runpod

    async def handler(job):
        given = job["input"]
        time.sleep(given.get("blocks", 0))
        try:
            await asyncio.sleep(given.get("sleeps", 0))
        except asyncio.CancelledError:
            print("CANCELLED", job["id"], flush=True)
            raise
        return "done"

    runpod.serverless.start({"handler": handler})
"""

REPLACED = """
    import runpod

    def handler(job):
        return {"refresh_worker": True, "by": job["id"]}

    runpod.serverless.start({"handler": handler})
"""


def test_a_result_that_was_answered_with_500_is_sent_again_and_kept(tmp_path: Path) -> None:
    refused: list[str] = []

    def disturb(method: str, path: str) -> int:
        if "/job-done/" in path and not refused:
            refused.append(path)
            return 500
        return 0

    async def scenario(served: Served) -> None:
        async with (
            proxied(served.address, disturb) as proxy,
            runpod_worker(served, SLEEPER, address=proxy.server.address),
        ):
            job = await call(served)
            assert (job["status"], job["output"]) == ("COMPLETED", "done")
            assert refused
            assert ("POST", refused[0]) in proxy.passed

    serve(tmp_path, {}, scenario)


def test_a_cancelled_async_handler_is_told_and_its_worker_takes_the_next_job(
    tmp_path: Path,
) -> None:
    async def scenario(served: Served) -> None:
        async with runpod_worker(served, SLEEPER) as worker:
            job_id = await run(served, sleeps=600)
            await until(lambda: polling(served), 0)
            answer = await served.post(f"/v2/ext/cancel/{job_id}")
            assert answer.json()["status"] == "CANCELLED"
            await until(lambda: f"CANCELLED {job_id}" in worker.log, True)
            assert (await call(served))["output"] == "done"
            assert (await status(served, job_id))["status"] == "CANCELLED"

    serve(tmp_path, {}, scenario)


@pytest.mark.slow
def test_a_cancelled_handler_that_blocks_is_let_finish_and_its_result_dropped(
    tmp_path: Path,
) -> None:
    async def scenario(served: Served) -> None:
        async with runpod_worker(served, SLEEPER) as worker:
            job_id = await run(served, blocks=5)
            await until(lambda: polling(served), 0)
            await served.post(f"/v2/ext/cancel/{job_id}")
            assert (await call(served))["output"] == "done"
            assert (await status(served, job_id))["status"] == "CANCELLED"
            assert worker.process.poll() is None

    serve(tmp_path, {}, scenario)


def waits_to_be_stopped(served: Served, job_id: str) -> bool:
    holder = served.plane.dispatcher.holder(job_id)
    link = None if holder is None else holder.link
    return isinstance(link, RunPodLink) and link.life.polls > 0


@pytest.mark.slow
def test_a_job_of_a_killed_worker_runs_again_elsewhere_though_its_heartbeats_go_on(
    tmp_path: Path,
) -> None:
    async def scenario(served: Served) -> None:
        async with runpod_worker(served, SLEEPER) as first:
            job_id = await run(served, sleeps=8)
            await until(lambda: polling(served), 0)
            async with runpod_worker(served, SLEEPER) as second:
                # (Its death shows by the request on which it waits to be told to stop.)
                await until(lambda: waits_to_be_stopped(served, job_id), True)
                first.send(signal.SIGKILL)
                job = await end(served, job_id)
                assert (job["status"], job["output"]) == ("COMPLETED", "done")
                assert job_id in second.log
            kept = await served.plane.store.get(job_id)
            assert kept is not None
            assert (kept.attempt, kept.worker) == (2, second.id)

    serve(tmp_path, {}, scenario)


@pytest.mark.slow
def test_a_worker_that_is_killed_while_it_asks_for_nothing_is_noticed_and_one_that_computes_is_not(
    tmp_path: Path,
) -> None:
    async def scenario(served: Served) -> None:
        async with runpod_worker(served, SLEEPER) as first:
            began = time.monotonic()
            job_id = await run(served, blocks=12)
            # Its loop stands still: it does not ask to be told to stop, and its connections are
            # idle for so long that a server would close them. By one of these comes the result.
            await until(lambda: waits_to_be_stopped(served, job_id), False)
            done = await end(served, job_id)
            assert (done["status"], done.get("output")) == ("COMPLETED", "done"), done
            assert time.monotonic() - began > 12
            kept = await served.plane.store.get(job_id)
            assert kept is not None
            assert kept.attempt == 1
            job_id = await run(served, blocks=30)
            await until(lambda: polling(served), 0)
            async with runpod_worker(served, SLEEPER) as second:
                await asyncio.sleep(9)
                assert not waits_to_be_stopped(served, job_id)
                first.send(signal.SIGKILL)
                killed = time.monotonic()
                await until(lambda: job_id in second.log, True)
                assert time.monotonic() - killed < 8

    serve(tmp_path, {}, scenario)


@pytest.mark.slow
def test_a_job_that_an_idle_worker_took_as_it_was_told_to_end_is_run_by_another(
    tmp_path: Path,
) -> None:
    async def scenario(served: Served) -> None:
        async with runpod_worker(served, SLEEPER) as first:
            first.send(signal.SIGTERM)
            await asyncio.sleep(0.3)
            job_id = await run(served)
            assert await first.exit_code() == 0
            async with runpod_worker(served, SLEEPER, count=0):
                assert (await end(served, job_id))["output"] == "done"

    serve(tmp_path, {}, scenario)


def test_a_worker_told_to_end_while_it_runs_a_job_delivers_the_result(tmp_path: Path) -> None:
    async def scenario(served: Served) -> None:
        async with runpod_worker(served, SLEEPER) as worker:
            job_id = await run(served, sleeps=2)
            await until(lambda: polling(served), 0)
            worker.send(signal.SIGTERM)
            assert (await end(served, job_id))["output"] == "done"
            assert await worker.exit_code() == 0

    serve(tmp_path, {}, scenario)


@pytest.mark.slow
def test_a_worker_that_wants_to_be_replaced_gets_no_more_jobs(tmp_path: Path) -> None:
    async def scenario(served: Served) -> None:
        async with runpod_worker(served, REPLACED):
            first = await call(served)
            assert first["output"] == {"by": first["id"]}
            waiting = await run(served)
            await until(lambda: len(served.plane.workers()), 0)
            await asyncio.sleep(3)
            assert (await status(served, waiting))["status"] == "IN_QUEUE"

    serve(tmp_path, {}, scenario)


def test_a_stop_answers_the_requests_that_wait_and_gives_jobs_back(tmp_path: Path) -> None:
    async def scenario(served: Served) -> None:
        async with runpod_worker(served, SLEEPER):
            job_id = await run(served, sleeps=600)
            await until(lambda: polling(served), 0)
            async with runpod_worker(served, SLEEPER):
                await served.plane.drain(1)
                assert polling(served) == 0
                assert len(served.plane.workers()) == 2
                await served.plane.close()
        from runpod_flash.plane.store.memory import now

        job = now(served.plane.store.get(job_id))
        assert job is not None
        assert (job.state.value, job.deaths) == ("IN_QUEUE", 0)

    serve(tmp_path, {}, scenario)


def test_tokens_of_nobody_of_another_endpoint_and_of_the_revoked_are_refused_after_a_while(
    tmp_path: Path,
) -> None:
    async def ask(served: Served, worker: dict[str, str], token: str, endpoint: str) -> int:
        loop = asyncio.get_running_loop()
        began = loop.time()
        path = f"/v2/{endpoint}/job-take/{worker['id']}?gpu=x&wait=1&job_in_progress=0"
        answer = await served.get(path, headers={"authorization": token})
        if answer.status_code == 401:
            assert loop.time() - began > 0.9  # the package asks again at once
            assert "token" in answer.json()["error"]
        return answer.status_code

    async def scenario(served: Served) -> None:
        one, two = await register(served), await register(served)
        other = await register(served, "other")
        assert await ask(served, one, one["token"], "ext") == 204
        assert await ask(served, one, "Bearer " + one["token"], "ext") == 204
        refused = await asyncio.gather(
            ask(served, one, "", "ext"),
            ask(served, one, one["token"] + "x", "ext"),
            ask(served, one, two["token"], "ext"),
            ask(served, one, one["token"], "other"),
            ask(served, other, other["token"], "ext"),
            ask(served, {"id": "nobody"}, one["token"], "ext"),
        )
        assert [*refused] == [401] * 6
        path = f"/v2/serverless/ext/workers/{one['id']}"
        assert (await served.http.delete(path)).status_code == 401
        assert (await served.http.delete(path, headers=OWNER)).status_code == 204
        assert await ask(served, one, one["token"], "ext") == 401
        assert await ask(served, two, two["token"], "ext") == 204

    serve(tmp_path, {}, scenario)


def test_a_workers_token_opens_nothing_else(tmp_path: Path) -> None:
    async def scenario(served: Served) -> None:
        worker = await register(served)
        headers = {"authorization": worker["token"]}
        answers: list[httpx.Response] = [
            await served.post("/v2/serverless/ext/workers", {}, headers=headers),
            await served.http.delete(f"/v2/serverless/ext/workers/{worker['id']}", headers=headers),
            await served.post(
                "/v2/ext/run",
                headers={**headers, "content-type": "application/x-flash-frames"},
            ),
        ]
        assert [answer.status_code for answer in answers] == [401] * 3

    serve(tmp_path, {}, scenario)
