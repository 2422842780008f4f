"""WorkerLink: the one way in which the plane talks to a worker, whatever carries it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Mapping

    from runpod_flash.plane.store.base import Job
    from runpod_flash.spec import EndpointSpec
    from runpod_flash.wire.codec import Payload
    from runpod_flash.wire.failures import Failure
    from runpod_flash.wire.frames import Buffer


class JobRef(NamedTuple):
    """A job as one worker holds it; `attempt` is the fence that tells a late answer."""

    job_id: str
    attempt: int


@dataclass(frozen=True)
class WorkerCall:
    """What code in a worker asks of the plane: to submit, await, cancel or look at a job.

    `call_id` pairs it with its answer. `fields` are the operation's own, listed in
    docs/protocol.md.
    """

    call_id: int
    operation: str
    fields: Mapping[str, Any]
    payload: Payload | None = None
    constructor: Payload | None = None


class Part(NamedTuple):
    """A piece of an exchange, which is one HTTP request or WebSocket, either way.

    `kind` and its fields are those of the `asgi_` frames in docs/protocol.md; `data` is a body's
    bytes or a message.
    """

    exchange: str
    kind: str
    fields: Mapping[str, Any] = {}
    data: Buffer = b""


@dataclass(frozen=True)
class LogLine:
    """A line that a worker wrote. `job_id` is empty for output outside of any job."""

    worker_id: str
    text: str
    job_id: str = ""
    stream: str = "stdout"


class LinkEvents(Protocol):
    """What arrives over a link, on the plane's loop.

    `chunk`, `finished`, `failed` and `log` come in the order in which they were sent, and on the
    thread of a caller while the link is lent to its loop.
    """

    def ready(self) -> None: ...
    def start_failed(self, failure: Failure) -> None: ...
    def chunk(self, ref: JobRef, index: int, payload: Payload) -> None: ...
    def finished(self, ref: JobRef, result: Payload) -> None: ...
    def failed(self, ref: JobRef, failure: Failure, output: Payload | None = None) -> None:
        """`output` is what the job gave in spite of it."""

    def stopped(self, ref: JobRef) -> None:
        """A cancelled job has left the worker; its slot is free."""

    def asks(self, count: int) -> None:
        """A worker that asks for its jobs would take so many now; from the first word on."""

    def progress(self, ref: JobRef, payload: Payload) -> None: ...
    def dropped(self, ref: JobRef, why: str) -> None:
        """The worker goes on, and has left this job without an end; `why` is a clause."""

    def log(self, line: LogLine) -> None: ...
    def call(self, call: WorkerCall) -> None: ...
    def exchange(self, part: Part) -> None: ...
    def closed(self) -> None:
        """The worker's end is gone; nothing follows."""


class WorkerLink(Protocol):
    """One worker. Every method may be called from any thread and never blocks."""

    def open(self, events: LinkEvents, spec: EndpointSpec, caller_env: Mapping[str, str]) -> None:
        """Start reading, and have the worker import the user's code.

        `caller_env` is what modules may read from `os.environ` while they are imported.
        """

    def run(self, job: Job, *, trusted: bool) -> None: ...
    def lend(self, loop: asyncio.AbstractEventLoop) -> None:
        """Have the loop that runs on this thread read the link, while its calls are short."""

    def cancel(self, ref: JobRef) -> None: ...
    def grant(self, ref: JobRef, chunks: int) -> None:
        """Let a generator go `chunks` further."""

    def exchange(self, part: Part) -> None: ...
    def answer(self, call_id: int, fields: Mapping[str, Any], payload: Payload | None) -> None: ...
    def stop(self) -> None:
        """Ask the worker to end by itself."""

    def drain(self) -> None:
        """Hand over what has arrived from a worker that is gone; on the plane's loop."""

    def close(self) -> None: ...
