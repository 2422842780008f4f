"""The worker program alone, on every Python of this machine that it supports, over its frames."""

from __future__ import annotations

import os
import socket
import subprocess
import textwrap
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import runpod_flash
from behaviour.programs import MINORS, interpreters_once
from runpod_flash.spec import Build, EndpointSpec, Entry, Placement
from runpod_flash.wire import failures, frames
from runpod_flash.wire.codec import Payload, decode, encode
from runpod_flash.wire.frames import PROTOCOL, Frame, FrameReader

if TYPE_CHECKING:
    from collections.abc import Iterator

    from runpod_flash.spec import EntryKind

BOOT = Path(runpod_flash.__file__).parent / "worker" / "boot.py"

MODULE = """
import asyncio, os, sys, time

def add(x, y=1):
    print("adding")
    return x + y, sys.version_info[1]

async def slow(name):
    try:
        open(name, "w").close()
        await asyncio.sleep(1000)
    finally:
        open(name + "-ended", "w").close()

async def chunks(n):
    for k in range(n):
        yield k

def fails(letters=0):
    raise LookupError("gone" + "x" * letters)

class Unsayable(Exception):
    def __str__(self):
        sys.exit("no text")

async def fails_again():
    raise Unsayable

class Counter:
    def __init__(self, start=0):
        self.n = start

    def add(self, n):
        self.n += n
        return self.n
"""

# Long ago: nobody is editing it.
LAST_SAVED = 1_000_000_000


class WorkerProcess:
    """A worker of one Python, and this end of its link."""

    def __init__(self, python: str, folder: Path) -> None:
        self._ours, theirs = socket.socketpair()
        self._ours.settimeout(20)
        with theirs:
            fd = theirs.fileno()
            self.process = subprocess.Popen(
                [python, str(BOOT), str(fd), "worker-1", "token"],
                cwd=folder,
                pass_fds=[fd],
                env={},
            )
        self._folder = folder
        self._reader = FrameReader(self._ours)
        self._arrived: list[Frame] = []

    def receive(self, kind: str) -> Frame:
        """The next frame of this type; others on the way must be log lines."""
        while True:
            while not self._arrived:
                arrived = self._reader.read(wait=True)
                assert arrived is not None, "the worker has gone"
                self._arrived = arrived
            frame = self._arrived.pop(0)
            if frame.type == kind:
                return frame
            assert frame.type in ("log", "imported"), frame

    def send(self, kind: str, fields: dict[str, Any], *values: Payload) -> None:
        buffers = tuple(part for value in values for part in (value.body, *value.buffers))
        frames.send_all(self._ours, Frame(kind, fields, buffers))

    def start(self, name: str, kind: EntryKind = "function") -> None:
        hello = self.receive("hello")
        assert hello.fields == {"version": PROTOCOL, "worker": "worker-1", "token": "token"}
        entry = Entry("shop", name, kind, "shop.py", str(self._folder), (".",))
        spec = EndpointSpec(name, entry, Build("code"), Placement(max_concurrency=2))
        self.send("start", {"spec": spec.to_wire(), "caller_env": {}})

    def job(self, job: str, *args: Any, **fields: Any) -> None:
        call = encode({"args": list(args), "kwargs": {}})
        self.send(
            "job", {"job": job, "attempt": 1, "form": "call", "trusted": True, **fields}, call
        )

    def result(self) -> Any:
        frame = self.receive("result")
        return decode(Payload(bytes(frame.buffers[0]), frame.buffers[1:]), trusted=True)

    def close(self) -> None:
        self._ours.close()
        try:
            self.process.wait(5)
        finally:
            self.process.kill()
            self.process.wait()


@pytest.fixture(params=MINORS)
def worker(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[WorkerProcess]:
    python = interpreters_once().get(request.param)
    if python is None:
        pytest.skip(f"no Python {request.param} on this machine")
    (tmp_path / "shop.py").write_text(textwrap.dedent(MODULE))
    os.utime(tmp_path / "shop.py", (LAST_SAVED, LAST_SAVED))
    made = WorkerProcess(python, tmp_path)
    try:
        yield made
    finally:
        made.close()


def test_a_worker_runs_jobs_until_it_is_told_to_stop(worker: WorkerProcess) -> None:
    worker.start("add")
    worker.receive("ready")
    worker.job("one", 1)
    log = worker.receive("log")
    assert log.fields == {"stream": "stdout", "text": "adding", "job": "one"}
    assert worker.result()[0] == 2
    worker.send(
        "job",
        {"job": "two", "attempt": 3, "form": "input", "trusted": False},
        encode({"x": 3, "y": 4}),
    )
    frame = worker.receive("result")
    assert (frame.fields["job"], frame.fields["attempt"]) == ("two", 3)
    worker.send("stop", {})
    assert worker.process.wait(5) == 0


def test_a_worker_ends_when_the_plane_is_gone(worker: WorkerProcess, tmp_path: Path) -> None:
    worker.start("slow")
    worker.receive("ready")
    worker.job("one", str(tmp_path / "begun"))
    worker.close()
    assert worker.process.returncode == 0


def test_a_worker_streams_within_its_credits(worker: WorkerProcess) -> None:
    worker.start("chunks", "generator")
    worker.receive("ready")
    worker.job("one", 5, credits=2)
    assert [worker.receive("chunk").fields["index"] for _ in range(2)] == [0, 1]
    worker.send("credit", {"job": "one", "attempt": 1, "chunks": 2})
    assert [worker.receive("chunk").fields["index"] for _ in range(2)] == [2, 3]
    worker.send("credit", {"job": "one", "attempt": 1, "chunks": 2})
    assert worker.receive("chunk").fields["index"] == 4
    assert worker.result() is None


def test_a_worker_reports_exceptions_and_failed_imports(worker: WorkerProcess) -> None:
    worker.start("fails")
    worker.receive("ready")
    worker.job("one")
    failure = failures.from_wire(worker.receive("failed").fields["failure"])
    assert (failure.type_name, failure.message) == ("LookupError", "gone")
    assert "shop.py" in failure.traceback
    assert "runpod_flash" not in failure.traceback


def test_a_worker_reports_exceptions_whose_text_is_long(worker: WorkerProcess) -> None:
    worker.start("fails")
    worker.receive("ready")
    worker.job("one", 9_000_000)
    failure = failures.from_wire(worker.receive("failed").fields["failure"])
    assert failure.type_name == "LookupError" and len(failure.message) < 1_000_000


def test_a_worker_answers_for_an_exception_that_cannot_be_told(worker: WorkerProcess) -> None:
    worker.start("fails_again")
    worker.receive("ready")
    worker.job("one")
    failure = failures.from_wire(worker.receive("failed").fields["failure"])
    assert "cannot be told (SystemExit)" in failure.message


def test_a_worker_whose_module_lacks_the_function_says_so_and_ends(worker: WorkerProcess) -> None:
    worker.start("absent")
    failure = failures.from_wire(worker.receive("start_failed").fields["failure"])
    assert failure.qualname == "WorkerStartError"
    assert "shop.py fails with AttributeError" in failure.message
    assert worker.process.wait(5) == 0


def test_a_worker_whose_file_is_being_saved_ends_and_refuses_nothing(
    worker: WorkerProcess, tmp_path: Path
) -> None:
    now = time.time() + 1
    os.utime(tmp_path / "shop.py", (now, now))
    worker.start("absent")
    assert worker.process.wait(5) == 1
    with pytest.raises(AssertionError, match="the worker has gone"):
        worker.receive("start_failed")


def test_a_worker_cancels_what_awaits_and_keeps_its_objects(
    worker: WorkerProcess, tmp_path: Path
) -> None:
    worker.start("slow")
    worker.receive("ready")
    worker.job("one", str(tmp_path / "begun"))
    worker.job("two", str(tmp_path / "other"))
    worker.send("cancel", {"job": "one", "attempt": 2})  # of an attempt that is not here
    worker.send("cancel", {"job": "two", "attempt": 1})
    assert worker.receive("stopped").fields == {"job": "two", "attempt": 1}
    assert (tmp_path / "other-ended").exists() or not (tmp_path / "other").exists()
    assert not (tmp_path / "begun-ended").exists()


def test_a_worker_builds_an_object_once_for_each_set_of_arguments(worker: WorkerProcess) -> None:
    worker.start("Counter", "class")
    worker.receive("ready")
    for job, expected in (("one", 2), ("two", 4)):
        worker.job(job, 2, method="add")
        assert worker.result() == expected
