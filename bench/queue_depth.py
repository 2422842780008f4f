"""What does a job cost a server whose queue is long, or whose history is?

    scripts/bench queue_depth [waiting] [history]

Two `flash server` take turns: with 100 and with 100,000 jobs in their queues; with an empty store
and with one that holds 1,000,000 ended jobs. A worker of RunPod's protocol submits a job, takes the
oldest and finishes it, over one connection; each of the three answers waits for the disk. Queues
stay as long as they are. The history is one job that has run, copied in the server's file.
"""

from __future__ import annotations

import http.client
import json
import sqlite3
import sys
import tempfile
import time
from contextlib import ExitStack, closing
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import urlsplit

from harness import Result
from load import load
from servers import flash_server

if TYPE_CHECKING:
    from servers import Flash

DEPTHS = (100, 100_000)
HISTORY = 1_000_000
ROUNDS = 15
JOBS = 200
JOB = {"input": {"value": "hello"}}
# Long enough for the history to stay, in minutes.
RETENTION = ("--retention", "10000")
# Copies of a row get ids as the server makes them, and columns as they are.
_IDS = """
CREATE TEMPORARY TABLE copies AS
WITH RECURSIVE counter(number) AS (SELECT 1 UNION ALL SELECT number + 1 FROM counter LIMIT ?)
SELECT number, printf('%s-%s-4%s-a%s-%s', substr(h, 1, 8), substr(h, 9, 4), substr(h, 13, 3),
    substr(h, 16, 3), substr(h, 19, 12)) AS id
FROM (SELECT number, lower(hex(randomblob(16))) AS h FROM counter)
"""
_JOBS = """
INSERT INTO jobs (key, id, number, {columns})
SELECT jobs.key + copies.number, copies.id, jobs.number + copies.number, {columns} FROM copies, jobs
ORDER BY copies.number
"""
_CALLS = "INSERT INTO calls SELECT job + number, value FROM copies, calls ORDER BY number"


class Cost(NamedTuple):
    """Means over some jobs, in milliseconds."""

    submit: float
    job: float


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

    def cost(self) -> Cost:
        submitting = 0.0
        began = time.perf_counter()
        for _ in range(JOBS):
            start = time.perf_counter()
            self.submit()
            submitting += time.perf_counter() - start
            self.finish(self.take())
        whole = time.perf_counter() - began
        return Cost(submitting * 1000 / JOBS, whole * 1000 / JOBS)

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


def fill(server: Flash, client: Client, depth: int) -> None:
    """Queue so many jobs: the greater part by many clients, the rest one by one."""
    while (missing := depth - server.health("deep")["jobs"]["inQueue"]) > 0:
        if missing > 5_000:
            load(f"{server.address}/v2/deep/run", 64, 1, JOB)
        else:
            client.submit()
    client.disconnect()  # (before the server does, which waits for nobody)


def remember(folder: Path, jobs: int) -> str:
    """Make a store in which so many jobs have ended; gives the server's key."""
    with flash_server(folder, *RETENTION) as server:
        client = Client(server)
        client.submit()
        client.finish(client.take())
    (file,) = (folder / "data").glob("*.db")
    with closing(sqlite3.connect(file)) as store, store:
        columns = [name for _, name, *_ in store.execute("PRAGMA table_info(jobs)")]
        same = ", ".join(name for name in columns if name not in ("key", "id", "number"))
        store.execute(_IDS, (jobs - 1,))
        store.execute(_JOBS.format(columns=same))
        store.execute(_CALLS)
        (kept,) = store.execute("SELECT count(*) FROM jobs JOIN calls ON job=key").fetchone()
        assert kept == jobs, kept
    return server.key


def compare(result: Result, servers: dict[str, Flash], clients: dict[str, Client]) -> None:
    rounds: dict[str, list[Cost]] = {name: [] for name in clients}
    for client in clients.values():
        client.cost()  # warm up
    for _ in range(ROUNDS):
        for name, client in clients.items():
            rounds[name].append(client.cost())
    base = next(iter(rounds))
    for title, part in (("Submit a job", 0), ("Submit, take and finish a job", 1)):
        means = {name: [cost[part] for cost in costs] for name, costs in rounds.items()}
        result.compare(f"{title}; means of {JOBS}", "ms", means, base)
    memory = {name: [server.process.megabytes()] for name, server in servers.items()}
    result.compare("The server's memory", "MB", memory, base)


def waiting(result: Result, root: Path, stack: ExitStack) -> None:
    servers, clients = {}, {}
    for depth in DEPTHS:
        name = f"{depth:,} jobs wait"
        server = flash_server(root / str(depth), "--log-level", "warning")
        servers[name] = stack.enter_context(server)
        clients[name] = Client(servers[name])
        fill(servers[name], clients[name], depth)
    compare(result, servers, clients)


def history(result: Result, root: Path, stack: ExitStack) -> None:
    key = remember(root / "full", HISTORY)
    stores = {"an empty store": ("empty", ""), f"{HISTORY:,} jobs have ended": ("full", key)}
    servers, starts = {}, {}
    for name, (folder, known) in stores.items():
        began = time.monotonic()
        servers[name] = stack.enter_context(flash_server(root / folder, *RETENTION, key=known))
        starts[name] = [time.monotonic() - began]
    result.compare("Start of the server", "s", starts, next(iter(starts)))
    compare(result, servers, {name: Client(server) for name, server in servers.items()})


def main() -> None:
    result = Result(__file__, str(__doc__))
    parts = {"waiting": waiting, "history": history}
    for part in sys.argv[1:] or parts:
        with ExitStack() as stack:
            root = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            parts[part](result, root, stack)
    result.save()


if __name__ == "__main__":
    main()
