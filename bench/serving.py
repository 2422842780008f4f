"""A warm echo over HTTP: `flash server` beside LitServe, Ray Serve and the `runpod` package's own.

    scripts/bench serving

Flash and one peer at a time, one worker each, and the same client (`wrk`, on the same cores) with 1
and with 32 connections. Flash keeps its jobs in SQLite as shipped, so that each answer waits for
the disk; the peers keep nothing. Flash's worker has `max_concurrency=32`, and Ray Serve's
`max_ongoing_requests=32`; LitServe and the `runpod` package run an async handler as they are.
*The unavoidable* is a twin of no use: an ASGI application that sends each body to another process
and back, and commits a row with synchronous=FULL before it answers.
"""

from __future__ import annotations

import sys
import tempfile
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, NamedTuple

from harness import machine
from load import post
from servers import ask, flash_server, free_port, running

if TYPE_CHECKING:
    from collections.abc import Iterator

    from load import Load

FLASH = """
from runpod_flash import Endpoint

@Endpoint(name="echo", cpu="cpu3c-1-2", workers=(1, 1), max_concurrency=32)
async def echo(value):
    return value
"""
LITSERVE = """
import sys
import litserve

class Echo(litserve.LitAPI):
    def setup(self, device): ...

    async def decode_request(self, request):
        return request["input"]["value"]

    async def predict(self, value):
        return value

    async def encode_response(self, value):
        return {"output": value}

if __name__ == "__main__":
    server = litserve.LitServer(Echo(enable_async=True), accelerator="cpu", workers_per_device=1)
    server.run("127.0.0.1", int(sys.argv[1]), num_api_servers=1, generate_client_file=False,
               log_level="warning")
"""
RAY = """
import signal
import sys
import ray
from ray import serve

@serve.deployment(num_replicas=1, max_ongoing_requests=32)
class Echo:
    async def __call__(self, request):
        return {"output": (await request.json())["input"]["value"]}

ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, _node_ip_address="127.0.0.1")
serve.start(http_options={"host": "127.0.0.1", "port": int(sys.argv[1])})
serve.run(Echo.bind())
try:
    signal.pause()
except KeyboardInterrupt:
    serve.shutdown()
    ray.shutdown()
"""
RUNPOD = """
import runpod

async def handler(job):
    return job["input"]["value"]

runpod.serverless.start({"handler": handler})
"""
UNAVOIDABLE = """
import asyncio
import os
import socket
import sqlite3
import sys
import uvicorn

ours, theirs = socket.socketpair()
if not os.fork():
    ours.close()
    while sent := theirs.recv(65536):
        theirs.sendall(sent)
    os._exit(0)
theirs.close()
ours.setblocking(False)
file = sqlite3.connect("jobs.db", isolation_level=None)
file.execute("PRAGMA journal_mode=WAL")
file.execute("PRAGMA synchronous=FULL")
file.execute("CREATE TABLE jobs (id INTEGER PRIMARY KEY, value BLOB, result BLOB)")
waiting = []

def readable():
    *lines, _ = ours.recv(65536).split(b"\\n")
    with file:
        file.execute("BEGIN")
        file.executemany("INSERT INTO jobs (value, result) VALUES (?, ?)", zip(lines, lines))
    for line in lines:
        waiting.pop(0).set_result(line)

async def app(scope, receive, send):
    body = (await receive())["body"]
    done = asyncio.get_running_loop().create_future()
    waiting.append(done)
    ours.send(body + b"\\n")
    result = await done
    headers = [(b"content-length", str(len(result)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": result})

async def serve():
    asyncio.get_running_loop().add_reader(ours, readable)
    options = {"log_level": "critical", "lifespan": "off"}
    config = uvicorn.Config(app, "127.0.0.1", int(sys.argv[1]), **options)
    await uvicorn.Server(config).serve()

import uvloop
uvloop.run(serve())
"""
VALUE = {"input": {"value": "hello"}}
ROUNDS = 15
SECONDS = 1


class Peer(NamedTuple):
    program: str
    options: tuple[str, ...]
    path: str


def peers(port: str) -> dict[str, Peer]:
    api = ("--rp_serve_api", "--rp_api_host", "127.0.0.1", "--rp_api_port", port)
    return {
        "LitServe": Peer(LITSERVE, (port,), "/predict"),
        "Ray Serve": Peer(RAY, (port,), "/"),
        "runpod --rp_serve_api": Peer(RUNPOD, (*api, "--rp_log_level", "ERROR"), "/runsync"),
        "the unavoidable": Peer(UNAVOIDABLE, (port,), "/"),
    }


@contextmanager
def flash(folder: Path) -> Iterator[str]:
    folder.mkdir()
    (folder / "app.py").write_text(FLASH)
    with flash_server(folder, "--app", ".", "--log-level", "warning") as server:
        url = f"{server.address}/v2/echo/runsync"
        server.process.answers(url, VALUE)
        yield url


@contextmanager
def peer(name: str, folder: Path) -> Iterator[str]:
    port = free_port()
    program, options, path = peers(str(port))[name]
    folder.mkdir()
    file = folder / "served.py"
    file.write_text(program)
    env = {"RAY_USAGE_STATS_ENABLED": "0"}
    with running([sys.executable, str(file), *options], folder, env) as server:
        url = f"http://127.0.0.1:{port}{path}"
        server.answers(url, VALUE)
        yield url


def measure(urls: dict[str, str], connections: int, folder: Path) -> None:
    """Print medians over interleaved rounds, and of their ratios of Flash to the peer."""
    rounds: dict[str, list[Load]] = {name: [] for name in urls}
    for _ in range(ROUNDS):
        for name, url in urls.items():
            rounds[name].append(post(url, VALUE, connections, SECONDS, folder))
    flash, peer = urls
    for index, (what, unit) in enumerate((("p50", "ms"), ("p99", "ms"), ("rate", "/s"))):
        ours, theirs = ([load[index] for load in rounds[name]] for name in (flash, peer))
        ratio = median(mine / other for mine, other in zip(ours, theirs, strict=True))
        figures = f"{median(ours):10.2f} {unit} {median(theirs):10.2f} {unit} {ratio:9.2f}x"
        print(f"{peer:24}{connections:4} {what:5}{figures}", flush=True)


def main() -> None:
    print(f"{machine()}; {ROUNDS} interleaved rounds of {SECONDS} s\n")
    print(f"{'peer':24}{'clients':12}{'Flash':>10} {'peer':>13} {'ratio':>13}")
    for name in peers(""):
        with ExitStack() as stack:
            root = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            urls = {
                "flash server": stack.enter_context(flash(root / "flash")),
                name: stack.enter_context(peer(name, root / "peer")),
            }
            for url in urls.values():
                assert "hello" in ask(url, VALUE), url
            for connections in (1, 32):
                measure(urls, connections, root)


if __name__ == "__main__":
    main()
