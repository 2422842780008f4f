"""One run of `flash call`: the job, its lines, its end."""

from __future__ import annotations

import json
import secrets
import shlex
import threading
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import click

from runpod_flash.cli import output
from runpod_flash.cli.log_screen import live
from runpod_flash.client.connection import PATIENCE_SECONDS
from runpod_flash.client.log_reader import LogReader
from runpod_flash.client.remote_job import RemoteJob, submitted
from runpod_flash.errors import ConnectionClosedError, FlashError
from runpod_flash.printable import LINES, printable

if TYPE_CHECKING:
    from runpod_flash.client.control import ControlClient

_BEGIN_SECONDS = 5.0


def submit(server: ControlClient, name: str, given: Any) -> dict[str, Any]:
    """Queue a job; its id and status."""
    return submitted(server, name, given, secrets.token_hex(16))


def look(server: ControlClient, name: str, job_id: str) -> dict[str, Any]:
    """The id and status of a job that was queued before."""
    found = RemoteJob(server, name, job_id).look()
    return {"id": found["id"], "status": found["status"]}


def run(server: ControlClient, name: str, given: Any, stream: bool) -> int:
    """Run a job to its end; the exit code."""
    request_id = secrets.token_hex(16)
    lines = _Lines(server, request_id)
    lines.begin()

    def job(*, patient: bool) -> RemoteJob:
        accepted = submitted(server, name, given, request_id, key=request_id, patient=patient)
        return RemoteJob(server, name, accepted["id"])

    try:
        running = job(patient=True)
    except KeyboardInterrupt:
        # It may run by now: submitted again, it is known which it is.
        return _cancelled(server, name, job(patient=False))
    try:
        return _awaited(server, name, running, stream, lines)
    except KeyboardInterrupt:
        return _cancelled(server, name, running)


def await_job(server: ControlClient, name: str, job_id: str, stream: bool) -> int:
    """Wait for a job that was queued before; the exit code. Ctrl-C leaves the job alone."""
    try:
        return _awaited(server, name, RemoteJob(server, name, job_id), stream, None)
    except KeyboardInterrupt:
        output.error(f"job {job_id} was not waited for: {_later(server, name, job_id)}.")
        return 130


def _awaited(
    server: ControlClient, name: str, job: RemoteJob, stream: bool, lines: _Lines | None
) -> int:
    """Tell the values and the end of a job; the exit code."""
    streamed = False
    try:
        for value in job.outputs():
            if stream:
                click.echo(json.dumps(value))
                streamed = True
        ended = job.look()
    except ConnectionClosedError:
        away = f"{server.origin} has been away for {PATIENCE_SECONDS:g} s"
        output.error(f"{away}: when it is back, {_later(server, name, job.id)}.")
        return 1
    if lines is not None:
        lines.rest()
    # (A generator without values has the output null.)
    return _tell(ended, streamed or (stream and ended.get("output") is None))


def _later(server: ControlClient, name: str, job_id: str) -> str:
    words = ["flash", "call", name, "--job", job_id, "--server", server.origin]
    return f"`{shlex.join(words)}` waits for job {job_id}"


def _cancelled(server: ControlClient, name: str, job: RemoteJob) -> int:
    try:
        job.cancel()
    except ConnectionClosedError:
        later = _later(server, name, job.id)
        output.error(f"{server.origin} is away, and job {job.id} is not cancelled: {later}.")
    else:
        output.error(f"job {job.id} is cancelled.")
    return 130


def _tell(ended: dict[str, Any], told: bool) -> int:
    if ended["status"] == "COMPLETED":
        if not told:
            click.echo(json.dumps(ended.get("output")))
        return 0
    why, traceback = _cause(ended)
    traceback = printable(_without_cause(traceback.rstrip(), why), keep=LINES)
    if traceback:
        click.echo(traceback, err=True)
    output.error(f"job {ended['id']} failed: {why}")
    return 1


def _without_cause(traceback: str, why: str) -> str:
    """The traceback without its end, which is what the error says once more."""
    if not traceback.endswith(why):
        return traceback
    return traceback[: traceback.rfind("\n", 0, len(traceback) - len(why)) + 1].rstrip()


def _cause(ended: dict[str, Any]) -> tuple[str, str]:
    """Why a job failed, and the remote traceback: the queue API has them in one text."""
    text = ended.get("error") or f"it is {ended['status']}"
    with suppress(ValueError, LookupError, TypeError, AttributeError):
        raised = json.loads(text)
        name = raised["error_type"].split("'")[1].rpartition(".")[2]
        return f"{name}: {raised['error_message']}", raised["error_traceback"]
    return text, ended.get("traceback", "")


class _Lines:
    """What the job, and those that it submits, print: live, and to the last line.

    A key that may not read logs gets none; the job runs all the same.
    """

    def __init__(self, server: ControlClient, request_id: str) -> None:
        self._server = server
        self._asked = {"request": request_id, "source": "container", "tail": "5000"}
        self._begun = threading.Event()
        self._lock = threading.Lock()
        self._seen: set[str] = set()
        self._refused = False

    def begin(self) -> None:
        """Follow them from now on."""
        threading.Thread(target=self._follow, daemon=True).start()
        self._begun.wait(_BEGIN_SECONDS)

    def _follow(self) -> None:
        try:
            for line in self._reader().follow(self._begun.set):
                self._show(line)
        except FlashError:
            self._refused = True
            self._begun.set()

    def rest(self) -> None:
        """Those that have not come yet."""
        if not self._refused:
            with suppress(FlashError):
                for line in self._reader().kept():
                    self._show(line)

    def _reader(self) -> LogReader:
        return LogReader(self._server, "/v2/flash/logs", **self._asked)

    def _show(self, line: dict[str, Any]) -> None:
        with self._lock:
            if line["id"] not in self._seen:
                self._seen.add(line["id"])
                click.echo(live(line), err=True)
