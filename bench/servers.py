"""Servers in processes of their own: started, asked, and ended with the benchmark."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, NamedTuple
from urllib.request import Request, urlopen

import psutil

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

# The command line, for `python -c`.
FLASH = "from runpod_flash.cli.main import main; main()"
_PATIENCE_SECONDS = 180.0


class Server:
    """A program that runs; what it writes is in `log`."""

    def __init__(self, process: subprocess.Popen[bytes], log: Path) -> None:
        self.log = log
        self._process = process

    def seen(self, pattern: str) -> str:
        """The first text like that which it writes; raises `RuntimeError` if none comes."""
        deadline = time.monotonic() + _PATIENCE_SECONDS
        while not (found := re.search(pattern, self.log.read_text())):
            self._check(deadline, f"wrote no {pattern!r}")
            time.sleep(0.005)
        return found[found.lastindex or 0]

    def answers(self, url: str, value: object = None) -> None:
        """Wait until it answers there; raises `RuntimeError` if it does not."""
        deadline = time.monotonic() + _PATIENCE_SECONDS
        while True:
            try:
                ask(url, value)
            except OSError:
                self._check(deadline, f"did not answer at {url}")
                time.sleep(0.05)
            else:
                return

    def _check(self, deadline: float, failed: str) -> None:
        if self._process.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError(f"{self._process.args!r} {failed}:\n{self.log.read_text()}")

    def megabytes(self) -> float:
        """The resident memory of the program itself, without the processes that it started."""
        return float(psutil.Process(self._process.pid).memory_info().rss / 1e6)


@contextmanager
def running(
    command: Sequence[str], folder: Path, env: dict[str, str] | None = None
) -> Iterator[Server]:
    """The program, in that folder, until the block ends; then it is interrupted,
    and what it has left of its process group killed."""
    log = folder / f"log-{time.monotonic_ns()}.txt"
    with log.open("w") as written:
        process = subprocess.Popen(
            command,
            cwd=folder,
            env={**os.environ, "PYTHONUNBUFFERED": "1", **(env or {})},
            stdout=written,
            stderr=written,
            start_new_session=True,
        )
    try:
        yield Server(process, log)
    finally:
        process.send_signal(signal.SIGINT)
        with suppress(subprocess.TimeoutExpired):
            process.wait(20)
        with suppress(ProcessLookupError):  # (some leave helpers behind)
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


class Flash:
    """A `flash server` that runs: its `address`, and its admin `key` (a first start prints it)."""

    def __init__(self, process: Server, key: str = "") -> None:
        self.process = process
        self.address = process.seen(r"http://[^/\s]+:\d+")
        self.key = key or process.seen(r"flash_\S+")

    def add_worker(self, endpoint: str) -> Worker:
        """A worker of RunPod's protocol that may serve the endpoint, which is made for it."""
        url = f"{self.address}/v2/serverless/{endpoint}/workers"
        made = json.loads(ask(url, {"external": True}, self.key))
        return Worker(endpoint, made["id"], made["token"])

    def health(self, endpoint: str) -> dict[str, dict[str, int]]:
        """The endpoint's counters of jobs and workers."""
        found: dict[str, dict[str, int]] = json.loads(ask(f"{self.address}/v2/{endpoint}/health"))
        return found


class Worker(NamedTuple):
    """Who may ask for an endpoint's jobs."""

    endpoint: str
    id: str
    token: str


@contextmanager
def flash_server(folder: Path, *options: str, key: str = "") -> Iterator[Flash]:
    """A `flash server` with a store of its own below the folder; `key` is its key if it has one."""
    folder.mkdir(exist_ok=True)
    where = ("--port", "0", "--data-dir", str(folder / "data"))
    command = [sys.executable, "-c", FLASH, "server", *where, *options]
    env = {"XDG_STATE_HOME": str(folder)}  # (where its key is kept)
    with running(command, folder, env) as process:
        yield Flash(process, key)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def ask(url: str, value: object = None, key: str = "") -> str:
    """The text of an answer; a value is sent as JSON in a POST."""
    headers = {"Content-Type": "application/json"}
    if key:
        headers["Authorization"] = f"Bearer {key}"
    body = None if value is None else json.dumps(value).encode()
    with urlopen(Request(url, body, headers), timeout=60) as answer:
        return str(answer.read().decode())
