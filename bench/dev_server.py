"""How quickly does `flash dev` start, take up a saved change, and pass a stream's chunks on?

    scripts/bench dev_server

A change is timed from the write of the file until the new code has answered; chunks from the yield
until the client has read them, at `flash dev` and at `flash server` (whose answers
wait for the disk).
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.request import urlopen

from harness import Result
from servers import FLASH, ask, flash_server, running

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
ROUNDS = 7
CHUNKS = 200


@contextmanager
def dev(root: Path, env: dict[str, str] | None = None) -> Iterator[tuple[str, float]]:
    """The address of a running `flash dev`, and how long it took to be ready."""
    began = time.monotonic()
    with running([sys.executable, "-c", FLASH, "dev", "--port", "0"], root, env) as process:
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


def chunks(server: str, address: str) -> dict[str, list[float]]:
    found = {}
    for way, delays in (("a streaming route", route_chunks), ("/stream", queue_chunks)):
        delays(address)  # its worker starts
        found[f"{way} of {server}"] = delays(address)
    return found


def measure(result: Result, root: Path) -> None:
    app = root / "app"
    app.mkdir()
    (app / "app.py").write_text(APP)
    (app / "work.py").write_text(QUEUE)
    starts = []
    for _ in range(ROUNDS):
        with dev(app) as (_, seconds):
            starts.append(1000 * seconds)
    with dev(app) as (address, _):
        url = f"{address}/work/version/runsync"
        function = change_served(app, "work.py", QUEUE, url, {"input": {}})
        route = change_served(app, "app.py", APP, f"{address}/app/json", None)
        delays = chunks("flash dev", address)
    with flash_server(root / "server", "--app", str(app)) as server:
        delays |= chunks("flash server", server.address)
    changes = {"of a function": function, "of a route": route}
    result.figures("Start of flash dev, two files", "ms", {"until it is ready": starts})
    result.figures("A saved change, until the new code has answered", "ms", changes)
    result.figures(f"A chunk, from its yield to the reader; {CHUNKS} of them", "ms", delays)


def main() -> None:
    result = Result(__file__, str(__doc__))
    with tempfile.TemporaryDirectory() as folder:
        measure(result, Path(folder))
    result.save()


if __name__ == "__main__":
    main()
