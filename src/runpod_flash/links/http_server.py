"""The link to a worker that is an HTTP server: a container of vLLM, ComfyUI or the like.

Requests and WebSockets are passed on to its port. Jobs become requests of OpenAI's API, as the
queue API and workers for it have them.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, unquote

import httpx

from runpod_flash.errors import JobError
from runpod_flash.links.base import Part
from runpod_flash.links.http_proxy import Proxy
from runpod_flash.links.openai_jobs import asked_by, events_of
from runpod_flash.wire.codec import decode, encode
from runpod_flash.wire.failures import capture
from runpod_flash.wire.frames import Frame
from runpod_flash.worker.exchanges import ExchangeRunner

if TYPE_CHECKING:
    from collections.abc import Mapping

    from runpod_flash.links.base import JobRef, LinkEvents
    from runpod_flash.links.http_proxy import Receive, Scope, Send
    from runpod_flash.plane.store.base import Job
    from runpod_flash.spec import EndpointSpec
    from runpod_flash.wire.codec import Payload

# When a worker ends, its exit is heard of a little later than its connections break.
_EXIT_SECONDS = 1.0


class HttpServerLink:
    """`WorkerLink` to the server at `base`; all here is on the plane's loop but `run`, `cancel`."""

    def __init__(self, worker_id: str, base: str) -> None:
        self.worker_id = worker_id
        self._base = base
        self._loop = asyncio.get_running_loop()
        self._home_thread = threading.get_ident()
        self._proxy = Proxy(f"the worker {worker_id}", _EXIT_SECONDS, plain=True)
        self._exchanges = ExchangeRunner(self, self._answer, None, self, _nothing)
        self._jobs: dict[JobRef, asyncio.Task[None]] = {}
        self._closing: asyncio.Task[None] | None = None

    # For the plane

    def open(self, events: LinkEvents, spec: EndpointSpec, caller_env: Mapping[str, str]) -> None:
        self._events = events
        events.ready()

    def run(self, job: Job, *, trusted: bool) -> None:
        self._at_home(self._begin, job)

    def cancel(self, ref: JobRef) -> None:
        self._at_home(self._cancel, ref)

    def exchange(self, part: Part) -> None:
        fields = {"exchange": part.exchange, **part.fields}
        self._exchanges.handle(Frame(f"asgi_{part.kind}", fields, (part.data,)))

    def lend(self, loop: asyncio.AbstractEventLoop) -> None:
        """There is nothing to read."""

    def grant(self, ref: JobRef, chunks: int) -> None:
        """These streams are not held back."""

    def answer(self, call_id: int, fields: Mapping[str, Any], payload: Payload | None) -> None:
        """It asks nothing of the plane."""

    def stop(self) -> None:
        """Its engine stops it."""

    def drain(self) -> None:
        """Nothing is on its way but in requests."""

    def close(self) -> None:
        for task in self._jobs.values():
            task.cancel()
        if self._closing is None:
            self._closing = self._loop.create_task(self._proxy.close())

    def _at_home(self, work: Any, argument: Any) -> None:
        if threading.get_ident() == self._home_thread:
            work(argument)
        else:
            self._loop.call_soon_threadsafe(work, argument)

    # Requests (as the wire and the output of an `ExchangeRunner`)

    def send(self, *frames: Frame) -> None:
        for frame in frames:
            fields = dict(frame.fields)
            data = frame.buffers[0] if frame.buffers else b""
            exchange, kind = fields.pop("exchange"), frame.type.removeprefix("asgi_")
            self._events.exchange(Part(exchange, kind, fields, data))

    def end_job(self, job_id: str) -> None:
        """What it writes belongs to no request."""

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        where = f"{self._base}{_target(scope)}", scope["headers"]
        if scope["type"] == "websocket":
            await self._proxy.web_socket(*where, scope, receive, send)
            return
        # (An error within the response: that it is not whole says enough.)
        with contextlib.suppress(httpx.HTTPError):
            await self._proxy.http(*where, scope, receive, send)

    # Jobs

    def _begin(self, job: Job) -> None:
        self._jobs[job.ref] = self._loop.create_task(self._run(job))

    def _cancel(self, ref: JobRef) -> None:
        task = self._jobs.pop(ref, None)
        if task is not None:
            task.cancel()
            self._events.stopped(ref)

    async def _run(self, job: Job) -> None:
        try:
            result = encode(await self._ask(job))
        except Exception as error:  # whichever it is: a job that nobody ends would keep its slot
            if isinstance(error, httpx.HTTPError):
                await asyncio.sleep(_EXIT_SECONDS)
                text = f"the worker {self.worker_id} did not answer: {error!r}"
                error = JobError(text)
            if self._jobs.pop(job.ref, None) is not None:
                self._events.failed(job.ref, capture(error, origin="system"))
        else:
            if self._jobs.pop(job.ref, None) is not None:
                self._events.finished(job.ref, result)

    async def _ask(self, job: Job) -> Any:
        if job.call.payload.pickled or job.call.form != "input":
            raise JobError("an image's HTTP server takes jobs by run(input) only")
        asked = asked_by(decode(job.call.payload, trusted=False))
        address, client = f"{self._base}{asked.route}", self._proxy.client
        body = asked.body or None
        async with client.stream(asked.method, address, json=body) as response:
            if asked.streams and response.is_success:
                index = 0
                async for event in events_of(response.aiter_lines()):
                    self._events.chunk(job.ref, index, encode(event))
                    index += 1
                return None
            return asked.result(response.status_code, await response.aread())


def _nothing() -> None:
    """Nothing is learned of its requests."""


def _target(scope: Scope) -> str:
    """Path and query below the endpoint's own address, as they were sent where that is known."""
    root: str = scope.get("root_path", "")
    path: str = scope["path"].removeprefix(root)
    raw = (scope.get("raw_path") or b"").decode("latin-1")
    sent = raw.removeprefix(quote(root))
    # (One that begins with %2F would go on with the host.)
    target = sent if sent.startswith("/") and unquote(sent) == path else quote(path)
    query = scope["query_string"].decode("latin-1")
    return f"{target or '/'}{'?' if query else ''}{query}"
