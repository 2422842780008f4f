"""Unmodified workers of RunPod's package: jobs, results, streams, progress, concurrency."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

import pytest

from integration.runpod_workers import (
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

if TYPE_CHECKING:
    from pathlib import Path

    from integration.served import Served

pytestmark = pytest.mark.network  # installs the package, once

ECHO = """
    import runpod

    def handler(job):
        return {"job": {**job, "id": len(job["id"])}}

    runpod.serverless.start({"handler": handler})
"""

RESULTS = """
    import asyncio
    import runpod

    class TooBig(ValueError):
        pass

    async def handler(job):
        kind = job["input"].get("kind")
        if kind == "error":
            raise TooBig("six is too big")
        if kind == "said":
            return {"error": "no such picture", "tried": 2}
        if kind == "object":
            return object()
        if kind == "none":
            return None
        if kind == "nan":
            return [float("nan"), "ä"]
        return {}

    runpod.serverless.start({"handler": handler})
"""

STREAM = """
    import runpod

    def handler(job):
        for number in range(job["input"]["count"]):
            yield {"number": number}
        if job["input"].get("fails"):
            raise ValueError("no more")

    runpod.serverless.start({"handler": handler%s})
"""

PROGRESS = """
    import asyncio
    import runpod

    async def handler(job):
        runpod.serverless.progress_update(job, {"percent": 50})
        await asyncio.sleep(job["input"]["seconds"])
        return "done"

    runpod.serverless.start({"handler": handler})
"""

CONCURRENT = """
    import asyncio
    import runpod

    running = most = 0

    async def handler(job):
        global running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(1.0)
        running -= 1
        return most

    runpod.serverless.start({"handler": handler, "concurrency_modifier": lambda now: 4})
"""


def test_a_job_reaches_the_handler_with_its_id_its_input_and_its_other_fields(
    tmp_path: Path,
) -> None:
    async def scenario(served: Served) -> None:
        async with runpod_worker(served, ECHO) as worker:
            answer = await served.post("/v2/ext/runsync", {"input": {"x": 1}})
            job = answer.json()
            assert job["status"] == "COMPLETED", job
            assert job["output"] == {"job": {"id": len(job["id"]), "input": {"x": 1}}}
            empty = (await served.post("/v2/ext/runsync", {"input": {}})).json()
            assert empty["output"]["job"]["input"] == {}
            assert worker.process.poll() is None

    serve(tmp_path, {}, scenario)


def test_jobs_that_wait_are_taken_by_a_worker_that_comes_later(tmp_path: Path) -> None:
    async def scenario(served: Served) -> None:
        async with runpod_worker(served, ECHO):
            pass
        job_id = await run(served, x=2)
        async with runpod_worker(served, ECHO):
            assert (await end(served, job_id))["output"]["job"]["input"] == {"x": 2}

    serve(tmp_path, {}, scenario)


def test_results_of_every_kind_end_their_jobs(tmp_path: Path) -> None:
    async def scenario(served: Served) -> None:
        async with runpod_worker(served, RESULTS) as worker:
            assert (await call(served))["output"] == {}
            assert (await call(served, kind="none"))["output"] is None
            assert (await call(served, kind="nan"))["output"] == [None, "ä"]
            raised = await call(served, kind="error")
            assert raised["status"] == "FAILED"
            told = json.loads(raised["error"])
            assert told["error_type"] == "<class '__main__.TooBig'>"
            assert told["error_message"] == "six is too big"
            assert "in handler" in told["error_traceback"]
            said = await call(served, kind="said")
            assert (said["status"], said["error"]) == ("FAILED", "no such picture")
            assert said["output"] == {"tried": 2}
            odd = await call(served, kind="object")
            assert odd["status"] == "FAILED"
            assert f"the worker {worker.id} went on without a result" in odd["error"]
            assert "attempt 2 of 2" in odd["error"]
            assert (await call(served))["output"] == {}

    serve(tmp_path, {}, scenario)


@pytest.mark.parametrize("option", ["", ', "return_aggregate_stream": True'])
def test_a_generators_values_are_streamed_and_are_its_output(tmp_path: Path, option: str) -> None:
    async def scenario(served: Served) -> None:
        async with runpod_worker(served, STREAM % option):
            job_id = await run(served, count=3)
            chunks: list[Any] = []
            while True:
                part = (await served.get(f"/v2/ext/stream/{job_id}")).json()
                chunks += [each["output"] for each in part["stream"]]
                if part["status"] == "COMPLETED" and not part["stream"]:
                    break
            assert chunks == [{"number": n} for n in range(3)]
            assert (await end(served, job_id))["output"] == chunks
            assert (await call(served, count=0))["output"] == []
            failed = await call(served, count=1, fails=True)
            assert failed["status"] == "FAILED"
            assert "no more" in failed["error"]

    serve(tmp_path, {}, scenario)


def test_progress_is_kept_while_the_job_runs_and_ignored_after_it(tmp_path: Path) -> None:
    async def scenario(served: Served) -> None:
        async with runpod_worker(served, PROGRESS):
            job_id = await run(served, seconds=2)
            await until(lambda: _progress(served, job_id), {"percent": 50})
            assert (await end(served, job_id))["output"] == "done"
            # (It says so and ends at once: the two arrive in any order.)
            ends = [await call(served, seconds=0) for _ in range(3)]
            assert [each["output"] for each in ends] == ["done"] * 3
            assert (await status(served, job_id))["output"] == "done"

    def _progress(served: Served, job_id: str) -> Any:
        from runpod_flash.plane.store.memory import now

        job = now(served.plane.store.get(job_id))
        return json.loads(job.progress.body) if job is not None and job.progress else None

    serve(tmp_path, {}, scenario)


def test_a_worker_that_runs_several_jobs_takes_them_together(tmp_path: Path) -> None:
    async def scenario(served: Served) -> None:
        await register(served)
        ids = [await run(served) for _ in range(6)]
        async with runpod_worker(served, CONCURRENT, count=0) as worker:
            most = [(await end(served, job_id))["output"] for job_id in ids]
            assert max(most) == 4
            assert "batch_size=4" in worker.log

    serve(tmp_path, {}, scenario)


def test_workers_of_an_endpoint_share_its_jobs_and_are_shown(tmp_path: Path) -> None:
    async def scenario(served: Served) -> None:
        async with runpod_worker(served, PROGRESS), runpod_worker(served, PROGRESS, count=2):
            ids = [await run(served, seconds=1) for _ in range(2)]
            await until(lambda: polling(served), 0)
            health = (await served.get("/v2/ext/health")).json()
            assert health["workers"]["running"] == 2
            assert health["jobs"]["inProgress"] == 2
            ends = await asyncio.gather(*(end(served, job_id) for job_id in ids))
            assert {each["output"] for each in ends} == {"done"}

    serve(tmp_path, {}, scenario)


def test_an_endpoint_with_code_is_served_by_its_own_workers_and_by_others(tmp_path: Path) -> None:
    project = {
        "app.py": """
            from runpod_flash import Endpoint

            @Endpoint(name="both", workers=(0, 1))
            async def both(x):
                return {"here": x}
            """
    }

    async def scenario(served: Served) -> None:
        assert (await call(served, "both", x=1))["output"] == {"here": 1}
        async with runpod_worker(served, ECHO, "both", count=1):
            ids = [await run(served, "both", x=n) for n in range(4)]
            outputs = [(await end(served, job_id, "both"))["output"] for job_id in ids]
            assert any("job" in output for output in outputs)

    serve(tmp_path, project, scenario)
