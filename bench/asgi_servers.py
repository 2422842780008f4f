"""Which ASGI server shall carry the gateway?

    scripts/bench asgi_servers

A raw JSON echo, and the gateway with a plane whose jobs end as they are submitted. The servers take
turns; each round asks every one of them with 1 and 32 connections.
"""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness import Result
from load import load

from runpod_flash.gateway.app import Gateway
from runpod_flash.plane.events import EventStream, JobEnded
from runpod_flash.plane.pool import Pool
from runpod_flash.plane.store.base import JobState, Lease, Outcome
from runpod_flash.plane.store.memory import MemoryStore, now
from runpod_flash.project.catalog import Catalog, Discovered, Operation
from runpod_flash.spec import Build, EndpointSpec, Entry

if TYPE_CHECKING:
    from runpod_flash.plane.store.base import NewJob

ROUNDS = 5
SECONDS = 1
CONNECTIONS = (1, 32)
BASE = "uvicorn (uvloop, httptools)"
SERVERS = {
    "uvicorn (asyncio, h11)": "uvicorn --loop asyncio --http h11",
    BASE: "uvicorn --loop uvloop --http httptools",
    "granian (uvloop)": "granian",
    "hypercorn (uvloop)": "hypercorn",
}
OPTIONS = {
    "uvicorn": "--lifespan off --log-level critical --no-access-log --port {port}",
    "granian": "--interface asginl --loop uvloop --no-ws --log-level error --port {port}",
    "hypercorn": "-k uvloop --log-level critical --bind 127.0.0.1:{port}",
}
REQUEST = {"input": {"text": "hello", "number": 42}}


async def echo(scope: dict[str, Any], receive: Any, send: Any) -> None:
    """The least that an application can do."""
    body = (await receive())["body"]
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


class StubPlane:
    """A plane whose jobs have ended when they are submitted: what is left is the gateway."""

    def __init__(self) -> None:
        self.store = MemoryStore(time.monotonic)
        self.events = EventStream()
        self.dispatcher = self
        self._leases: dict[str, Lease] = {}

    def declare(self, spec: EndpointSpec, env: Any) -> Pool:
        if spec.key not in self._leases:
            epoch = now(self.store.own(spec.key, "stub", 3600))
            assert epoch is not None
            self._leases[spec.key] = Lease("stub", epoch, 3600)
            self._pool = Pool(spec, env, self._leases[spec.key])
        return self._pool

    def submit(self, pool: Pool, new: NewJob, reader: Any = None) -> None:
        ((job, _),) = now(self.store.submit([new], pool.lease))
        ended = now(self.store.finish(job.ref, Outcome(JobState.COMPLETED, new.call.payload)))
        assert ended is not None
        self.events.publish(JobEnded(ended))

    def holder(self, job_id: str) -> None:
        return None

    def consumed(self, job_id: str, chunks: int) -> None: ...

    def waits_for(self, job: Any) -> str:
        return ""


def catalog() -> Catalog:
    schema = {
        "type": "object",
        "properties": {"text": {"type": "string"}, "number": {"type": "integer"}},
        "required": ["text", "number"],
        "additionalProperties": False,
    }
    spec = EndpointSpec("echo", Entry("echo", "echo", file="echo.py"), Build("code"))
    return Catalog(
        "", (Discovered(spec, {}, "echo.py", operations=(Operation("echo", input=schema),)),)
    )


class Served:
    """The gateway, made on the server's loop by the first request."""

    gateway: Gateway | None = None

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if self.gateway is None:
            self.gateway = Gateway(StubPlane())  # type: ignore[arg-type]
            self.gateway.serve(catalog())
        await self.gateway(scope, receive, send)


gateway = Served()


class Server:
    """One server as a process of its own."""

    def __init__(self, command: str, app: str, port: int) -> None:
        name = command.partition(" ")[0]
        line = f"-m {command} {OPTIONS[name].format(port=port)} asgi_servers:{app}"
        self.url = f"http://127.0.0.1:{port}/echo/runsync"
        self._process = subprocess.Popen(
            [sys.executable, *line.split()], cwd=Path(__file__).parent, stdout=subprocess.DEVNULL
        )
        self._await(port)

    def _await(self, port: int) -> None:
        for _ in range(200):
            with socket.socket() as sock:
                if sock.connect_ex(("127.0.0.1", port)) == 0:
                    return
            time.sleep(0.05)
        raise RuntimeError(f"{self._process.args!r} does not listen")

    def stop(self) -> None:
        self._process.terminate()
        self._process.wait()


def compare(result: Result, app: str) -> None:
    servers = {
        name: Server(command, app, 18900 + index)
        for index, (name, command) in enumerate(SERVERS.items())
    }
    rates: dict[int, dict[str, list[float]]] = {c: {n: [] for n in servers} for c in CONNECTIONS}
    latencies: dict[str, list[float]] = {name: [] for name in servers}
    try:
        for server in servers.values():
            load(server.url, 4, 1, REQUEST)  # warm up
        for _ in range(ROUNDS):
            for connections in CONNECTIONS:
                for name, server in servers.items():
                    found = load(server.url, connections, SECONDS, REQUEST)
                    rates[connections][name].append(found.rate)
                    if connections == 1:
                        latencies[name].append(found.p50)
    finally:
        for server in servers.values():
            server.stop()
    for connections, rounds in rates.items():
        result.compare(f"{app}, {connections} connections: requests a second", "/s", rounds, BASE)
    result.compare(f"{app}, 1 connection: p50", "ms", latencies, BASE)


def main() -> None:
    result = Result(__file__, str(__doc__), "uvicorn", "granian", "hypercorn")
    for app in ("echo", "gateway"):
        compare(result, app)
    result.save()


if __name__ == "__main__":
    main()
