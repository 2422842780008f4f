"""`flash dev` against the clock: start, saved changes, first chunks, a JSON route beside FastAPI.

    scripts/bench dev_server

A change is timed from the write of the file until the new code has answered; chunks from the yield
until the client has read them. Throughput needs `wrk`; the peer is the same FastAPI application
under uvicorn (uvloop, httptools), without Flash.
"""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.request import Request, urlopen

from harness import machine, report

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
RUN = "from runpod_flash.cli.main import main; main()"
ROUNDS = 7


@contextmanager
def dev(root: Path, program: str = RUN) -> Iterator[tuple[str, float]]:
    """The address of a running `flash dev`, and how long it took to be ready."""
    began = time.monotonic()
    command = [sys.executable, "-c", program, "dev"]
    process = subprocess.Popen(
        [*command, "--port", "0"],
        cwd=root,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )
    assert process.stdout is not None
    address = ""
    for line in process.stdout:
        found = re.search(r"(http://localhost:\d+)  \(docs", line)
        address = found[1] if found else address
        if "ready in" in line:
            break
    try:
        yield address, time.monotonic() - began
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(10)


def get(url: str, value: object = None) -> str:
    body = None if value is None else json.dumps(value).encode()
    with urlopen(Request(url, body), timeout=60) as answer:
        return str(answer.read().decode())


def change_served(root: Path, file: str, source: str, url: str, body: object) -> list[float]:
    get(url, body)
    seconds = []
    for version in range(1, ROUNDS + 1):
        time.sleep(1)
        (root / file).write_text(source.replace("VERSION = 0", f"VERSION = {version}"))
        began = time.monotonic()
        while str(version) not in get(url, body).split("output")[-1].split("version")[-1]:
            time.sleep(0.005)
        seconds.append(time.monotonic() - began)
    return [1000 * each for each in seconds]


def first_chunks(url: str, count: int) -> list[float]:
    """Delays of a streamed response's lines."""
    delays = []
    with urlopen(f"{url}?n={count}", timeout=60) as answer:
        while line := answer.readline():
            delays.append(1000 * (time.monotonic() - float(line)))
    return delays


def queue_chunks(url: str, count: int) -> list[float]:
    job = json.loads(get(f"{url}/run", {"input": {"n": count}}))["id"]
    delays: list[float] = []
    while len(delays) < count:
        part = json.loads(get(f"{url}/stream/{job}"))
        now = time.monotonic()
        delays += [1000 * (now - item["output"]) for item in part["stream"]]
    return delays


def throughput(url: str, connections: int) -> float:
    command = ["wrk", "-t1", f"-c{connections}", "-d2s", url]
    found = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert "Non-2xx" not in found, found
    return float(re.search(r"Requests/sec:\s+([\d.]+)", found)[1]) / 1000  # type: ignore[index]


@contextmanager
def peer(root: Path) -> Iterator[str]:
    (root / "peer.py").write_text(PEER)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "uvicorn", "peer:app", "--port", str(port), "--no-access-log"]
    process = subprocess.Popen(command, cwd=root, stderr=subprocess.DEVNULL)
    for _ in range(200):
        try:
            get(f"http://127.0.0.1:{port}/json")
            break
        except OSError:
            time.sleep(0.05)
    try:
        yield f"http://127.0.0.1:{port}/json"
    finally:
        process.terminate()
        process.wait()


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
        streamed = first_chunks(f"{address}/app/ticks", 200)
        queued = queue_chunks(f"{address}/work/ticks", 200)
        print(machine())
        for name, values in (
            ("flash dev ready", starts),
            ("change of a function served", function),
            ("change of a route served", route),
            ("chunk of a streaming route", streamed),
            ("chunk over /stream", queued),
        ):
            print(f"{name:30} median {statistics.median(values):8.2f} ms, worst {max(values):.2f}")
        with peer(root) as direct:
            for connections in (1, 16):
                rounds: dict[str, list[float]] = {"FastAPI under uvicorn": [], "flash dev": []}
                for _ in range(5):
                    rounds["FastAPI under uvicorn"].append(throughput(direct, connections))
                    rounds["flash dev"].append(throughput(f"{address}/app/json", connections))
                title = f"A JSON route, {connections} connections, thousand requests/s"
                report(title, "k/s", rounds, "FastAPI under uvicorn")


if __name__ == "__main__":
    main()
