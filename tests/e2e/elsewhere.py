"""Workers on "another machine": `flash worker run` with a home and a directory of its own."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, NamedTuple

import httpx
import psutil

from behaviour.programs import LEFT_SECONDS, Programs, processes_of
from runpod_flash.control.worker_tokens import worker_of
from unit.command_line import MAIN

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from behaviour.servers import Target

_PATIENCE_SECONDS = 60.0


def until(found: Callable[[], Any], about: Callable[[], str] = str) -> Any:
    """Wait for something true, and give it."""
    end = time.monotonic() + _PATIENCE_SECONDS
    while not (got := found()):
        assert time.monotonic() < end, about()
        time.sleep(0.02)
    return got


class Machine(NamedTuple):
    """A server by its address, and its owner's key."""

    address: str
    key: str


class Elsewhere:
    """Another machine, whose workers serve a target's endpoints."""

    def __init__(self, folder: Path, cache: Path, target: Target | Machine) -> None:
        folder.mkdir(exist_ok=True)
        self._target = target
        self._machine = Programs(folder, cache)
        self._folder = folder

    def ask(self, method: str, path: str, value: Any = None) -> httpx.Response:
        """What the server's owner is answered."""
        owner = {"authorization": f"Bearer {self._target.key}"}
        return httpx.request(
            method, f"{self._target.address}{path}", json=value, headers=owner, timeout=60
        )

    def token(self, endpoint: str) -> dict[str, str]:
        """A new worker's `id` and `token`."""
        made = self.ask("POST", f"/v2/serverless/{endpoint}/workers", {})
        assert made.status_code == 201, made.text
        return dict(made.json())

    def start(
        self, endpoint: str, *options: str, token: str = "", env: Mapping[str, str] | None = None
    ) -> RunningWorker:
        """`flash worker run`, with a token of its own if none is given."""
        token = token or self.token(endpoint)["token"]
        home = self._machine.new_home()
        log = home / "log.txt"
        with log.open("w") as written:
            process = subprocess.Popen(
                [sys.executable, "-c", MAIN, "worker", "run", endpoint, *options],
                cwd=home,
                env={
                    **self._machine.environ(home),
                    "XDG_CACHE_HOME": str(home / "cache"),
                    "NO_COLOR": "1",
                    "FLASH_WORKER_SERVER": self._target.address,
                    "FLASH_WORKER_TOKEN": token,
                    **(env or {}),
                },
                stdin=subprocess.DEVNULL,
                stdout=written,
                stderr=subprocess.STDOUT,
            )
        return RunningWorker(worker_of(token), process, home, log)

    @contextmanager
    def worker(self, endpoint: str, *options: str, token: str = "") -> Iterator[RunningWorker]:
        """A worker that runs until the block is left; nothing of it may be left then."""
        running = self.start(endpoint, *options, token=token)
        try:
            running.wait_for("serves http")
            yield running
        finally:
            running.kill()
            # Else a later job may be given to it, and lose an attempt, before its end is noticed.
            until(lambda: running.id not in self.workers(), lambda: f"{running.id} is still known")

    def workers(self) -> set[str]:
        """The ids of all workers that the server has."""
        endpoints = self.ask("GET", "/v2/flash/overview").json()["endpoints"]
        return {worker["id"] for each in endpoints for worker in each["workers"]}

    # Jobs

    def run(self, endpoint: str, **given: Any) -> str:
        """The id of a new job."""
        answer = self.ask("POST", f"/v2/{endpoint}/run", {"input": given})
        assert answer.status_code == 200, answer.text
        return str(answer.json()["id"])

    def end(self, endpoint: str, job_id: str) -> dict[str, Any]:
        """The job object of a job that has ended."""

        def ended() -> Any:
            found = self.ask("GET", f"/v2/{endpoint}/status/{job_id}").json()
            return found if found["status"] not in ("IN_QUEUE", "IN_PROGRESS") else None

        return dict(until(ended, lambda: f"job {job_id} has not ended"))

    def call(self, endpoint: str, **given: Any) -> Any:
        """The output of a job."""
        found = self.end(endpoint, self.run(endpoint, **given))
        assert found["status"] == "COMPLETED", found
        return found["output"]


class RunningWorker:
    """A `flash worker run` process, its home, and what it prints."""

    def __init__(self, id: str, process: subprocess.Popen[bytes], home: Path, log: Path) -> None:
        self.id = id
        self.process = process
        self.home = home
        self._log = log

    @property
    def said(self) -> str:
        return self._log.read_text(errors="replace")

    def wait_for(self, text: str, count: int = 1) -> None:
        """Wait until it has said that so often."""
        until(lambda: self.said.count(text) >= count or self.process.poll() is not None)
        assert self.said.count(text) >= count, self.said

    def interrupt(self) -> None:
        self.process.send_signal(signal.SIGINT)

    def exit_code(self) -> int:
        """Its exit code, waited for; nothing that it started is left then."""
        code = self.process.wait(_PATIENCE_SECONDS)
        self._left()
        return code

    def workers(self) -> list[psutil.Process]:
        """The processes that hold user code."""
        found = []
        for process in processes_of(self.home):
            with suppress(psutil.Error):
                if any(word.endswith("boot.py") for word in process.cmdline()):
                    found.append(process)
        return found

    def kill(self) -> None:
        """What `kill -9` does."""
        self.process.kill()
        self.process.wait()
        self._left()

    def _left(self) -> None:
        end = time.monotonic() + LEFT_SECONDS
        while (left := list(processes_of(self.home))) and time.monotonic() < end:
            time.sleep(0.02)
        assert not left, f"left behind: {left}\n{self.said}"
