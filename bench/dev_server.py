"""`flash dev` against the clock: start, saved changes, a JSON route beside FastAPI; and chunks.

    scripts/bench dev_server

A change is timed from the write of the file until the new code has answered; chunks from the yield
until the client has read them, at `flash dev` and at `flash server`. Throughput needs `wrk`; the
peer is the same FastAPI application under uvicorn (uvloop, httptools), without Flash.
"""

from __future__ import annotations

import json
import re
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.request import urlopen

from harness import machine, report
from servers import FLASH, ask, flash_server, free_port, running

if TYPE_CHECKING:
    from collections.abc import Iterator

APP = """
import time
from runpod_flash import Endpoint

api = Endpoint(name="api", cpu="cpu3c-1-2", workers=(0, 1))

@api.get("/json")
async def answer():
    return {"ok": True, "version": VERSION}

@api.get("/ticks")
async def ticks(n: int):
    import asyncio
    for _ in range(n):
        await asyncio.sleep(0.01)
        yield f"{time.monotonic()}\\n"

VERSION = 0
"""
QUEUE = """
import asyncio
import time
from runpod_flash import Endpoint

@Endpoint(name="version", cpu="cpu3c-1-2")
async def version():
    return VERSION

@Endpoint(name="ticks", cpu="cpu3c-1-2")
async def ticks(n: int):
    for _ in range(n):
        await asyncio.sleep(0.01)
        yield time.monotonic()

VERSION = 0
"""
PEER = """
from fastapi import FastAPI
app = FastAPI()

@app.get("/json")
async def answer():
    return {"ok": True, "version": 0}
"""
ROUNDS = 7
CHUNKS = 200


@contextmanager
def dev(root: Path, program: str = FLASH) -> Iterator[tuple[str, float]]:
    """The address of a running `flash dev`, and how long it took to be ready."""
    began = time.monotonic()
    with running([sys.executable, "-c", program, "dev", "--port", "0"], root) as process:
        process.seen("ready in")
        seconds = time.monotonic() - began
        yield process.seen(r"(http://localhost:\d+)  \(docs"), seconds


def change_served(root: Path, file: str, source: str, url: str, body: object) -> list[float]:
    ask(url, body)
    seconds = []
    for version in range(1, ROUNDS + 1):
        time.sleep(1)
        (root / file).write_text(source.replace("VERSION = 0", f"VERSION = {version}"))
        began = time.monotonic()
        while str(version) not in ask(url, body).split("output")[-1].split("version")[-1]:
            time.sleep(0.005)
        seconds.append(time.monotonic() - began)
    return [1000 * each for each in seconds]


def route_chunks(address: str) -> list[float]:
    """Delays of a streamed response's lines, in milliseconds."""
    delays = []
    with urlopen(f"{address}/app/ticks?n={CHUNKS}", timeout=60) as answer:
        while line := answer.readline():
            delays.append(1000 * (time.monotonic() - float(line)))
    return delays


def queue_chunks(address: str) -> list[float]:
    """Delays of what /stream of the queue API gives, in milliseconds."""
    url = f"{address}/v2/ticks"
    job = json.loads(ask(f"{url}/run", {"input": {"n": CHUNKS}}))["id"]
    delays: list[float] = []
    while len(delays) < CHUNKS:
        part = json.loads(ask(f"{url}/stream/{job}"))
        now = time.monotonic()
        delays += [1000 * (now - item["output"]) for item in part["stream"]]
    return delays


def show_chunks(server: str, address: str) -> None:
    for way, chunks in (("a streaming route", route_chunks), ("/stream", queue_chunks)):
        chunks(address)  # its worker starts
        show(f"chunk of {way}, {server}", chunks(address))


def show(name: str, values: list[float]) -> None:
    print(f"{name:40} median {statistics.median(values):8.2f} ms, worst {max(values):.2f}")


def throughput(url: str, connections: int) -> float:
    command = ["wrk", "-t1", f"-c{connections}", "-d2s", url]
    found = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert "Non-2xx" not in found, found
    return float(re.search(r"Requests/sec:\s+([\d.]+)", found)[1]) / 1000  # type: ignore[index]


@contextmanager
def peer(root: Path) -> Iterator[str]:
    (root / "peer.py").write_text(PEER)
    port = str(free_port())
    command = [sys.executable, "-m", "uvicorn", "peer:app", "--port", port, "--no-access-log"]
    url = f"http://127.0.0.1:{port}/json"
    with running(command, root) as process:
        process.answers(url)
        yield url


def main() -> None:
    root = Path(tempfile.mkdtemp())
    (root / "app.py").write_text(APP)
    (root / "work.py").write_text(QUEUE)
    starts = []
    for _ in range(3):
        with dev(root) as (_, seconds):
            starts.append(1000 * seconds)
    with dev(root) as (address, _):
        function = change_served(
            root, "work.py", QUEUE, f"{address}/work/version/runsync", {"input": {}}
        )
        route = change_served(root, "app.py", APP, f"{address}/app/json", None)
        print(machine())
        show("flash dev ready", starts)
        show("change of a function served", function)
        show("change of a route served", route)
        show_chunks("flash dev", address)
        with peer(root) as direct:
            for connections in (1, 16):
                rounds: dict[str, list[float]] = {"FastAPI under uvicorn": [], "flash dev": []}
                for _ in range(5):
                    rounds["FastAPI under uvicorn"].append(throughput(direct, connections))
                    rounds["flash dev"].append(throughput(f"{address}/app/json", connections))
                title = f"A JSON route, {connections} connections, thousand requests/s"
                report(title, "k/s", rounds, "FastAPI under uvicorn")
    with flash_server(root / "server", "--app", str(root)) as server:
        show_chunks("flash server", server.address)


if __name__ == "__main__":
    main()
