"""What a job costs a server whose queue is short, and one whose queue is long.

    scripts/bench queue_depth

Two `flash server` take turns, with 100 and with 100,000 jobs in their queues. A worker of RunPod's
protocol submits a job, takes the oldest and finishes it, over one connection; each of the three
answers waits for the disk. The queues stay as long as they are.
"""

from __future__ import annotations

import http.client
import json
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from harness import report
from load import post
from servers import flash_server

if TYPE_CHECKING:
    from servers import Flash

DEPTHS = (100, 100_000)
ROUNDS = 15
JOBS = 200
JOB = {"input": {"value": "hello"}}


class Client:
    """Submits jobs of an endpoint, and works for it."""

    def __init__(self, server: Flash) -> None:
        self._worker = server.add_worker("deep")
        self._connection = http.client.HTTPConnection(urlsplit(server.address).netloc)
        self._headers = {"Authorization": f"Bearer {self._worker.token}"}

    def submit(self) -> None:
        self._ask("POST", "run", JOB)

    def take(self) -> str:
        return str(self._ask("GET", f"job-take/{self._worker.id}")["id"])

    def finish(self, job_id: str) -> None:
        self._ask("POST", f"job-done/{self._worker.id}/{job_id}", {"output": "done"})

    def disconnect(self) -> None:
        """The next request connects anew."""
        self._connection.close()

    def _ask(self, method: str, what: str, value: object = None) -> dict[str, object]:
        body = None if value is None else json.dumps(value)
        headers = {} if what == "run" else self._headers
        self._connection.request(method, f"/v2/deep/{what}", body, headers)
        answer = self._connection.getresponse()
        text = answer.read()
        if answer.status != 200:
            raise RuntimeError(f"{method} {what}: {answer.status} {text!r}")
        found: dict[str, object] = json.loads(text)
        return found


def fill(server: Flash, client: Client, depth: int, folder: Path) -> None:
    """Queue so many jobs: the greater part by many clients, the rest one by one."""
    while (missing := depth - server.health("deep")["jobs"]["inQueue"]) > 0:
        if missing > 5_000:
            post(f"{server.address}/v2/deep/run", JOB, 64, 1, folder)
        else:
            client.submit()
    client.disconnect()  # (before the server does, which waits for nobody)


def milliseconds(client: Client) -> float:
    """The mean of some jobs."""
    began = time.perf_counter()
    for _ in range(JOBS):
        client.submit()
        client.finish(client.take())
    return (time.perf_counter() - began) * 1000 / JOBS


def main() -> None:
    with ExitStack() as stack:
        root = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        clients = {}
        for depth in DEPTHS:
            folder = root / str(depth)
            server = stack.enter_context(flash_server(folder, "--log-level", "warning"))
            client = clients[f"{depth:,} jobs wait"] = Client(server)
            began = time.perf_counter()
            fill(server, client, depth, folder)
            waiting = server.health("deep")["jobs"]["inQueue"]
            print(
                f"{waiting:,} jobs queued in {time.perf_counter() - began:.0f} s; the server has"
                f" {server.process.megabytes():.0f} MB"
            )
        for client in clients.values():
            milliseconds(client)  # warm up
        rounds: dict[str, list[float]] = {name: [] for name in clients}
        for _ in range(ROUNDS):
            for name, client in clients.items():
                rounds[name].append(milliseconds(client))
    base = next(iter(rounds))
    report("Submit, take and finish a job: the mean of a round", "ms", rounds, base)


if __name__ == "__main__":
    main()
