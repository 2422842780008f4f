"""What cannot be avoided: an ASGI echo, a hop to a process and back, a commit to the disk.

`python unavoidable.py PORT`, in a folder for its file. Jobs that come back together share a commit.
"""

from __future__ import annotations

import asyncio
import os
import socket
import sqlite3
import sys
from collections import deque
from typing import TYPE_CHECKING, Any

import uvicorn
import uvloop

if TYPE_CHECKING:
    from collections.abc import Callable


def work(theirs: socket.socket) -> None:
    """Be the worker's process: send back what comes."""
    while sent := theirs.recv(65536):
        theirs.sendall(sent)


class Twin:
    def __init__(self, worker: socket.socket) -> None:
        self._worker = worker
        self._waiting: deque[asyncio.Future[bytes]] = deque()
        self._rest = b""
        self._file = sqlite3.connect("jobs.db", isolation_level=None)
        self._file.execute("PRAGMA journal_mode=WAL")
        self._file.execute("PRAGMA synchronous=FULL")
        self._file.execute("CREATE TABLE jobs (id INTEGER PRIMARY KEY, value BLOB, result BLOB)")

    def readable(self) -> None:
        *results, self._rest = (self._rest + self._worker.recv(65536)).split(b"\n")
        self._file.execute("BEGIN")
        rows = [(result, result) for result in results]
        self._file.executemany("INSERT INTO jobs (value, result) VALUES (?, ?)", rows)
        self._file.execute("COMMIT")
        for result in results:
            self._waiting.popleft().set_result(result)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        body = (await receive())["body"]
        done = asyncio.get_running_loop().create_future()
        self._waiting.append(done)
        self._worker.send(body + b"\n")
        result = await done
        headers = [(b"content-length", b"%d" % len(result))]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": result})


async def serve(twin: Any, ours: socket.socket, port: int) -> None:
    asyncio.get_running_loop().add_reader(ours, twin.readable)
    options: dict[str, Any] = {"log_level": "critical", "lifespan": "off"}
    await uvicorn.Server(uvicorn.Config(twin, "127.0.0.1", port, **options)).serve()


def main(
    twin_of: Callable[[socket.socket], Any], be_worker: Callable[[socket.socket], None]
) -> None:
    """Serve a twin, with a worker beside it, on the port that the command line names."""
    ours, theirs = socket.socketpair()
    if not os.fork():
        ours.close()
        be_worker(theirs)
        os._exit(0)
    theirs.close()
    ours.setblocking(False)
    uvloop.run(serve(twin_of(ours), ours, int(sys.argv[1])))


if __name__ == "__main__":
    main(Twin, work)
