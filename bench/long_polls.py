"""What do a thousand waiting workers cost those that run jobs?

    scripts/bench long_polls

Two `flash server` take turns, each with five workers that run the jobs of one client, in a process
of their own. One server also has a thousand workers that wait at another endpoint. All speak
RunPod's protocol: each holds a request for a job, and asks again once that is answered. (Workers of
the `runpod` package would hide what is measured: they take 15 to 100 ms for a job.)
"""

from __future__ import annotations

import asyncio
import json
import re
import resource
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from harness import Result
from load import load
from servers import Worker, flash_server, running

if TYPE_CHECKING:
    from servers import Flash

WAITING = 1000
WORKING = 5
ROUNDS = 15
SECONDS = 2
JOB = {"input": {"value": "hello"}}
# So long a worker's request is held.
HOLD_MS = 30_000


# The workers, in a process of their own


class Link:
    """A worker's connection; its requests follow one another."""

    def __init__(self, address: str, worker: Worker) -> None:
        self._netloc = urlsplit(address).netloc
        self._worker = worker

    async def work(self) -> None:
        """Take jobs for ever, and answer them with their inputs."""
        host, _, port = self._netloc.partition(":")
        self._reader, self._writer = await asyncio.open_connection(host, int(port))
        path = f"/v2/{self._worker.endpoint}"
        while True:
            text = await self._ask("GET", f"{path}/job-take/{self._worker.id}?wait={HOLD_MS}")
            if text:
                job = json.loads(text)
                done = json.dumps({"output": job["input"]}).encode()
                await self._ask("POST", f"{path}/job-done/{self._worker.id}/{job['id']}", done)

    async def _ask(self, method: str, path: str, body: bytes = b"") -> bytes:
        lines = (
            f"{method} {path} HTTP/1.1",
            f"Host: {self._netloc}",
            f"Authorization: {self._worker.token}",
            f"Content-Length: {len(body)}",
        )
        self._writer.write("\r\n".join((*lines, "", "")).encode() + body)
        head = (await self._reader.readuntil(b"\r\n\r\n")).decode()
        if head.split()[1] not in ("200", "204"):
            raise RuntimeError(f"{method} {path}: {head}")
        size = re.search(r"(?i)content-length: (\d+)", head)
        return await self._reader.readexactly(int(size[1])) if size else b""


async def work(address: str, workers: list[Worker]) -> None:
    await asyncio.gather(*(Link(address, worker).work() for worker in workers))


# The measurement


def start(stack: ExitStack, server: Flash, endpoint: str, count: int, folder: Path) -> None:
    """Return once all of these workers wait for jobs."""
    workers = [server.add_worker(endpoint) for _ in range(count)]
    file = folder / f"{endpoint}.txt"
    file.write_text("".join(f"{' '.join(worker)}\n" for worker in workers))
    command = [sys.executable, __file__, server.address, str(file)]
    stack.enter_context(running(command, folder))
    come(server, endpoint, count)


def come(server: Flash, endpoint: str, count: int) -> None:
    """Wait until so many workers wait for jobs."""
    deadline = time.monotonic() + 60
    while (found := server.health(endpoint)["workers"]["idle"]) < count:
        if time.monotonic() > deadline:
            raise RuntimeError(f"of {count} workers of {endpoint}, {found} have come")
        time.sleep(0.1)


def main() -> None:
    result = Result(__file__, str(__doc__))
    # (Each worker is a descriptor of the server's, which has this process's limit.)
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    names = {f"{WORKING} workers": False, f"and {WAITING:,} that wait": True}
    with ExitStack() as stack:
        root = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        servers = {}
        for name, crowded in names.items():
            folder = root / f"server-{crowded}"
            server = servers[name] = stack.enter_context(flash_server(folder))
            start(stack, server, "echo", WORKING, folder)
            if crowded:
                start(stack, server, "fleet", WAITING, folder)
        round_trips: dict[str, list[float]] = {name: [] for name in names}
        memory: dict[str, list[float]] = {name: [] for name in names}
        for _ in range(ROUNDS):
            for name, server in servers.items():
                found = load(f"{server.address}/v2/echo/runsync", 1, SECONDS, JOB)
                round_trips[name].append(found.p50)
                memory[name].append(server.process.megabytes())
        come(servers[f"and {WAITING:,} that wait"], "fleet", WAITING)
    base = next(iter(names))
    result.compare("A job's round trip, p50", "ms", round_trips, base)
    result.compare("The server's memory", "MB", memory, base)
    result.save()


if __name__ == "__main__":
    if len(sys.argv) == 3:
        lines = Path(sys.argv[2]).read_text().splitlines()
        asyncio.run(work(sys.argv[1], [Worker(*line.split()) for line in lines]))
    else:
        main()
