"""Load-balanced routes on real workers: parameters, streams, WebSockets, failures, scaling."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from typing import TYPE_CHECKING

import psutil
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.typing import Origin

from integration.served import serve

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from integration.served import Served

pytestmark = pytest.mark.network

API = """
    import asyncio
    import os
    from pydantic import BaseModel
    from fastapi import BackgroundTasks, Header, Query, Request, WebSocket
    from runpod_flash import Endpoint

    api = Endpoint(name="api", cpu="cpu3c-1-2", workers=(0, 3), scaler_value=2, idle_timeout=2)
    SEEN = []

    class Item(BaseModel):
        name: str
        price: float = 1.0

    @api.lifespan
    async def life():
        SEEN.append("started")
        yield

    @api.get("/health")
    async def health() -> dict:
        return {"seen": SEEN, "pid": os.getpid()}

    @api.post("/compute")
    async def compute(numbers: list[float], operation: str = "sum") -> dict:
        return {"result": sum(numbers), "operation": operation}

    @api.post("/item")
    def item(item: Item) -> Item:
        return Item(name=item.name.upper(), price=item.price)

    @api.post("/whole")
    async def whole(data: dict) -> dict:
        return data

    @api.get("/images/{file_name}")
    async def image(file_name: str, size: int = Query(3, le=10), x_token: str = Header("none")):
        return {"file": file_name, "size": size, "token": x_token}

    @api.delete("/items/{number}")
    async def remove(number: int) -> dict:
        return {"removed": number}

    @api.post("/picture")
    async def picture(data: bytes, title: str = "none"):
        return {"bytes": len(data), "title": title}

    @api.get("/events")
    async def events(n: int = 3):
        for i in range(n):
            yield f"data: {i}\\n\\n"
            await asyncio.sleep(0.01)

    @api.get("/rows")
    def rows(n: int = 2):
        for i in range(n):
            yield {"row": i}

    @api.post("/upload")
    async def upload(request: Request):
        size = 0
        async for piece in request.stream():
            size += len(piece)
        return {"size": size}

    @api.post("/later")
    async def later(tasks: BackgroundTasks) -> dict:
        tasks.add_task(SEEN.append, "later")
        return {}

    @api.get("/forever")
    async def forever():
        try:
            while True:
                yield "tick"
                await asyncio.sleep(0.01)
        finally:
            SEEN.append("left")

    @api.get("/slow")
    async def slow(seconds: float = 0.5):
        await asyncio.sleep(seconds)
        return {"pid": os.getpid()}

    @api.get("/boom")
    async def boom():
        raise ValueError("bad")

    @api.get("/die")
    async def die():
        os._exit(7)

    @api.websocket("/echo")
    async def echo(socket: WebSocket):
        await socket.accept()
        while True:
            await socket.send_text(f"re: {await socket.receive_text()}")
"""


def test_parameters_are_typed_and_validated_as_fastapi_users_know_them(tmp_path: Path) -> None:
    async def scenario(served: Served) -> None:
        computed = await served.post("/app/compute", {"numbers": [1, 2.5]})
        assert computed.json() == {"result": 3.5, "operation": "sum"}
        wrong = await served.post("/app/compute", {"numbers": ["x"]})
        assert wrong.status_code == 422
        assert wrong.json()["detail"][0]["loc"] == ["body", "numbers", 0]
        made = await served.post("/app/item", {"name": "chair"})
        assert made.json() == {"name": "CHAIR", "price": 1.0}
        assert (await served.post("/app/whole", {"any": 1})).json() == {"any": 1}
        assert (await served.post("/app/whole", {"data": {"b": 1}})).json() == {"b": 1}
        image = await served.get("/app/images/a.png?size=4", headers={"x-token": "t"})
        assert image.json() == {"file": "a.png", "size": 4, "token": "t"}
        assert (await served.get("/app/images/a.png?size=11")).status_code == 422
        assert (await served.http.delete("/app/items/5")).json() == {"removed": 5}
        sent = await served.http.post(
            "/app/picture", files={"data": b"12345"}, data={"title": "cat"}
        )
        assert sent.json() == {"bytes": 5, "title": "cat"}
        assert (await served.http.put("/app/compute")).status_code == 405
        malformed = await served.http.post(
            "/app/compute", content=b"{", headers={"content-type": "application/json"}
        )
        assert malformed.status_code == 422

    serve(tmp_path, {"app.py": API}, scenario)


def test_streams_uploads_and_background_work(tmp_path: Path) -> None:
    async def scenario(served: Served) -> None:
        events = await served.get("/app/events")
        assert events.headers["content-type"].startswith("text/event-stream")
        assert events.text == "data: 0\n\ndata: 1\n\ndata: 2\n\n"
        assert (await served.get("/app/rows")).text == '{"row": 0}\n{"row": 1}\n'

        async def pieces() -> AsyncIterator[bytes]:
            for _ in range(100):
                yield b"x" * 1_000_000

        uploaded = await served.http.post("/app/upload", content=pieces())
        assert uploaded.json() == {"size": 100_000_000}
        await served.post("/app/later")
        seen = (await served.get("/app/health")).json()["seen"]
        assert seen == ["started", "later"]
        async with served.http.stream("GET", "/app/forever") as endless:
            async for _ in endless.aiter_bytes():
                break
        for _ in range(100):
            if "left" in (await served.get("/app/health")).json()["seen"]:
                return
            await asyncio.sleep(0.02)
        raise AssertionError("the generator was not told that its client has left")

    serve(tmp_path, {"app.py": API}, scenario)


def test_a_web_socket_echoes_and_survives_a_reload_by_code_1012(tmp_path: Path) -> None:
    async def scenario(served: Served) -> None:
        address = served.address.replace("http", "ws")
        async with connect(f"{address}/app/echo") as socket:
            await socket.send("hi")
            assert await socket.recv() == "re: hi"
            await served.rewrite({"app.py": API + "\n    CHANGED = 1\n"})
            with pytest.raises(ConnectionClosed):
                await asyncio.wait_for(socket.recv(), 5)
            assert socket.close_code == 1012
        async with connect(f"{address}/app/echo") as socket:
            await socket.send("again")
            assert await socket.recv() == "re: again"
        with pytest.raises(InvalidStatus):
            await connect(f"{address}/app/nope").__aenter__()
        with pytest.raises(InvalidStatus):
            await connect(f"{address}/app/echo", origin=Origin("https://evil.example")).__aenter__()

    serve(tmp_path, {"app.py": API}, scenario)


def test_failures_say_what_happened(tmp_path: Path) -> None:
    async def scenario(served: Served) -> None:
        boom = await served.get("/app/boom")
        assert (boom.status_code, boom.json()["error"]) == (500, "ValueError: bad")
        dead = await served.get("/app/die")
        assert dead.status_code == 502
        assert "exited with code 7" in dead.json()["error"]
        wrong = """
            from runpod_flash import Endpoint
            api = Endpoint(name="wrong", cpu="cpu3c-1-2")

            @api.get("/x")
            def x():
                return 1

            @api.lifespan
            async def life():
                raise RuntimeError("no licence")
                yield
        """
        await served.rewrite({"wrong.py": wrong})
        refused = await served.get("/wrong/x")
        assert refused.status_code == 503
        assert "no worker of 'wrong' can start" in refused.json()["error"]
        assert "no licence" in refused.json()["error"]

    serve(tmp_path, {"app.py": API}, scenario)


def test_a_worker_that_is_killed_costs_no_safe_request(tmp_path: Path) -> None:
    async def scenario(served: Served) -> None:
        pid = (await served.get("/app/health")).json()["pid"]
        slow = asyncio.create_task(served.get("/app/slow"))
        await asyncio.sleep(0.2)
        os.kill(pid, signal.SIGKILL)
        answer = await slow
        assert answer.status_code == 200
        assert answer.json()["pid"] != pid

    serve(tmp_path, {"app.py": API}, scenario)


def test_the_pool_grows_with_requests_in_flight_and_goes_to_zero(tmp_path: Path) -> None:
    async def scenario(served: Served) -> None:
        many = [asyncio.create_task(served.get("/app/slow?seconds=1")) for _ in range(6)]
        most = 0
        while not all(task.done() for task in many):
            most = max(most, len(served.plane.workers()))
            await asyncio.sleep(0.05)
        pids = {task.result().json()["pid"] for task in many}
        assert most == 3
        while not all(worker.ready_at for worker in served.plane.workers()):
            await asyncio.sleep(0.02)
        more = await asyncio.gather(*(served.get("/app/slow?seconds=0.2") for _ in range(6)))
        pids |= {answer.json()["pid"] for answer in more}
        assert len(pids) == 3
        for _ in range(200):
            if not served.plane.workers():
                break
            await asyncio.sleep(0.05)
        assert served.plane.workers() == []
        for pid in pids:
            with contextlib.suppress(psutil.NoSuchProcess):
                psutil.Process(pid).wait(2)

    serve(tmp_path, {"app.py": API}, scenario)


def test_a_route_calls_functions_of_sibling_files(tmp_path: Path) -> None:
    files = {
        "cpu_worker.py": """
            from runpod_flash import Endpoint

            @Endpoint(name="prepare", cpu="cpu3c-1-2")
            async def prepare(data: dict) -> dict:
                return {"text": data["text"].strip()}
        """,
        "deep/gpu_worker.py": """
            from runpod_flash import Endpoint, GpuGroup

            @Endpoint(name="infer", gpu=GpuGroup.ANY)
            def infer(data: dict) -> dict:
                return {"label": data["text"].upper()}
        """,
        "pipeline.py": """
            from runpod_flash import Endpoint

            api = Endpoint(name="pipeline", cpu="cpu3c-1-2", workers=(0, 3))

            @api.post("/classify")
            async def classify(text: str) -> dict:
                from cpu_worker import prepare
                from deep.gpu_worker import infer

                return await infer(await prepare({"text": text}))
        """,
    }

    async def scenario(served: Served) -> None:
        answer = await served.post("/pipeline/classify", {"text": " hello "})
        assert answer.json() == {"label": "HELLO"}
        # The same warm workers as by their own addresses.
        assert await served.call("/cpu_worker", text=" x ") == {"text": "x"}
        assert len(served.plane.workers()) == 3

    serve(tmp_path, files, scenario)


def test_a_workers_own_models_are_in_the_description(tmp_path: Path) -> None:
    async def scenario(served: Served) -> None:
        before = (await served.get("/openapi.json")).json()
        assert "/app/item" in before["paths"]
        await served.get("/app/health")
        after = (await served.get("/openapi.json")).json()
        model = after["components"]["schemas"]["api.Item"]
        assert model["properties"]["price"]["default"] == 1.0
        content = after["paths"]["/app/item"]["post"]["requestBody"]["content"]
        schema = content["application/json"]["schema"]
        assert schema == {"$ref": "#/components/schemas/api.Item"}

    serve(tmp_path, {"app.py": API}, scenario)


def test_routes_of_one_endpoint_may_stand_in_several_files(tmp_path: Path) -> None:
    files = {
        "sub/app.py": """
            from runpod_flash import Endpoint

            api = Endpoint(name="spread", cpu="cpu3c-1-2")

            @api.get("/1")
            def one() -> int:
                return 1
        """,
        "sub/more.py": """
            from app import api

            @api.get("/2")
            def two() -> int:
                return 2
        """,
        "old.py": """
            import warnings
            warnings.simplefilter("ignore")
            from runpod_flash import LiveLoadBalancer, remote

            @remote(resource_config=LiveLoadBalancer(name="old"), method="POST", path="/x")
            def legacy(n: int) -> int:
                return n + 1
        """,
    }

    async def scenario(served: Served) -> None:
        assert (await served.get("/sub/app/1")).json() == 1
        assert (await served.get("/sub/app/2")).json() == 2
        assert (await served.post("/old/x", {"n": 1})).json() == 2

    serve(tmp_path, files, scenario)
