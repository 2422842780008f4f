"""The gateway on real workers: functions, the queue API, and who may ask."""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import TYPE_CHECKING

import httpx

from integration.served import serve

if TYPE_CHECKING:
    from pathlib import Path

    from integration.served import Served

WORK = """
    import torch
    import asyncio
    import datetime
    import time
    from typing import Literal
    from runpod_flash import Endpoint

    CPU = "cpu3c-1-2"

    @Endpoint(name="double", cpu=CPU)
    def double(x: int, y: float = 2.0) -> float:
        '''Doubles.'''
        return x * y

    @Endpoint(name="fails", cpu=CPU)
    async def fails(reason: str = "bad"):
        raise ValueError(reason)

    @Endpoint(name="count", cpu=CPU)
    async def count(n: int):
        for i in range(n):
            yield i
            await asyncio.sleep(0.01)

    @Endpoint(name="sleeper", cpu=CPU)
    async def sleeper(seconds: float = 60):
        await asyncio.sleep(seconds)

    @Endpoint(name="kinds", cpu=CPU)
    def kinds():
        day = datetime.date(2026, 1, 2)
        return {"t": (1, 2), "s": {3}, "b": b"hi", "d": day, "n": float("nan")}

    class Own:
        pass

    @Endpoint(name="own", cpu=CPU)
    def own():
        return Own()

    @Endpoint(name="counter", cpu=CPU)
    class Counter:
        def __init__(self):
            self.n = 0

        def add(self, by: int = 1) -> int:
            self.n += by
            return self.n

        def value(self) -> int:
            return self.n
"""

ONE = """
    from runpod_flash import Endpoint

    @Endpoint(cpu="cpu3c-1-2")
    def one():
        return 1
"""


VERSION = """
from runpod_flash import Endpoint

@Endpoint(name="version", cpu="cpu3c-1-2")
def version() -> int:
    return {}

@Endpoint(name="unused", cpu="cpu3c-1-2")
def unused() -> int:
    return 0
"""


def test_functions_answer_at_their_addresses(tmp_path: Path) -> None:
    async def scenario(served: Served) -> None:
        answer = await served.post("/work/double/runsync", {"input": {"x": 3}})
        assert answer.status_code == 200
        body = answer.json()
        assert (body["status"], body["output"]) == ("COMPLETED", 6.0)
        assert await served.call("/work/double", x=3, y=0.5) == 1.5
        assert await served.call("/work/add") == 1
        assert await served.call("/work/Counter/add", by=4) == 5
        assert await served.call("/work/value") == 5
        assert await served.call("/work/count", n=3) == [0, 1, 2]
        kinds = await served.call("/work/kinds")
        assert kinds == {"t": [1, 2], "s": [3], "b": "aGk=", "d": "2026-01-02", "n": None}

    serve(tmp_path, {"work.py": WORK}, scenario)


def test_a_failure_is_told_by_the_status_and_the_body(tmp_path: Path) -> None:
    async def scenario(served: Served) -> None:
        answer = await served.post("/work/fails/runsync", {"input": {"reason": "too long"}})
        assert answer.status_code == 500
        body = answer.json()
        assert (body["status"], body["error"]) == ("FAILED", "ValueError: too long")
        assert "raise ValueError(reason)" in body["traceback"]
        own = await served.post("/work/own/runsync", {"input": {}})
        assert own.status_code == 500
        assert "objects that JSON cannot show" in own.json()["error"]

    serve(tmp_path, {"work.py": WORK}, scenario)


def test_a_wrong_input_is_answered_with_the_field(tmp_path: Path) -> None:
    async def scenario(served: Served) -> None:
        path = "/work/double/runsync"
        wrong = await served.post(path, {"input": {"x": "three"}})
        assert wrong.status_code == 422
        assert wrong.json()["detail"][0]["loc"] == ["body", "input", "x"]
        missing = await served.post(path, {"input": {"y": 1}})
        assert missing.json()["detail"][0] == {
            "loc": ["body", "input", "x"],
            "msg": "Field required",
            "type": "missing",
        }
        unknown = await served.post(path, {"input": {"x": 1, "yy": 1}})
        assert "no such parameter; did you mean 'y'?" in unknown.json()["error"]
        for of_one in ({}, {"nn": 3}):
            refused = await served.post("/work/count/runsync", {"input": of_one})
            assert refused.status_code == 422
            assert "n: Field required" in refused.json()["error"]
        assert "did you mean 'n'?" in refused.json()["error"]
        assert (await served.post(path, {"x": 1})).status_code == 422
        malformed = await served.post(path, content=b'{"input": {"x": 1}')
        assert malformed.status_code == 400
        assert "line 1, column" in malformed.json()["error"]
        assert (await served.post(path, content=b"\xff\xfe")).status_code == 400
        large = await served.post(path, content=b" " * 21_000_000)
        assert large.status_code == 413
        assert "may have 20 MB" in large.json()["error"]

    serve(tmp_path, {"work.py": WORK}, scenario)


def test_the_queue_api_runs_streams_cancels_and_counts(tmp_path: Path) -> None:
    async def scenario(served: Served) -> None:
        done = (await served.post("/v2/double/runsync", {"input": {"x": 2}})).json()
        assert (done["status"], done["output"]) == ("COMPLETED", 4.0)
        assert {"id", "delayTime", "executionTime", "workerId"} <= done.keys()

        failed = await served.post("/v2/fails/runsync", {"input": {}})
        assert (failed.status_code, failed.json()["status"]) == (200, "FAILED")

        job = (await served.post("/v2/count/run", {"input": {"n": 4}})).json()
        assert job["status"] == "IN_QUEUE"
        chunks: list[int] = []
        state = ""
        while state != "COMPLETED" or len(chunks) < 4:
            part = (await served.get(f"/v2/count/stream/{job['id']}")).json()
            chunks += [item["output"] for item in part["stream"]]
            state = part["status"]
        assert chunks == [0, 1, 2, 3]
        again = (await served.get(f"/v2/count/stream/{job['id']}?start=2")).json()
        assert [item["output"] for item in again["stream"]] == [2, 3]
        assert (await served.get(f"/v2/count/status/{job['id']}")).json()["output"] == chunks

        slow = (await served.post("/v2/sleeper/run", {"input": {}})).json()["id"]
        waiting = (await served.post("/v2/sleeper/run", {"input": {}})).json()["id"]
        while (await served.get(f"/v2/sleeper/status/{slow}")).json()["status"] == "IN_QUEUE":
            await asyncio.sleep(0.02)
        assert (await served.post("/v2/sleeper/purge-queue")).json()["removed"] == 1
        cancelled = (await served.post(f"/v2/sleeper/cancel/{slow}")).json()
        assert cancelled["status"] == "CANCELLED"
        assert (await served.get(f"/v2/sleeper/stream/{slow}")).status_code == 409
        assert (await served.get(f"/v2/sleeper/status/{waiting}")).json()["status"] == "CANCELLED"

        health = (await served.get("/v2/double/health")).json()
        assert health["jobs"]["completed"] == 1
        assert set(health["workers"]) >= {"idle", "initializing", "ready", "running"}
        assert (await served.get("/v2/double/status/unknown")).status_code == 404
        assert "Did you mean 'double'" in (await served.get("/v2/doubel/health")).json()["error"]

    serve(tmp_path, {"work.py": WORK}, scenario)


def test_runsync_of_the_queue_api_answers_before_the_end_when_told_so(tmp_path: Path) -> None:
    async def scenario(served: Served) -> None:
        began = time.monotonic()
        pending = await served.post("/v2/sleeper/runsync?wait=1000", {"input": {}})
        assert time.monotonic() - began < 5
        assert pending.json()["status"] in ("IN_QUEUE", "IN_PROGRESS")
        assert (await served.post("/v2/sleeper/runsync?wait=5", {"input": {}})).status_code == 400

    serve(tmp_path, {"work.py": WORK}, scenario)


def test_pages_of_elsewhere_may_not_ask(tmp_path: Path) -> None:
    async def scenario(served: Served) -> None:
        path, body = "/work/double/runsync", {"input": {"x": 1}}
        for headers in (
            {"origin": "https://evil.example"},
            {"host": "evil.example"},
            {"sec-fetch-site": "cross-site", "sec-fetch-mode": "no-cors"},
            {"origin": "null"},
        ):
            refused = await served.post(path, body, headers=headers)
            assert refused.status_code == 403, headers
            assert refused.json()["error"]
        near = await served.post(path, body, headers={"origin": "http://localhost:3000"})
        assert near.headers["access-control-allow-origin"] == "http://localhost:3000"
        asked = await served.http.options(
            path,
            headers={
                "origin": "http://localhost:3000",
                "access-control-request-method": "POST",
                "access-control-request-headers": "content-type",
            },
        )
        assert asked.status_code == 204
        assert asked.headers["access-control-allow-methods"] == "POST"

    serve(tmp_path, {"work.py": WORK}, scenario)


def test_addresses_that_are_not_there_say_what_is(tmp_path: Path) -> None:
    async def scenario(served: Served) -> None:
        unknown = await served.post("/work/doubel/runsync", {"input": {}})
        assert unknown.status_code == 404
        assert "/work/double/runsync" in unknown.json()["error"]
        wrong = await served.get("/work/double/runsync")
        assert (wrong.status_code, wrong.headers["allow"]) == (405, "POST")
        assert (await served.get("/")).json() == {"message": "Flash Dev Server", "docs": "/docs"}
        assert (await served.get("/ping")).json() == {"status": "healthy"}

    serve(tmp_path, {"work.py": WORK}, scenario)


def test_a_broken_file_says_so_and_the_rest_goes_on(tmp_path: Path) -> None:
    async def scenario(served: Served) -> None:
        await served.rewrite({"other.py": ONE})
        assert await served.call("/other") == 1
        catalog = await served.rewrite({"work.py": WORK + "\n    def broken(:\n"})
        assert len(catalog.problems) == 1
        broken = await served.post("/work/double/runsync", {"input": {"x": 1}})
        assert broken.status_code == 500
        assert "work.py:" in broken.json()["error"]
        assert (await served.post("/v2/double/runsync", {"input": {}})).status_code == 500
        assert await served.call("/other") == 1
        await served.rewrite({"work.py": WORK})
        assert await served.call("/work/double", x=1) == 2.0

    serve(tmp_path, {"work.py": WORK}, scenario)


def test_a_change_is_served_and_running_jobs_finish_on_the_old_code(tmp_path: Path) -> None:
    source = """
        import asyncio
        from runpod_flash import Endpoint

        @Endpoint(name="version", cpu="cpu3c-1-2")
        async def version(seconds: float = 0):
            await asyncio.sleep(seconds)
            return VERSION
    """

    async def scenario(served: Served) -> None:
        assert await served.call("/app") == 1
        running = asyncio.create_task(served.call("/app", seconds=0.5))
        await asyncio.sleep(0.1)
        await served.rewrite({"app.py": source + "\n        VERSION = 2\n"})
        assert await served.call("/app") == 2
        assert await running == 1

    serve(tmp_path, {"app.py": source + "\n        VERSION = 1\n"}, scenario)


def test_a_request_that_began_before_a_change_does_not_bring_the_former_code_back(
    tmp_path: Path,
) -> None:
    async def scenario(served: Served) -> None:
        assert await served.call("/app/version") == 1
        sent = b'{"input": {}}'
        given = served.address.removeprefix("http://").rpartition(":")
        reader, writer = await asyncio.open_connection(given[0], int(given[2]))
        head = (
            f"POST /app/version/runsync HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(sent)}"
        )
        writer.write(f"{head}\r\nConnection: close\r\n\r\n".encode() + sent[:3])
        await served.get("/ping")  # the other request has been read by now
        await served.rewrite({"app.py": VERSION.format(2)})
        (pool,) = served.gateway.pools()
        assert await served.call("/app/version") == 2
        (worker,) = pool.live()
        writer.write(sent[3:])
        assert b'"output": 2' in await reader.read()
        writer.close()
        assert pool.live() == [worker]

    serve(tmp_path, {"app.py": VERSION.format(1)}, scenario)


def test_the_description_has_the_functions_own_types(tmp_path: Path) -> None:
    async def scenario(served: Served) -> None:
        document = (await served.get("/openapi.json")).json()
        post = document["paths"]["/work/double/runsync"]["post"]
        assert post["summary"] == "Doubles."
        schema = post["requestBody"]["content"]["application/json"]["schema"]
        given = schema["properties"]["input"]
        assert given["properties"] == {
            "x": {"type": "integer"},
            "y": {"type": "number", "default": 2.0},
        }
        assert given["required"] == ["x"]
        page = await served.get("/docs")
        assert "/docs/swagger-ui-bundle.js" in page.text
        assert "http://" not in page.text.replace(served.address, "")
        assert (await served.get("/docs/swagger-ui-bundle.js")).status_code == 200

    serve(tmp_path, {"work.py": WORK}, scenario)


def test_a_client_that_leaves_cancels_its_job(tmp_path: Path) -> None:
    async def scenario(served: Served) -> None:
        async with httpx.AsyncClient(base_url=served.address, timeout=0.6) as hasty:
            with contextlib.suppress(httpx.ReadTimeout):
                await hasty.post("/work/sleeper/runsync", json={"input": {}})
        for _ in range(100):
            if not served.plane.unfinished():
                break
            await asyncio.sleep(0.05)
        assert served.plane.unfinished() == 0

    serve(tmp_path, {"work.py": WORK}, scenario)
