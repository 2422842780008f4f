"""The queue API's `runsync` by hand, with nothing beside it, as `unavoidable` but with the job.

`python by_hand.py PORT`, in a folder for its file. It reads and writes JSON, gives a job an id, has
a worker with an event loop run an async function, keeps what became of the job, and answers so.
"""

from __future__ import annotations

import asyncio
import json
import sqlite3
import time
import uuid
from typing import TYPE_CHECKING, Any, NamedTuple

from unavoidable import main

if TYPE_CHECKING:
    import socket


async def echo(value: Any) -> Any:
    return value


def work(theirs: socket.socket) -> None:
    """Be the worker's process: run what comes."""

    async def run(job: dict[str, Any]) -> None:
        result = {"job": job["job"], "output": await echo(**job["input"])}
        theirs.sendall(json.dumps(result).encode() + b"\n")

    async def serve() -> None:
        loop, ended = asyncio.get_running_loop(), asyncio.Event()
        tasks = set()

        def readable() -> None:
            sent = theirs.recv(65536)
            if not sent:
                ended.set()
            for line in sent.splitlines():
                task = loop.create_task(run(json.loads(line)))
                tasks.add(task)
                task.add_done_callback(tasks.discard)

        loop.add_reader(theirs, readable)
        await ended.wait()

    asyncio.run(serve())


class Waiting(NamedTuple):
    began: float
    call: bytes
    done: asyncio.Future[tuple[Any, float]]


_TABLE = (
    "CREATE TABLE jobs (key INTEGER PRIMARY KEY, id TEXT, endpoint TEXT, state TEXT,"
    " created_at REAL, finished_at REAL, outcome BLOB, call BLOB)"
)
_INSERT = (
    "INSERT INTO jobs (id, endpoint, state, created_at, finished_at, outcome, call)"
    " VALUES (?,?,?,?,?,?,?)"
)


class ByHand:
    def __init__(self, worker: socket.socket) -> None:
        self._worker = worker
        self._waiting: dict[str, Waiting] = {}
        self._rest = b""
        self._file = sqlite3.connect("jobs.db", isolation_level=None)
        for statement in ("PRAGMA journal_mode=WAL", "PRAGMA synchronous=FULL", _TABLE):
            self._file.execute(statement)

    def readable(self) -> None:
        *lines, self._rest = (self._rest + self._worker.recv(65536)).split(b"\n")
        results = [json.loads(line) for line in lines]
        jobs = [(self._waiting.pop(each["job"]), each, time.time()) for each in results]
        rows = [
            (each["job"], "echo", "COMPLETED", job.began, end, json.dumps(each["output"]), job.call)
            for job, each, end in jobs
        ]
        self._file.execute("BEGIN IMMEDIATE")
        self._file.executemany(_INSERT, rows)
        self._file.execute("COMMIT")
        for job, each, end in jobs:
            job.done.set_result((each["output"], end))

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        _, version, endpoint, verb = scope["path"].split("/")
        assert (scope["method"], version, endpoint, verb) == ("POST", "v2", "echo", "runsync")
        value = json.loads((await receive())["body"])["input"]
        job_id, began = f"sync-{uuid.uuid4()}", time.time()
        done = asyncio.get_running_loop().create_future()
        self._waiting[job_id] = Waiting(began, json.dumps(value).encode(), done)
        self._worker.send(json.dumps({"job": job_id, "input": value}).encode() + b"\n")
        output, end = await done
        said = {
            "id": job_id,
            "status": "COMPLETED",
            "delayTime": 0,
            "executionTime": round((end - began) * 1000),
            "workerId": "echo",
            "output": output,
        }
        body = json.dumps(said).encode()
        headers = [
            (b"content-type", b"application/json"),
            (b"content-length", b"%d" % len(body)),
        ]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})


if __name__ == "__main__":
    main(ByHand, work)
