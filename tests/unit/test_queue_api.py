"""The queue API's operations, fields, statuses and limits, on scripted workers."""

from __future__ import annotations

import asyncio
import json
import re
from typing import Any

import pytest

from runpod_flash.engines.base import CapacityError, Refusal
from runpod_flash.errors import StoreFullError
from runpod_flash.gateway.settings import Settings
from runpod_flash.plane.store.memory import now
from runpod_flash.wire.codec import encode
from unit.front import Front, ask

ALWAYS = {"id", "status", "workerId", "delayTime", "executionTime"}
UUID = "[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}"


def test_a_job_object_always_has_what_known_clients_need() -> None:
    async def scenario(front: Front) -> None:
        job_id = await front.run({"x": 1})
        waiting = await front.run()
        running = await front.status(job_id)
        worker_id = front.rig.worker().worker_id
        assert (running["status"], running["workerId"]) == ("IN_PROGRESS", worker_id)
        queued = await front.status(waiting)
        assert (queued["status"], queued["workerId"]) == ("IN_QUEUE", "")
        await asyncio.sleep(2)
        await front.finish(job_id, {"y": 2})
        await asyncio.sleep(1)
        done = await front.status(job_id)
        assert done == {
            "id": job_id,
            "status": "COMPLETED",
            "delayTime": 0,
            "executionTime": 2000,
            "workerId": worker_id,
            "output": {"y": 2},
        }
        cancelled = (await front.post(f"cancel/{waiting}")).json()
        assert cancelled["status"] == "CANCELLED"
        for each in (running, queued, done, cancelled):
            assert each.keys() >= ALWAYS
            assert all(type(each[name]) is int for name in ("delayTime", "executionTime"))

    ask(scenario)


def test_ids_have_the_shapes_of_the_hosted_service() -> None:
    async def scenario(front: Front) -> None:
        assert re.fullmatch(f"{UUID}-u1", await front.run())
        pending = (await front.post("runsync?wait=1000", {"input": 1})).json()
        assert re.fullmatch(f"sync-{UUID}", pending["id"])

    ask(scenario)


def test_runsync_answers_with_the_end_or_with_the_pending_job() -> None:
    async def scenario(front: Front) -> None:
        asked = asyncio.create_task(front.post("runsync", {"input": 1}))
        await front.rig.settle()
        (job_id,) = front.rig.worker().link.jobs
        await front.finish(job_id, 5)
        assert (await asked).json()["output"] == 5
        began = front.rig.clock()
        pending = await front.post("runsync?wait=1500", {"input": 1})
        assert front.rig.clock() - began == pytest.approx(1.5)
        assert pending.json()["status"] == "IN_PROGRESS"
        assert (await front.post("runsync", {"input": 1})).json()["status"] == "IN_QUEUE"
        assert front.rig.clock() - began == pytest.approx(91.5)

    ask(scenario)


@pytest.mark.parametrize("wait", ["999", "300001", "-1", "1e4", "²000", "", "9" * 5000])
def test_runsync_refuses_a_wait_out_of_its_range(wait: str) -> None:
    async def scenario(front: Front) -> None:
        refused = await front.post("runsync", {"input": 1}, params={"wait": wait})
        assert refused.status_code == 400
        assert "1000 to 300000" in refused.json()["error"]

    ask(scenario)


@pytest.mark.parametrize(
    ("policy", "said"),
    [
        ({"executionTimeout": 4999}, "policy.executionTimeout"),
        ({"executionTimeout": 604_800_001}, "604800000"),
        ({"executionTimeout": "5000"}, '"5000"'),
        ({"executionTimeout": True}, "true"),
        ({"executionTimeout": 5000.5}, "whole number"),
        ({"ttl": 9999}, "10000 to 604800000"),
        ({"lowPriority": 1}, "policy.lowPriority"),
        ([], "policy is an object"),
    ],
)
def test_a_policy_out_of_its_range_is_refused(policy: Any, said: str) -> None:
    async def scenario(front: Front) -> None:
        refused = await front.post("run", {"input": 1, "policy": policy})
        assert refused.status_code == 400
        assert said in refused.json()["error"]
        assert now(front.rig.store.counts(front.pool.key)).queued == 0

    ask(scenario)


def test_a_policy_and_other_fields_come_with_the_job() -> None:
    async def scenario(front: Front) -> None:
        policy = {"executionTimeout": 5000, "ttl": 20_000, "lowPriority": False, "later": 1}
        job_id = await front.run(1, policy=policy, s3Config={"bucketName": "b"}, id="mine")
        job = front.rig.job(job_id)
        assert (job.policy.execution_timeout_ms, job.policy.ttl_ms) == (5000, 20_000)
        assert json.loads(job.extras) == {"policy": policy, "s3Config": {"bucketName": "b"}}
        await asyncio.sleep(5.5)
        ended = await front.status(job_id)
        assert ended["status"] == "TIMED_OUT"
        assert "execution_timeout_ms=5000" in ended["error"]
        assert "bucketName" not in json.dumps(ended)
        plain = await front.run(1)
        assert front.rig.job(plain).policy.ttl_ms == 86_400_000

    ask(scenario)


def test_a_time_to_live_leaves_a_tombstone() -> None:
    async def scenario(front: Front) -> None:
        running = await front.run(1, policy={"ttl": 10_000})
        waiting = await front.run(1, policy={"ttl": 10_000})
        await asyncio.sleep(21)
        for job_id in (running, waiting):
            ended = await front.status(job_id)
            assert ended["status"] == "TIMED_OUT"
            assert "ttl of 10000 ms" in ended["error"]
            assert ended.keys() >= ALWAYS

    ask(scenario)


def test_results_are_kept_as_long_as_they_are_meant_to() -> None:
    settings = Settings(run_retention_ms=600_000, sync_retention_ms=60_000)

    async def scenario(front: Front) -> None:
        async def gone_after(job_id: str) -> float:
            began = front.rig.clock()
            while (await front.get(f"status/{job_id}")).status_code == 200:
                await asyncio.sleep(5)
            return front.rig.clock() - began

        job_id = await front.run()
        await front.finish(job_id)
        assert 595 <= await gone_after(job_id) <= 620
        for path, seconds in (("runsync", 60), ("runsync?wait=90000", 300)):
            asked = asyncio.create_task(front.post(path, {"input": 1}))
            await front.rig.settle()
            (job_id,) = front.rig.worker().link.jobs
            await front.finish(job_id)
            await asked
            assert seconds - 5 <= await gone_after(job_id) <= seconds + 20
        expired = await front.get(f"status/{job_id}")
        assert expired.status_code == 404
        assert "kept for 10 and 1 minutes" in expired.json()["error"]

    ask(scenario, settings, placement={"idle_timeout": 3600})


def test_progress_is_the_output_of_a_job_that_runs() -> None:
    async def scenario(front: Front) -> None:
        job_id = await front.run()
        now(front.rig.store.note(front.rig.job(job_id).ref, encode({"percent": 50})))
        assert (await front.status(job_id))["output"] == {"percent": 50}
        await front.finish(job_id, "all")
        assert (await front.status(job_id))["output"] == "all"

    ask(scenario)


def test_an_error_is_the_text_that_hosted_workers_post() -> None:
    async def scenario(front: Front) -> None:
        job_id = await front.run()
        await front.fail(job_id, ValueError("too long"))
        failed = await front.status(job_id)
        error = json.loads(failed["error"])
        assert (error["error_type"], error["error_message"]) == ("<class 'ValueError'>", "too long")
        assert error.keys() >= {"error_traceback", "hostname", "worker_id", "runpod_version"}
        assert "output" not in failed

    ask(scenario)


def test_a_lost_worker_shows_as_a_retry() -> None:
    async def scenario(front: Front) -> None:
        job_id = await front.run()
        front.rig.worker().exit("was killed by SIGKILL")
        await asyncio.sleep(1)
        await front.rig.settle()
        again = await front.status(job_id)
        assert (again["status"], again["retries"]) == ("IN_PROGRESS", 1)
        assert again["workerId"] == front.rig.worker().worker_id
        await front.finish(job_id)
        jobs = (await front.get("health")).json()["jobs"]
        assert (jobs["completed"], jobs["retried"]) == (1, 1)

    ask(scenario)


def test_cancelling_gives_the_final_status_whatever_it_is() -> None:
    async def scenario(front: Front) -> None:
        done = await front.run()
        await front.finish(done, 1)
        assert (await front.post(f"cancel/{done}")).json()["status"] == "COMPLETED"
        running = await front.run()
        waiting = await front.run()
        for job_id in (waiting, running):
            cancelled = await front.post(f"cancel/{job_id}")
            assert (cancelled.status_code, cancelled.json()["status"]) == (200, "CANCELLED")
        wrong = await front.get(f"cancel/{running}")
        assert (wrong.status_code, wrong.headers["allow"]) == (405, "POST")
        assert (await front.post("cancel/unknown")).status_code == 404

    ask(scenario)


def test_only_a_job_that_has_failed_can_be_retried() -> None:
    async def scenario(front: Front) -> None:
        job_id = await front.run()
        assert (await front.post(f"retry/{job_id}")).status_code == 400
        await front.fail(job_id, ValueError("no"))
        retried = await front.post(f"retry/{job_id}")
        assert retried.json() == {"id": job_id, "status": "IN_QUEUE"}
        await front.rig.settle()
        again = await front.status(job_id)
        assert again["status"] == "IN_PROGRESS"
        assert "error" not in again
        await front.finish(job_id, 1)
        refused = await front.post(f"retry/{job_id}")
        assert refused.status_code == 400
        assert "COMPLETED" in refused.json()["error"]

    ask(scenario)


def test_a_job_whose_code_still_runs_cannot_be_retried_yet() -> None:
    async def scenario(front: Front) -> None:
        job_id = await front.run(1, policy={"executionTimeout": 5000})
        await asyncio.sleep(5.5)
        refused = await front.post(f"retry/{job_id}")
        assert refused.status_code == 409
        front.link(job_id).leave(job_id)
        assert (await front.post(f"retry/{job_id}")).status_code == 200

    ask(scenario, stops_when_cancelled=False)


def test_a_retried_job_streams_from_its_beginning() -> None:
    async def scenario(front: Front) -> None:
        job_id = await front.run()
        front.link(job_id).chunk(job_id, 0, "first")
        assert len((await front.get(f"stream/{job_id}")).json()["stream"]) == 1
        await front.fail(job_id, ValueError("no"))
        await front.post(f"retry/{job_id}")
        await front.rig.settle()
        front.link(job_id).chunk(job_id, 0, "again")
        part = (await front.get(f"stream/{job_id}")).json()
        assert [each["output"] for each in part["stream"]] == ["again"]

    ask(scenario)


def test_a_purge_ends_the_jobs_that_wait() -> None:
    async def scenario(front: Front) -> None:
        running, *waiting = [await front.run() for _ in range(3)]
        purged = await front.post("purge-queue", content=b"")
        assert purged.json() == {"removed": 2, "status": "completed"}
        assert (await front.status(running))["status"] == "IN_PROGRESS"
        assert (await front.status(waiting[0]))["status"] == "CANCELLED"

    ask(scenario)


def test_health_has_all_eleven_counters() -> None:
    async def scenario(front: Front) -> None:
        def expected(jobs: dict[str, int], workers: dict[str, int]) -> dict[str, dict[str, int]]:
            none = dict.fromkeys(("completed", "failed", "inProgress", "inQueue", "retried"), 0)
            kinds = ("idle", "initializing", "ready", "running", "throttled", "unhealthy")
            return {"jobs": {**none, **jobs}, "workers": {**dict.fromkeys(kinds, 0), **workers}}

        assert (await front.get("health")).json() == expected({}, {})
        first = await front.run()
        await front.run()
        starting = {"inQueue": 2}, {"initializing": 1}
        assert (await front.get("health")).json() == expected(*starting)
        front.rig.worker().link.become_ready()
        await front.rig.settle()
        running = {"inQueue": 1, "inProgress": 1}, {"running": 1}
        assert (await front.get("health")).json() == expected(*running)
        await front.fail(first, ValueError("no"))
        (second,) = front.rig.worker().link.jobs
        await front.finish(second)
        ended = {"completed": 1, "failed": 1}, {"idle": 1, "ready": 1}
        assert (await front.get("health")).json() == expected(*ended)
        assert (await front.http.get("/v2/unknown/health")).status_code == 404

    ask(scenario, ready_at_once=False)


def test_an_endpoint_without_room_is_throttled() -> None:
    async def scenario(front: Front) -> None:
        front.rig.engine.refusals = [CapacityError(Refusal("a GPU, held by another program"))]
        job_id = await front.run()
        workers = (await front.get("health")).json()["workers"]
        assert (workers["throttled"], workers["running"]) == (1, 0)
        assert (await front.status(job_id))["waitsFor"] == "a GPU, held by another program"

    ask(scenario)


def test_a_worker_that_does_not_start_is_unhealthy() -> None:
    async def scenario(front: Front) -> None:
        await front.run()
        front.rig.worker().exit("ended with code 1")
        await front.rig.settle()
        assert (await front.get("health")).json()["workers"]["unhealthy"] == 1

    ask(scenario, ready_at_once=False)


def test_metrics_name_the_workers_that_are_ready() -> None:
    async def scenario(front: Front) -> None:
        assert (await front.get("metrics")).json()["readyWorkers"] == []
        await front.finish(await front.run())
        found = (await front.get("metrics")).json()
        assert found["readyWorkers"] == [front.rig.worker().worker_id]
        assert found["workers"] == (await front.get("health")).json()["workers"]

    ask(scenario)


def test_requests_lists_the_latest_jobs() -> None:
    async def scenario(front: Front) -> None:
        ids = [await front.run() for _ in range(3)]
        listed = (await front.get("requests")).json()["requests"]
        assert [each["id"] for each in listed] == ids[::-1]
        assert all(each.keys() >= ALWAYS for each in listed)
        assert len((await front.get("requests?limit=2")).json()["requests"]) == 2
        assert (await front.get("requests?limit=0")).status_code == 400

    ask(scenario)


# Low priority


def test_a_job_of_low_priority_starts_no_worker_and_runs_when_there_is_one() -> None:
    async def scenario(front: Front) -> None:
        patient = await front.run(1, policy={"lowPriority": True})
        await asyncio.sleep(3600)
        assert not front.rig.engine.of("a")
        assert (await front.status(patient))["status"] == "IN_QUEUE"
        other = await front.run(2)
        assert (await front.status(patient))["status"] == "IN_PROGRESS"
        await front.finish(patient)
        await front.finish(other)

    ask(scenario)


# Idempotency


def test_a_key_gives_the_same_job_for_the_same_request() -> None:
    async def scenario(front: Front) -> None:
        async def run(path: str, value: Any, key: str) -> Any:
            body = {"input": value, "policy": {"ttl": 50_000}}
            return await front.post(path, body, headers={"Idempotency-Key": key})

        first = (await run("run", 1, "k1")).json()
        again = (await run("run", 1, "k1")).json()
        assert again["id"] == first["id"]
        assert (await run("run", 1, "k2")).json()["id"] != first["id"]
        assert now(front.rig.store.counts(front.pool.key)).queued == 2
        other = await run("run", 2, "k1")
        assert other.status_code == 409
        assert "'k1' is that of another request" in other.json()["error"]
        waited = await run("runsync?wait=1000", 1, "k1")
        assert waited.json()["id"].startswith("sync-")
        assert (await run("runsync?wait=1000", 1, "k1")).json()["id"] == waited.json()["id"]
        for bad in ("", "a b", "x" * 256):
            assert (await run("run", 1, bad)).status_code == 400

    ask(scenario, ready_at_once=False)


# What is refused


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b'"input"',
        b"{}",
        b'{"input": NaN}',
        b'{"input": [Infinity]}',
        b'{"input": -Infinity}',
        b'{"input": 1} {}',
        b"\xff\xfe{",
        b"\x00",
        '{"input": 1}'.encode("utf-16"),
        b'{"input": ' + b"[" * 150 + b"]" * 150 + b"}",
        b'{"input": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        b'{"input": ' + b"9" * 5000 + b"}",
        b'{"input": 1, "policy": "none"}',
        b'{"input": 1, "s3Config": 1}',
        b'{"input": 1, "webhook": {}}',
        b'{"input": "\x01"}',
    ],
)
def test_a_body_that_is_no_request_is_refused(body: bytes) -> None:
    async def scenario(front: Front) -> None:
        for path in ("run", "runsync"):
            refused = await front.post(path, content=body)
            assert refused.status_code == 400, (path, refused.text)
            assert refused.json().keys() == {"error"}
        assert now(front.rig.store.counts(front.pool.key)).queued == 0

    ask(scenario)


@pytest.mark.parametrize(
    "value",
    [None, 0, "", [], {}, "\ud800", {"$": "bytes"}, 1e308, "ü" * 10, [[[]]], {"a": None}],
)
def test_any_json_value_is_an_input(value: Any) -> None:
    async def scenario(front: Front) -> None:
        body = json.dumps({"input": value}).encode()
        job_id = (await front.post("run", content=body)).json()["id"]
        await front.rig.settle()
        job = front.rig.job(job_id)
        front.link(job_id).events.finished(job.ref, job.call.payload)
        front.link(job_id).jobs.pop(job_id)
        assert (await front.status(job_id))["output"] == value

    ask(scenario)


def test_every_refusal_is_json_that_no_client_takes_for_a_job() -> None:
    async def scenario(front: Front) -> None:
        asked = [
            ("POST", "run", 400),
            ("GET", "run", 405),
            ("GET", "status/unknown", 404),
            ("GET", "stream/unknown", 404),
            ("POST", "retry/unknown", 404),
            ("DELETE", "health", 405),
            ("GET", "unheard-of", 404),
            ("GET", "status/a/b", 404),
            ("GET", "status/", 404),
            ("GET", "stream/unknown?start=-1", 404),
            ("POST", "../unknown/run", 404),
        ]
        for method, path, status in asked:
            refused = await front.http.request(method, f"/v2/a/{path}")
            assert refused.status_code == status, (method, path, refused.text)
            assert refused.headers["content-type"] == "application/json"
            assert refused.json().keys() == {"error"}
        packed = await front.post("run", content=b"x", headers={"content-encoding": "gzip"})
        assert packed.status_code == 415

    ask(scenario)


def test_bodies_have_a_limit() -> None:
    async def scenario(front: Front) -> None:
        for path, limit in (("run", 10_000_000), ("runsync?wait=1000", 20_000_000)):
            frame = b'{"input": ""}'
            fits = b'{"input": "%s"}' % (b"x" * (limit - len(frame)))
            assert (await front.post(path, content=fits)).status_code == 200
            refused = await front.post(path, content=fits + b" ")
            assert refused.status_code == 413
            assert f"may have {limit // 1_000_000} MB" in refused.json()["error"]

    ask(scenario)


def test_a_full_store_is_told_with_the_time_to_try_again(monkeypatch: pytest.MonkeyPatch) -> None:
    async def no_room(*given: object) -> Any:
        raise StoreFullError("the server keeps 10 MB of jobs; try again when some have ended")

    async def scenario(front: Front) -> None:
        for command in ("submit", "durable"):
            with monkeypatch.context() as patched:
                patched.setattr(front.rig.store, command, no_room)
                for path in ("/v2/a/run", "/v2/a/runsync", "/a/run", "/a/runsync"):
                    if command == "submit" or not path.endswith("runsync"):
                        refused = await front.http.post(path, json={"input": {}})
                        assert refused.status_code == 503
                        assert refused.headers["retry-after"] == "5"
                        assert "10 MB of jobs" in refused.json()["error"]
                        assert "stopping" not in refused.json()

    ask(scenario)


def test_a_server_that_stops_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(front: Front) -> None:
        front.rig.plane.dispatcher.close()
        refused = await front.http.post("/v2/a/run", json={"input": {}})
        assert refused.status_code == 503
        assert refused.json()["stopping"] is True
        assert "the plane is closed" in refused.json()["error"]

    ask(scenario)


# The endpoint id `flash`


def test_the_sentinel_finds_the_endpoint_that_headers_name() -> None:
    async def scenario(front: Front) -> None:
        async def call(path: str = "run", body: Any = None, **headers: str) -> Any:
            named = {f"X-Flash-{name}": value for name, value in headers.items()}
            body = body or {"input": {"x": 1}}
            return await front.http.post(f"/v2/flash/{path}", json=body, headers=named)

        found = await call(App="shop", Environment="production", Endpoint="a")
        assert found.status_code == 200
        job = front.rig.job(found.json()["id"])
        assert (job.endpoint, job.call.payload.body) == (front.pool.key, b'{"x":1}')
        empty = await call(body={"input": {"__empty": True}}, App="shop", Endpoint="a")
        assert front.rig.job(empty.json()["id"]).call.payload.body == b"{}"
        for wrong in (
            {"App": "other", "Endpoint": "a"},
            {"App": "shop", "Environment": "staging", "Endpoint": "a"},
            {"App": "shop", "Endpoint": "unknown"},
            {"Endpoint": "a"},
            {},
        ):
            refused = await call(**wrong)
            assert refused.status_code == 404, wrong
            assert refused.json()["error"]

    ask(scenario)
