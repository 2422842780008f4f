"""What does a load-balanced route cost beside the same FastAPI application served directly?

    scripts/bench routes

GET of a small JSON document, from 1 and from 32 connections. The peers are the same application
under uvicorn (uvloop, httptools), and a raw ASGI application that sends the same bytes, in one
process each. Flash has a gateway, and a worker process in which FastAPI runs.
"""

from __future__ import annotations

import sys
import tempfile
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from harness import Result
from load import load
from servers import flash_server, free_port, running

if TYPE_CHECKING:
    from collections.abc import Iterator

APP = """
from runpod_flash import Endpoint

api = Endpoint(name="api", cpu="cpu3c-1-2", workers=(1, 1))

@api.get("/json")
async def answer():
    return {"ok": True, "number": 42}
"""
FASTAPI = """
from fastapi import FastAPI

app = FastAPI()

@app.get("/json")
async def answer():
    return {"ok": True, "number": 42}
"""
RAW = """
BODY = b'{"ok":true,"number":42}'
HEADERS = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(BODY))]

async def app(scope, receive, send):
    await send({"type": "http.response.start", "status": 200, "headers": HEADERS})
    await send({"type": "http.response.body", "body": BODY})
"""
CONNECTIONS = (1, 32)
ROUNDS = 15
SECONDS = 1


@contextmanager
def uvicorn(root: Path, name: str, source: str) -> Iterator[str]:
    (root / f"{name}.py").write_text(source)
    port = str(free_port())
    options = ("--port", port, "--no-access-log", "--lifespan", "off")
    with running([sys.executable, "-m", "uvicorn", f"{name}:app", *options], root) as process:
        url = f"http://127.0.0.1:{port}/json"
        process.answers(url)
        yield url


@contextmanager
def flash(root: Path) -> Iterator[str]:
    folder = root / "flash"
    folder.mkdir()
    (folder / "app.py").write_text(APP)
    with flash_server(folder, "--app", ".", "--log-level", "warning") as server:
        url = f"{server.address}/app/json"
        server.process.answers(url)
        yield url


def main() -> None:
    result = Result(__file__, str(__doc__), "fastapi", "uvicorn")
    with ExitStack() as stack:
        root = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        urls = {
            "FastAPI under uvicorn": stack.enter_context(uvicorn(root, "direct", FASTAPI)),
            "raw ASGI under uvicorn": stack.enter_context(uvicorn(root, "raw", RAW)),
            "a route of flash server": stack.enter_context(flash(root)),
        }
        for connections in CONNECTIONS:
            rounds: dict[str, list[float]] = {name: [] for name in urls}
            for _ in range(ROUNDS):
                for name, url in urls.items():
                    rounds[name].append(load(url, connections, SECONDS).rate)
            title = f"Requests a second, {connections} connection{'s' * (connections > 1)}"
            for base in list(urls)[:2]:
                pair = {name: rounds[name] for name in (base, "a route of flash server")}
                result.compare(title, "/s", pair, base)
    result.save()


if __name__ == "__main__":
    main()
