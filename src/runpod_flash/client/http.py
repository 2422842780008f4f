"""The backend of a target: calls go to a server's queue API, values and failures as frames.

(JSON carries less than a call does. docs/protocol.md says what stands in the frames.)
"""

from __future__ import annotations

import asyncio
import functools
import os
import time
from concurrent import futures
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from runpod_flash.client import ending, terminal
from runpod_flash.client.connection import WAIT_MS, AppGoneError, Connection
from runpod_flash.client.session import ProgramApp, detached
from runpod_flash.errors import FlashError
from runpod_flash.plane.views import Ended, Snapshot
from runpod_flash.project.entry import module_names
from runpod_flash.wire import failures
from runpod_flash.wire.carried import carrying
from runpod_flash.wire.codec import Payload, payload_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from concurrent.futures import Future

    from runpod_flash.client.backend import Submission
    from runpod_flash.client.chosen import Chosen
    from runpod_flash.wire.frames import Frame


# So long may the server take to end this program's app.
_CLOSE_SECONDS = 2.0


class HttpBackend:
    """`Backend` for one endpoint of a server."""

    def __init__(self, connection: Connection, app: ProgramApp, endpoint: str) -> None:
        self.names = module_names()
        self._connection = connection
        self._app = app
        self._endpoint = endpoint
        self._sent: dict[str, Future[None]] = {}
        # Jobs that nobody awaits while they are sent, until their end is known.
        self._left: dict[str, Future[None]] = {}
        self._base = ""

    @property
    def deployed(self) -> bool:
        """Whether it is there without this program."""
        return not self._base.startswith("/s/")

    def left(self) -> list[Future[None]]:
        """For each job that was sent and has not ended, whether it has arrived there."""
        return list(self._left.values())

    # Backend

    def submit(
        self,
        submission: Submission,
        on_end: Callable[[Ended], None] | None = None,
        reader: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        job_id = submission.job_id
        if on_end is not None and reader is not None:
            # Nobody but the caller knows the job: one request submits it and brings its end.
            self._sent[job_id] = self._connection.spawn(self._run(submission, on_end))
            return
        sent = self._connection.spawn(self._accept(submission))
        self._sent[job_id] = self._left[job_id] = sent
        if on_end is not None:
            ended = on_end
            self.wait(job_id, lambda end: ended(end or Ended("UNKNOWN")))

    def wait(self, job_id: str, on_end: Callable[[Ended | None], None]) -> None:
        self._connection.spawn(self._wait(job_id, on_end))

    def chunks(
        self, job_id: str, start: int, on_chunks: Callable[[Sequence[Payload], Ended | None], None]
    ) -> None:
        self._connection.spawn(self._chunks(job_id, start, on_chunks))

    def look(self, job_id: str, on_look: Callable[[Snapshot | Exception | None], None]) -> None:
        self._connection.spawn(self._look(job_id, on_look))

    def cancel(self, job_id: str) -> None:
        self._left.pop(job_id, None)
        self._connection.spawn(self._cancel(job_id))

    def forget(self, job_id: str) -> None:
        self._sent.pop(job_id, None)
        self._left.pop(job_id, None)

    # On the connection's thread

    async def _run(self, submission: Submission, on_end: Callable[[Ended], None]) -> None:
        try:
            await self._find_place(submission)
            job = _job(submission)
            end = _ended(await self._ask("POST", f"runsync?wait={WAIT_MS}", job))
        except Exception as error:  # whoever waits must hear of it
            end = _failed(error)
        if end is not None:
            on_end(end)
        else:
            job_id = submission.job_id
            self._sent.pop(job_id, None)
            await self._wait(job_id, lambda ended: on_end(ended or Ended("UNKNOWN")))

    async def _accept(self, submission: Submission) -> None:
        await self._find_place(submission)
        await self._ask("POST", "run", _job(submission))

    async def _wait(self, job_id: str, on_end: Callable[[Ended | None], None]) -> None:
        end: Ended | None = None
        try:
            await self._is_sent(job_id)
            while end is None:
                answer = await self._ask("GET", f"status/{job_id}?wait={WAIT_MS}")
                if not answer.fields.get("state"):
                    break
                end = _ended(answer)
        except Exception as error:  # whoever waits must hear of it
            end = _failed(error)
        self._left.pop(job_id, None)
        on_end(end)

    async def _chunks(
        self,
        job_id: str,
        start: int,
        on_chunks: Callable[[Sequence[Payload], Ended | None], None],
    ) -> None:
        found: list[Payload] = []
        end: Ended | None = None
        try:
            await self._is_sent(job_id)
            while not found and end is None:
                path = f"{self._path}stream/{job_id}?start={start}"
                *arrived, last = await self._connection.ask("GET", path)
                found = [p for frame in arrived if (p := payload_of(frame.buffers)) is not None]
                end = _ended(last) if last.fields.get("state") else Ended("UNKNOWN")
        except Exception as error:  # whoever waits must hear of it
            end = _failed(error)
        on_chunks(found, end)

    async def _look(
        self, job_id: str, on_look: Callable[[Snapshot | Exception | None], None]
    ) -> None:
        try:
            await self._is_sent(job_id)
            fields = (answer := await self._ask("GET", f"status/{job_id}")).fields
        except Exception as error:
            on_look(error)
            return
        kept = {name: fields[name] for name in Snapshot._fields if name in fields}
        known = bool(fields.get("state"))
        on_look(Snapshot(**{**kept, "ended": _ended(answer)}) if known else None)

    async def _cancel(self, job_id: str) -> None:
        try:
            while True:
                sent = self._sent.get(job_id)
                over = sent is None or sent.done()
                answer = await self._ask("POST", f"cancel/{job_id}")
                if answer.fields.get("state") or over:
                    return
                await asyncio.sleep(0.02)  # it has overtaken the job
        except FlashError as error:
            terminal.say(str(error), self._endpoint)

    async def _is_sent(self, job_id: str) -> None:
        """Wait until the server has accepted a job of this program; raises why it has not."""
        sent = self._sent.get(job_id)
        if sent is not None:
            await asyncio.wrap_future(sent)

    async def _ask(self, method: str, path: str, sent: Frame | None = None) -> Frame:
        try:
            *_, last = await self._connection.ask(method, f"{self._path}{path}", sent)
        except AppGoneError:
            # The server was started anew: its jobs are there, and wait for their code.
            await self._app.again()
            *_, last = await self._connection.ask(method, f"{self._path}{path}", sent)
        return last

    async def _find_place(self, submission: Submission) -> None:
        """Where the endpoint is: deployed, or in the app that this program brings along."""
        entry = submission.spec.entry
        if submission.describe is not None and (entry.file or entry.by_value):
            self._base = await self._app.base(submission.describe())

    @property
    def _path(self) -> str:
        return f"{self._base}/v2/{self._endpoint}/"


class Target:
    """A server that this program calls: its app there, and a backend for each endpoint."""

    def __init__(self, chosen: Chosen) -> None:
        self._connection = Connection(chosen.address, named_by=chosen.by)
        self._app = ProgramApp(self._connection)
        self._backends: dict[str, HttpBackend] = {}

    def backend(self, endpoint: str) -> HttpBackend:
        if endpoint not in self._backends:
            self._backends[endpoint] = HttpBackend(self._connection, self._app, endpoint)
        return self._backends[endpoint]

    def finish(self) -> None:
        """Send what is on its way, say in one line what is left, and end this program's app."""
        with suppress(KeyboardInterrupt):
            if not ending.interrupted():
                self._settle()
        self._say_what_is_left()
        with suppress(Exception):  # the server finds it out by itself
            self._connection.spawn(self._app.end()).result(_CLOSE_SECONDS)

    def abandon(self) -> None:
        """In a forked child: let go of what is the parent's."""
        self._connection.abandon()

    def _settle(self) -> None:
        """Wait until all jobs have been sent, and a moment for those that have just ended."""
        sent = [each for backend in self._backends.values() for each in backend.left()]
        futures.wait(sent)
        for text in {str(error): None for each in sent if (error := each.exception())}:
            terminal.say(f"a job was not sent: {text}")
        until = time.monotonic() + ending.SETTLE_SECONDS
        while self._count(None) and time.monotonic() < until:
            time.sleep(0.01)

    def _count(self, deployed: bool | None) -> int:
        """How many jobs have not ended, of the endpoints that are there without us, or not."""
        asked = [b for b in self._backends.values() if deployed in (None, b.deployed)]
        return sum(len(backend.left()) for backend in asked)

    def _say_what_is_left(self) -> None:
        own, others = self._count(deployed=False), self._count(deployed=True)
        if detached():
            own, others = 0, own + others
        if others:
            text = f"{ending.jobs(others)} not waited for: {self._connection.origin} goes on"
            terminal.say(text)
        if own:
            terminal.say(
                f"cancelled {ending.jobs(own)} not waited for: this program's app at "
                f"{self._connection.origin} ends with it; FLASH_DETACH=1 keeps the app until its "
                "jobs have ended"
            )


_targets: dict[str, Target] = {}


def backend_at(chosen: Chosen, endpoint: str) -> HttpBackend:
    """The backend of an endpoint at a server, made on first use; a forked child makes its own."""
    if chosen.address not in _targets:
        target = Target(chosen)
        _hook_once()
        _targets[chosen.address] = target
    return _targets[chosen.address].backend(endpoint)


@functools.cache
def _hook_once() -> None:
    os.register_at_fork(after_in_child=_abandon_all)
    ending.at_thread_shutdown(_finish_all)


def _finish_all() -> None:
    for target in _targets.values():
        target.finish()


def _abandon_all() -> None:
    for target in _targets.values():
        target.abandon()
    _targets.clear()


def _job(submission: Submission) -> Frame:
    call = submission.call
    fields = {
        "job": submission.job_id,
        "form": call.form,
        "method": call.method,
        "credits": submission.credits,
    }
    return carrying("job", fields, call.payload, call.constructor)


def _failed(error: Exception) -> Ended:
    return Ended("FAILED", failure=failures.capture(error, origin="system"))


def _ended(frame: Frame) -> Ended | None:
    """How the job ended, if it has."""
    fields: Mapping[str, Any] = frame.fields
    if not fields.get("ended"):
        return None
    failure = fields.get("failure")
    restored = failures.from_wire(failure) if failure else None
    return Ended(fields["state"], payload_of(frame.buffers), restored)
