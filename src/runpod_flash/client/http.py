"""The backend of a target: calls go to a server's queue API, values and failures as frames.

(JSON carries less than a call does. docs/protocol.md says what stands in the frames.)
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Protocol, TypeVar
from urllib.parse import quote

from runpod_flash.client import terminal
from runpod_flash.client.connection import WAIT_MS, AppGoneError
from runpod_flash.errors import FlashError
from runpod_flash.plane.views import Ended, Snapshot
from runpod_flash.project.entry import module_names
from runpod_flash.wire import failures
from runpod_flash.wire.carried import carrying
from runpod_flash.wire.codec import Payload, payload_of
from runpod_flash.wire.tags import no_room

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Mapping, Sequence
    from concurrent.futures import Future

    from runpod_flash.client.backend import Submission
    from runpod_flash.functions import Target
    from runpod_flash.project.catalog import Discovered
    from runpod_flash.spec import EndpointSpec
    from runpod_flash.wire.frames import Frame
    from runpod_flash.wire.tags import Room

T = TypeVar("T")


class Asking(Protocol):
    """A connection, as far as calls need one."""

    def spawn(self, work: Coroutine[Any, Any, T]) -> Future[T]: ...

    async def ask(self, method: str, path: str, sent: Frame | None = None) -> list[Frame]: ...


class Places(Protocol):
    """Says where endpoints are; brings them where they are not."""

    async def base(self, discovered: Discovered) -> str: ...

    async def again(self) -> None: ...


class HttpBackend:
    """`Backend` for one endpoint of a server."""

    def __init__(self, connection: Asking, app: Places, endpoint: str) -> None:
        self.names = module_names()
        self.room: Room = no_room
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
            running = self._sent[job_id] = self._connection.spawn(self._run(submission, on_end))
            running.add_done_callback(lambda _: self._sent.pop(job_id, None))
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
        if submission.describe is not None and _brought(submission.spec):
            self._base = await self._app.base(submission.describe())

    async def place_of(self, target: Target) -> str:
        """Before which address the endpoint's own are, at the server."""
        found = asyncio.wrap_future(self._connection.spawn(self._app.base(target.discovered())))
        return await found

    @property
    def _path(self) -> str:
        return f"{self._base}/v2/{quote(self._endpoint, safe='')}/"


def _brought(spec: EndpointSpec) -> bool:
    """Whether this program has it; of others only the name is known."""
    return bool(spec.entry.file or spec.entry.by_value or spec.is_image)


def _job(submission: Submission) -> Frame:
    call = submission.call
    fields = {
        "job": submission.job_id,
        "form": call.form,
        "method": call.method,
        "credits": submission.credits,
        **({"webhook": submission.webhook} if submission.webhook else {}),
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
