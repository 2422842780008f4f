"""A server as its operators see it: metrics, probes, request ids, workers and their logs."""

from __future__ import annotations

import asyncio
import json
import socket
import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from prometheus_client.parser import text_string_to_metric_families

from integration.served import serve
from runpod_flash.control.key import Key, KeyRing, digest
from runpod_flash.gateway.access import Keyed
from runpod_flash.links.base import LogLine
from runpod_flash.plane.events import Logged

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from integration.served import Served
    from runpod_flash.control.key import KeyScope

FILES = {
    "app.py": """
        import time
        from runpod_flash import Endpoint

        @Endpoint(name="talk", cpu="cpu3c-1-2", workers=(0, 1))
        def talk(text: str) -> str:
            print(text)
            return text

        @Endpoint(name="outer", cpu="cpu3c-1-2")
        async def outer(text: str) -> str:
            return await talk(text)

        @Endpoint(name="wrong", cpu="cpu3c-1-2")
        def wrong():
            raise ValueError("no")
    """,
    "web.py": """
        from fastapi import Request
        from runpod_flash import Endpoint

        api = Endpoint(name="api", cpu="cpu3c-1-2")

        @api.get("/echo")
        async def echo(request: Request):
            print("asked")
            return {"id": request.headers["x-request-id"]}

        @api.websocket("/ws")
        async def ws(websocket):
            await websocket.accept()
            await websocket.close()
    """,
}
ID = "x-request-id"


async def scrape(served: Served) -> dict[tuple[str, frozenset[str]], float]:
    """Samples by name and the values of their labels."""
    answer = await served.get("/metrics")
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/plain")
    return {
        (sample.name, frozenset(filter(None, sample.labels.values()))): sample.value
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
    }


async def events(served: Served, path: str, **headers: str) -> list[dict[str, Any]]:
    """All events of a stream that ends, each with its id."""
    answer = await served.get(path, headers=headers)
    assert answer.status_code == 200, answer.text
    return [parsed(block) for block in answer.text.split("\n\n") if block.startswith("id:")]


def parsed(block: str) -> dict[str, Any]:
    fields = dict(line.split(": ", 1) for line in block.splitlines())
    return {**json.loads(fields["data"]), "id": fields["id"]}


@asynccontextmanager
async def following(served: Served, path: str) -> AsyncIterator[AsyncIterator[dict[str, Any]]]:
    """The events of a stream that goes on; it has begun by then."""
    async with served.http.stream("GET", path) as answer:
        assert answer.headers["content-type"] == "text/event-stream"
        lines = answer.aiter_lines()
        assert await anext(lines) == ": follows"
        yield _events(lines)


async def _events(lines: AsyncIterator[str]) -> AsyncIterator[dict[str, Any]]:
    block: list[str] = []
    async for line in lines:
        if line.startswith(("id:", "data:")):
            block.append(line)
        elif block:
            yield parsed("\n".join(block))
            block = []


# Metrics and probes


def test_metrics_tell_of_jobs_workers_and_requests(tmp_path: Path) -> None:
    async def scenario(served: Served) -> None:
        await served.call("/app/talk", text="hello")
        await served.post("/app/wrong/runsync", {"input": {}})
        await served.get("/web/echo")
        await served.get("/nowhere")
        found = await scrape(served)

        def told(name: str, *labels: str) -> float | None:
            return found.get((name, frozenset(labels)))

        assert told("flash_jobs_total", "talk", "COMPLETED") == 1
        assert told("flash_jobs_total", "wrong", "FAILED") == 1
        assert told("flash_workers", "talk", "idle") == 1
        assert told("flash_cold_start_seconds_count", "talk") == 1
        assert told("flash_queue_depth", "outer") == 0
        assert told("flash_route_requests_total", "api", "200") == 1
        assert told("flash_http_requests_total", "runsync", "200") == 1
        assert told("flash_http_requests_total", "runsync", "500") == 1
        assert told("flash_http_requests_total", "route", "200") == 1
        assert told("flash_http_requests_total", "other", "404") == 1
        assert told("process_cpu_seconds_total")

    serve(tmp_path, FILES, scenario)


def test_probes_answer_whoever_asks_and_tell_when_the_server_stops(tmp_path: Path) -> None:
    async def scenario(served: Served) -> None:
        elsewhere = {"host": "10.1.2.3:9999"}
        for path in ("/healthz", "/readyz"):
            answer = await served.get(path, headers=elsewhere)
            assert (answer.status_code, answer.json()) == (200, {"status": "ok"})
        served.gateway.ready = False
        assert (await served.get("/readyz")).status_code == 503
        assert (await served.get("/healthz")).status_code == 200
        assert (await served.post("/healthz")).status_code == 405
        assert (await served.get("/metrics", headers=elsewhere)).status_code == 403

    serve(tmp_path, {}, scenario)


# Request ids


def test_every_answer_has_the_requests_id_or_one_that_was_made(tmp_path: Path) -> None:
    async def scenario(served: Served) -> None:
        for path in ("/docs", "/nowhere", "/web/echo", "/v2/talk/health", "/metrics"):
            answer = await served.get(path, headers={ID: "mine-1"})
            assert answer.headers.get_list(ID) == ["mine-1"], path
        made = {(await served.get("/nowhere")).headers[ID] for _ in range(3)}
        assert len(made) == 3
        assert all(len(each) == 32 for each in made)

    serve(tmp_path, FILES, scenario)


def test_an_id_that_is_none_is_replaced(tmp_path: Path) -> None:
    async def scenario(served: Served) -> None:
        for given in (b"x" * 129, b"two words", b"tab\there", "ü".encode(), b""):
            answer = await served.get("/healthz", headers=[(b"x-request-id", given)])
            assert answer.status_code == 200
            assert len(answer.headers[ID]) == 32

    serve(tmp_path, {}, scenario)


def test_a_route_is_given_the_id_of_its_request(tmp_path: Path) -> None:
    async def scenario(served: Served) -> None:
        answer = await served.get("/web/echo", headers={ID: "mine"})
        assert answer.json() == {"id": "mine"}
        answer = await served.get("/web/echo")
        assert answer.json() == {"id": answer.headers[ID]}

    serve(tmp_path, FILES, scenario)


def test_a_jobs_lines_name_its_request_those_of_nested_jobs_too(tmp_path: Path) -> None:
    async def scenario(served: Served) -> None:
        await served.post("/app/outer/runsync", {"input": {"text": "one"}}, headers={ID: "first"})
        await served.post("/app/talk/runsync", {"input": {"text": "two"}}, headers={ID: "second"})
        await served.post("/app/outer/runsync", {"input": {"text": "three"}}, headers={ID: "third"})
        found = await events(served, "/v2/serverless/talk/logs?follow=false&source=container")
        assert [(each["line"], each["requestId"]) for each in found] == [
            ("one", "first"), ("two", "second"), ("three", "third"),
        ]  # fmt: skip

    serve(tmp_path, FILES, scenario)


# Workers


def test_workers_are_listed_as_the_rest_api_has_them(tmp_path: Path) -> None:
    async def scenario(served: Served) -> None:
        await served.call("/app/talk", text="hello")
        found = (await served.get("/v2/serverless/talk/workers")).json()
        (worker,) = found["workers"]
        assert worker["id"].startswith("talk-")
        assert (worker["status"], worker["gpuCount"], worker["isStale"]) == ("IDLE", 0, False)
        assert worker["startedAt"].endswith("Z")
        assert found["summary"] == {
            "running": 0, "idle": 1, "initializing": 0, "throttled": 0, "unhealthy": 0, "total": 1,
        }  # fmt: skip

    serve(tmp_path, FILES, scenario)


REFUSED = [
    ("/v2/serverless/tlak/workers", 404, "Did you mean 'talk'?"),
    ("/v2/serverless/talk/workers/talk-1/logs", 404, "no worker 'talk-1'"),
    ("/v2/serverless/talk/logs?tail=5001", 422, "from 0 to 5000"),
    ("/v2/serverless/talk/logs?tail=-1", 422, "tail: '-1'"),
    ("/v2/serverless/talk/logs?source=both", 422, "container or system"),
    ("/v2/serverless/talk/logs?since=yesterday", 422, "such as 2026-06-01T12:00:00Z"),
    ("/v2/serverless/talk/logs?follow=1", 422, "true or false"),
    ("/v1/pod/nobody-1/logs", 404, "no worker"),
]


def test_refusals_are_problem_objects(tmp_path: Path) -> None:
    async def scenario(served: Served) -> None:
        for path, status, said in REFUSED:
            answer = await served.get(path)
            assert answer.status_code == status, path
            assert answer.headers["content-type"] == "application/problem+json"
            found = answer.json()
            assert found["status"] == status
            assert found["title"]
            assert said in json.dumps(found)
            assert (await served.http.put(path)).status_code == 405

    serve(tmp_path, FILES, scenario)


def test_a_resumption_that_is_no_time_is_refused(tmp_path: Path) -> None:
    async def scenario(served: Served) -> None:
        headers = {"last-event-id": "17"}
        answer = await served.get("/v2/serverless/talk/logs", headers=headers)
        assert answer.status_code == 422
        assert "Last-Event-ID" in answer.json()["errors"][0]

    serve(tmp_path, FILES, scenario)


# Logs


def test_logs_are_followed_live_and_resumed_where_they_broke_off(tmp_path: Path) -> None:
    async def scenario(served: Served) -> None:
        path = "/v2/serverless/talk/logs?source=container"
        await served.call("/app/talk", text="before")
        async with following(served, path) as stream:
            assert (await anext(stream))["line"] == "before"
            await served.call("/app/talk", text="live")
            seen = await anext(stream)
            assert seen["line"] == "live"
            assert seen["ts"] == seen["id"].partition("/")[0]
        await served.call("/app/talk", text="missed")
        missed = await events(served, f"{path}&follow=false", **{"last-event-id": seen["id"]})
        assert [each["line"] for each in missed] == ["missed"]
        since = await events(served, f"{path}&follow=false&since={seen['ts']}")
        assert [each["line"] for each in since] == ["live", "missed"]

    serve(tmp_path, FILES, scenario)


def test_tail_says_how_many_lines_come_first(tmp_path: Path) -> None:
    async def scenario(served: Served) -> None:
        for number in range(4):
            await served.call("/app/talk", text=str(number))
        path = "/v2/serverless/talk/logs?source=container"
        found = await events(served, f"{path}&follow=false&tail=2")
        assert [each["line"] for each in found] == ["2", "3"]
        async with following(served, f"{path}&tail=0") as stream:
            await served.call("/app/talk", text="live")
            assert (await anext(stream))["line"] == "live"

    serve(tmp_path, FILES, scenario)


def test_a_worker_s_logs_are_there_after_its_end(tmp_path: Path) -> None:
    async def scenario(served: Served) -> None:
        await served.call("/app/talk", text="hello")
        (worker,) = served.plane.workers()
        await served.plane.engine.stop(worker.id)
        while served.plane.workers():
            await asyncio.sleep(0.01)
        path = f"/v2/serverless/talk/workers/{worker.id}/logs?follow=false"
        found = await events(served, path)
        assert [each["source"] for each in found] == ["system", "system", "container", "system"]
        assert "ended by Flash" in found[-1]["line"]
        hosted = (await served.get(f"/v1/pod/{worker.id}/logs")).json()
        assert hosted["container"][0].endswith("Z hello")
        assert len(hosted["system"]) == 3

    serve(tmp_path, FILES, scenario)


def test_a_reader_that_is_too_slow_is_cut_off_and_nobody_else_notices(tmp_path: Path) -> None:
    async def scenario(served: Served) -> None:
        host, port = served.address.removeprefix("http://").split(":")
        reader = socket.socket()
        reader.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        reader.connect((host, int(port)))
        reader.sendall(b"GET /v2/serverless/talk/logs?tail=0 HTTP/1.1\r\nhost: localhost\r\n\r\n")
        async with following(served, "/v2/serverless/talk/logs?tail=0") as stream:
            for number in range(400):
                line = LogLine("talk-1", f"{number} {'x' * 60_000}")
                served.plane.events.publish(Logged("talk", line))
                assert (await anext(stream))["line"].startswith(f"{number} ")
        received = await asyncio.to_thread(_all, reader)
        assert 0 < len(received) < 400 * 60_000

    serve(tmp_path, FILES, scenario, follower_lines=50)


def _all(reader: socket.socket) -> bytes:
    reader.settimeout(30)
    pieces = []
    with reader:
        while piece := reader.recv(1 << 16):
            pieces.append(piece)
    return b"".join(pieces)


def test_a_reader_that_leaves_is_forgotten(tmp_path: Path) -> None:
    async def scenario(served: Served) -> None:
        async with following(served, "/v2/serverless/talk/logs"):
            pass
        logs = served.gateway._control._logs
        assert logs is not None
        while logs._followers:
            await asyncio.sleep(0.01)

    serve(tmp_path, FILES, scenario)


def test_an_endpoint_that_has_the_name_of_a_resource_is_refused(tmp_path: Path) -> None:
    files = {
        "app.py": """
            from runpod_flash import Endpoint

            @Endpoint(name="serverless", cpu="cpu3c-1-2")
            def f(): ...
        """,
        "healthz.py": """
            from runpod_flash import Endpoint

            @Endpoint(name="other", cpu="cpu3c-1-2")
            def f(): ...
        """,
    }

    async def scenario(served: Served) -> None:
        catalog = await served.rewrite({})
        assert not catalog.endpoints
        first, second = (problem.message for problem in catalog.problems)
        assert "/v2/serverless is an address of the server itself" in first
        assert "/healthz is an address of the server itself" in second

    serve(tmp_path, files, scenario)


def test_an_endpoint_is_not_taken_for_a_resource_that_it_begins_like(tmp_path: Path) -> None:
    files = {
        "metrics_app.py": """
            from runpod_flash import Endpoint

            @Endpoint(name="serverless-like", cpu="cpu3c-1-2")
            def f():
                return 1
        """
    }

    async def scenario(served: Served) -> None:
        answer = await served.post("/v2/serverless-like/runsync", {"input": {}})
        assert answer.json()["output"] == 1
        assert await served.call("/metrics_app") == 1

    serve(tmp_path, files, scenario)


def test_the_overview_names_every_endpoint_worker_and_device(tmp_path: Path) -> None:
    async def scenario(served: Served) -> None:
        await served.call("/app/talk", text="hello")
        found = (await served.get("/v2/flash/overview")).json()
        assert [each["name"] for each in found["endpoints"]] == ["api", "outer", "talk", "wrong"]
        talk = found["endpoints"][2]
        assert (talk["kind"], talk["high"], talk["queued"]) == ("queue", 1, 0)
        (worker,) = talk["workers"]
        assert worker["state"] == "idle"
        assert worker["memory"] > 1_000_000
        assert found["devices"] == []

    serve(tmp_path, FILES, scenario)


# Keys


def test_on_a_server_with_keys_only_an_admin_sees_what_happens(tmp_path: Path) -> None:
    paths = ("/metrics", "/v2/flash/overview", "/v2/serverless/talk/workers", "/v2/flash/logs")
    ring = KeyRing(time.time)
    scopes: dict[KeyScope, int] = {"invoke": 403, "deploy": 403, "admin": 200}
    for name in scopes:
        ring.add(Key(f"key_{name}", name, name, (), "", 0.0), digest(name.encode()))

    async def scenario(served: Served) -> None:
        for path in paths:
            assert (await served.get(path)).status_code == 401
            for scope, status in scopes.items():
                headers = {"authorization": f"Bearer {scope}"}
                answer = await served.get(f"{path}?follow=false", headers=headers)
                assert answer.status_code == status, (path, scope)
        for path in ("/healthz", "/readyz"):
            assert (await served.get(path)).status_code == 200

    serve(tmp_path, FILES, scenario, access=Keyed(ring))
