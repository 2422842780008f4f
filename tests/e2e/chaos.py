"""A server that is killed while clients submit jobs: what it has promised must hold."""

from __future__ import annotations

import random
import socket
import threading
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import httpx
import psutil

from e2e.dev_server import DevServer
from integration.served import write

if TYPE_CHECKING:
    from pathlib import Path

_CLIENTS = 6
_FINAL = ("COMPLETED", "FAILED", "CANCELLED", "TIMED_OUT")
# A job notes that it runs, so that those that run again are counted. Its worker's death is no
# fault of it: it may die as often as it is killed here.
APP = """
    import time

    from runpod_flash import Endpoint

    @Endpoint(name="work", cpu="cpu3c-1-2", workers=(1, 3), scaler_value=0.1, max_attempts=20)
    def work(n: int, ran: str, seconds: float) -> int:
        with open(ran, "a") as file:
            file.write(f"{n}\\n")
        time.sleep(seconds)
        return 7 * n
"""


@dataclass
class Chaos:
    """Jobs of so many seconds, and the server that is killed meanwhile. `accepted` are the answers
    of 200, by their number; `seen` the results that a client has had in its hands, by the job's id;
    `killed` counts workers."""

    folder: Path
    jobs: int
    seconds: float = 0.0
    random: random.Random = field(default_factory=lambda: random.Random(4))
    accepted: dict[int, str] = field(default_factory=dict)
    seen: dict[str, Any] = field(default_factory=dict)
    killed: int = 0

    def __post_init__(self) -> None:
        write(self.folder / "project", {"app.py": APP})
        self._port = _free_port()
        self._next = iter(range(self.jobs))
        self._lock = threading.Lock()
        self._ran = self.folder / "ran.txt"
        self._begun_at_kill = 0
        self.server = self.start()

    # The server

    def start(self) -> DevServer:
        options = ("--app", str(self.folder / "project"), "--data-dir", str(self.folder / "data"))
        home = {"HOME": str(self.folder), "XDG_STATE_HOME": str(self.folder / "state")}
        more = ("--port", str(self._port), "--retention", "600", "--log-level", "warning")
        shared = ("--isolation", "none")  # jobs say in a file here that they have run
        server = DevServer(self.folder / "project", (*options, *more, *shared), "server", home)
        until = time.monotonic() + 60
        while not self._answers():
            assert time.monotonic() < until, server.screen
            time.sleep(0.02)
        return server

    def _answers(self) -> bool:
        with suppress(httpx.TransportError):
            return httpx.get(f"{self._address}/readyz", timeout=5).status_code == 200
        return False

    @property
    def _address(self) -> str:
        return f"http://localhost:{self._port}"

    def kill_server(self) -> None:
        """As a power cut would end it, and start it again."""
        self.server.kill()
        self.server = self.start()

    def kill_worker(self) -> None:
        """One at random, once a job has run since the last kill.

        (An endpoint none of whose workers comes as far as a job, three times in a row, fails.)
        """
        until = time.monotonic() + 30
        while True:
            assert time.monotonic() < until, self.server.screen
            if self._begun() <= self._begun_at_kill:
                time.sleep(0.01)
                continue
            workers = [c for c in self.server.children() if "boot.py" in " ".join(_command(c))]
            with suppress(psutil.Error, IndexError):
                self.random.choice(workers).kill()
                self.killed += 1
                self._begun_at_kill = self._begun()
                return
            time.sleep(0.01)

    def _begun(self) -> int:
        """How often a job has begun to run."""
        return self._ran.read_bytes().count(b"\n") if self._ran.exists() else 0

    # The clients

    def submit_all(self, kills: int, kill: Any) -> None:
        """Submit every job from several threads, and kill at random moments meanwhile."""
        clients = [threading.Thread(target=self._submit) for _ in range(_CLIENTS)]
        for client in clients:
            client.start()
        marks = sorted(self.random.randrange(self.jobs // 20, self.jobs) for _ in range(kills))
        for mark in marks:
            while len(self.accepted) < mark and any(client.is_alive() for client in clients):
                time.sleep(0.005)
            kill()
        for client in clients:
            client.join()

    def _submit(self) -> None:
        with httpx.Client(base_url=self._address, timeout=30) as http:
            while True:
                with self._lock:
                    number = next(self._next, None)
                if number is None:
                    return
                self._submit_one(http, number)

    def _submit_one(self, http: httpx.Client, number: int) -> None:
        """Until it is accepted: a client that has no answer asks again, by the same key."""
        body = {"input": {"n": number, "ran": str(self._ran), "seconds": self.seconds}}
        headers = {"idempotency-key": f"job-{number}"}
        while True:
            with suppress(httpx.TransportError):
                answer = http.post("/v2/work/run", json=body, headers=headers)
                if answer.status_code == 200:
                    self.accepted[number] = answer.json()["id"]
                    break
                assert answer.status_code == 503, answer.text
            time.sleep(0.05)
        if number % 10 == 0:
            self._look(http, self.accepted[number])

    def _look(self, http: httpx.Client, job_id: str) -> str:
        """Its state; a result that was seen once must never be another one."""
        try:
            answer = http.get(f"/v2/work/status/{job_id}")
        except httpx.TransportError:
            return ""
        if answer.status_code == 503:
            return ""
        assert answer.status_code == 200, answer.text
        found = answer.json()
        if found["status"] in _FINAL:
            result = (found["status"], found.get("output"), found.get("error"))
            assert self.seen.setdefault(job_id, result) == result
        elif job_id in self.seen:
            raise AssertionError(f"{job_id} had {self.seen[job_id]} and is {found['status']} now")
        return str(found["status"])

    # What must be true in the end

    def check(self) -> int:
        """Every accepted job is COMPLETED with its result, exactly once; how many ran again."""
        assert len(self.accepted) == self.jobs
        assert len(set(self.accepted.values())) == self.jobs
        with httpx.Client(base_url=self._address, timeout=30) as http:
            for number, job_id in self.accepted.items():
                until = time.monotonic() + 120
                while self._look(http, job_id) not in _FINAL:
                    assert time.monotonic() < until, f"{job_id} has not ended"
                    time.sleep(0.05)
                assert self.seen[job_id] == ("COMPLETED", 7 * number, None)
        ran = Counter(self._ran.read_text().split())
        assert set(ran) == {str(number) for number in range(self.jobs)}
        return sum(ran.values()) - len(ran)


def _free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def _command(process: psutil.Process) -> list[str]:
    with suppress(psutil.Error):
        return process.cmdline()
    return []
