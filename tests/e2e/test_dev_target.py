"""`flash dev --target`: addresses on this machine, workers at a server in another process."""

from __future__ import annotations

import asyncio
import re
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

import httpx
import psutil
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from e2e.dev_server import DevServer
from integration.served import write

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

FILES = {
    "pyproject.toml": "",
    "weights.txt": "7",
    "app.py": """
        import os
        from pathlib import Path

        from fastapi import WebSocket

        from runpod_flash import Endpoint

        @Endpoint(name="times", cpu="cpu3c-1-2", env={"WHERE": os.environ.get("LOCAL_PLACE", "")})
        def times(x: int) -> list:
            print("multiplying")
            return [x * int(Path("weights.txt").read_text()), os.environ["WHERE"]]

        api = Endpoint(name="api", cpu="cpu3c-1-2", workers=(0, 2))

        @api.post("/upload")
        async def upload(text: str) -> dict:
            return {"length": len(text)}

        @api.get("/count")
        async def count():
            for n in range(3):
                yield f"data: {n}\\n\\n"

        @api.websocket("/echo")
        async def echo(socket: WebSocket):
            await socket.accept()
            await socket.send_text("echo " + await socket.receive_text())
            await socket.close(4001, "enough")
    """,
}


class Both:
    """A server, and `flash dev` whose code runs there."""

    def __init__(self, server: DevServer, dev: DevServer, data: Path) -> None:
        self.server = server
        self.dev = dev
        self.data = data
        self.http = httpx.Client(base_url=dev.address, timeout=60)

    def call(self, x: int) -> httpx.Response:
        return self.http.post("/app/times/runsync", json={"input": {"x": x}})

    def trees(self) -> list[Path]:
        return list((self.data / "apps").iterdir())

    def blobs(self) -> int:
        return sum(path.is_file() for path in (self.data / "blobs").rglob("*"))


@contextmanager
def both(folder: Path, *options: str) -> Iterator[Both]:
    project, data = folder / "project", folder / "data"
    write(project, FILES)
    server = DevServer(folder, ("--data-dir", str(data), "--port", "0"), "server", _home(folder, 1))
    dev = None
    try:
        key = server.wait_for(r"flash_\S+")[0]
        settings = {**_home(folder, 2), "FLASH_API_KEY": key, "LOCAL_PLACE": "here"}
        arguments = ("--target", server.address, "--port", "0", *options)
        dev = DevServer(project, arguments, "dev", settings)
        dev.wait_for("ready in")
        running = Both(server, dev, data)
        with running.http:
            yield running
    finally:
        if dev is not None:
            dev.kill()
        assert server.interrupt() == 0, server.screen
        server.kill()


def _home(folder: Path, number: int) -> dict[str, str]:
    home = folder / f"home-{number}"
    home.mkdir()
    return {"HOME": str(home), "XDG_STATE_HOME": str(home), "XDG_DATA_HOME": str(home)}


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Both]:
    with both(tmp_path_factory.mktemp("target"), "--auto-provision") as started:
        yield started


def test_functions_run_at_the_target_with_the_projects_files_and_variables(running: Both) -> None:
    answer = running.call(6)
    assert answer.status_code == 200, answer.text
    assert answer.json()["output"] == [42, "here"]
    running.dev.wait_for(r"\[times\] multiplying")
    workers = psutil.Process(running.server.pid).children(recursive=True)
    assert any("boot.py" in " ".join(each.cmdline()) for each in workers)
    assert not [c for c in running.dev.children() if "boot.py" in " ".join(c.cmdline())]


def test_auto_provision_shows_the_start_of_the_targets_workers(running: Both) -> None:
    running.dev.wait_for(r"times: ready in \d")
    running.dev.wait_for(r"api: ready in \d")


def test_routes_streams_and_uploads_go_through(running: Both) -> None:
    with running.http.stream("GET", "/app/count") as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        assert re.findall(r"\d", answer.read().decode()) == ["0", "1", "2"]
    text = "x" * 3_000_000
    assert running.http.post("/app/upload", json={"text": text}).json() == {"length": len(text)}
    refused = running.http.post("/app/upload", json={"text": []})
    assert refused.status_code == 422


def test_a_web_socket_is_passed_on_with_the_code_that_closes_it(running: Both) -> None:
    async def talk() -> tuple[str, int | None]:
        address = running.dev.address.replace("http", "ws", 1)
        async with connect(f"{address}/app/echo", proxy=None) as socket:
            await socket.send("hello")
            heard = str(await socket.recv())
            with pytest.raises(ConnectionClosed):
                await socket.recv()
            return heard, socket.close_code

    assert asyncio.run(talk()) == ("echo hello", 4001)


def test_a_page_of_elsewhere_is_refused_here_already(running: Both) -> None:
    answer = running.http.get("/app/count", headers={"origin": "https://elsewhere.example"})
    assert answer.status_code == 403


def test_the_page_of_the_address_is_the_projects(running: Both) -> None:
    paths = running.http.get("/openapi.json").json()["paths"]
    assert {"/app/runsync", "/app/upload"} <= set(paths)


def test_a_saved_file_is_all_that_is_sent_and_an_error_in_it_is_shown(tmp_path: Path) -> None:
    with both(tmp_path) as running:
        assert running.call(1).json()["output"] == [7, "here"]
        before, app = running.blobs(), running.dev.root / "app.py"
        app.write_text(app.read_text().replace("x * int", "10 * x * int"))
        running.dev.wait_for("app.py changed: now serves the new")
        assert running.call(1).json()["output"] == [70, "here"]
        assert running.blobs() == before + 1
        app.write_text(app.read_text() + "def (\n")
        running.dev.wait_for(r"app.py:\d+: invalid syntax")
        running.dev.wait_for("app.py changed: served again when that is mended")
        broken = running.call(1)
        assert broken.status_code == 500
        assert "invalid syntax" in broken.json()["error"]
        assert running.dev.interrupt() == 0
        assert running.trees() == []


def test_what_cannot_be_sent_is_said_and_goes_with_the_next_change(tmp_path: Path) -> None:
    with both(tmp_path) as running:
        (running.dev.root / ".env").write_bytes(b"NAME=\xff\n")
        running.dev.wait_for(r"\.env changed, and is not served: .*it is not UTF-8")
        (running.dev.root / ".env").unlink()
        running.dev.wait_for(r"\.env changed: nothing to replace")


def test_the_app_of_a_killed_flash_dev_is_gone_after_its_lease(tmp_path: Path) -> None:
    with both(tmp_path) as running:
        assert running.call(1).status_code == 200
        running.dev.kill()
        until = time.monotonic() + 30
        while running.trees():
            assert time.monotonic() < until, "the app is still there"
            time.sleep(0.1)
        left = psutil.Process(running.server.pid).children(recursive=True)
        assert not [each for each in left if "boot.py" in " ".join(each.cmdline())]


def test_a_target_that_cannot_be_reached_is_one_sentence(tmp_path: Path) -> None:
    write(tmp_path, FILES)
    dev = DevServer(tmp_path, ("--target", "http://localhost:9", "--port", "0"), "dev")
    try:
        assert dev.wait() == 1
        assert "http://localhost:9" in dev.screen
        assert "cannot be reached" in dev.screen
        assert "Traceback" not in dev.screen
    finally:
        dev.kill()
