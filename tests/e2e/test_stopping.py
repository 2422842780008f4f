"""What clients hear whose requests are under way when a server stops."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING

import httpx
import pytest

from e2e.dev_server import DevServer, dev
from e2e.elsewhere import until
from integration.served import write

if TYPE_CHECKING:
    from collections.abc import Iterator
    from concurrent.futures import Future
    from pathlib import Path

FILES = {
    "app.py": """
        import asyncio
        from runpod_flash import Endpoint

        @Endpoint(name="slow", cpu="cpu3c-1-2")
        async def slow(seconds: float = 60) -> str:
            print("begun")
            await asyncio.sleep(seconds)
            return "done"

        api = Endpoint(name="api", cpu="cpu3c-1-2")

        @api.get("/slow")
        async def route():
            print("begun")
            await asyncio.sleep(60)

        @api.get("/drops")
        async def drops():
            from fastapi.responses import StreamingResponse

            async def fall():
                while True:
                    yield "drop"
                    await asyncio.sleep(0.1)

            return StreamingResponse(fall())
    """
}


@contextmanager
def server(folder: Path, port: str) -> Iterator[DevServer]:
    """`flash server` on the files, with its data in the folder."""
    write(folder / "app", FILES)
    home = {"HOME": str(folder), "XDG_STATE_HOME": str(folder / "state")}
    options = ("--app", ".", "--data-dir", str(folder / "data"), "--port", port, "--grace", "1")
    running = DevServer(folder / "app", options, "server", home)
    try:
        running.wait_for(r"\(docs")
        yield running
    finally:
        running.kill()


@contextmanager
def asking(
    running: DevServer, method: str, path: str, value: object = None
) -> Iterator[Future[httpx.Response]]:
    """A request that the block finds under way."""
    with ThreadPoolExecutor(1) as pool:
        url = f"{running.address}{path}"
        given = pool.submit(httpx.request, method, url, json=value, timeout=60, trust_env=False)
        running.wait_for("begun")
        yield given


def test_a_server_s_job_is_told_as_far_as_it_is_and_ends_after_the_next_start(
    tmp_path: Path,
) -> None:
    with server(tmp_path, "0") as running:
        port = running.address.rpartition(":")[2]
        with asking(running, "POST", "/v2/slow/runsync", {"input": {"seconds": 6}}) as answer:
            assert running.interrupt() == 0
        told = answer.result().json()
        assert (answer.result().status_code, told["status"]) == (200, "IN_PROGRESS")
        assert answer.result().headers["x-request-id"]
    with server(tmp_path, port) as running:
        status = f"{running.address}/v2/slow/status/{told['id']}"
        until(lambda: '"COMPLETED"' in httpx.get(status, trust_env=False).text, lambda: status)


@pytest.mark.parametrize("command", ["server", "dev"])
def test_a_route_s_client_hears_that_the_server_stops(tmp_path: Path, command: str) -> None:
    started = server(tmp_path, "0") if command == "server" else dev(tmp_path, FILES)
    with started as running, asking(running, "GET", "/app/slow") as answer:
        assert running.interrupt() == 0
    assert answer.result().status_code == 503
    assert answer.result().json()["stopping"] is True
    assert answer.result().headers["x-request-id"]


def test_an_answer_that_was_begun_is_not_noted_as_refused(tmp_path: Path) -> None:
    with dev(tmp_path, FILES) as running:
        url = f"{running.address}/app/drops"
        with httpx.stream("GET", url, timeout=60, trust_env=False) as answer:
            assert answer.status_code == 200
            assert running.interrupt() == 0
        assert "GET /app/drops  200 OK" in running.screen
        assert " 503 " not in running.screen


def test_a_job_of_flash_dev_has_failed_when_that_stops(tmp_path: Path) -> None:
    with dev(tmp_path, FILES) as running:
        with asking(running, "POST", "/app/slow/runsync", {"input": {}}) as answer:
            assert running.interrupt() == 0
        assert answer.result().json()["status"] == "FAILED"
        assert "the server was stopped" in answer.result().text
