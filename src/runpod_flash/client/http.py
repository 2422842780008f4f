"""The backend of a target: calls go to a server's queue API, values and failures as frames.

(JSON carries less than a call does. docs/protocol.md says what stands in the frames.)
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import json
import os
import random
import threading
from typing import TYPE_CHECKING, Any, TypeVar

from runpod_flash.client import terminal
from runpod_flash.client.credentials import key_for, origin_of
from runpod_flash.client.session import ProgramApp
from runpod_flash.errors import ConfigurationError, ConnectionClosedError, FlashError
from runpod_flash.plane.views import Ended, Snapshot
from runpod_flash.project.entry import module_names
from runpod_flash.wire import failures, frames
from runpod_flash.wire.carried import carrying
from runpod_flash.wire.codec import Payload, payload_of
from runpod_flash.wire.frames import MEDIA_TYPE, Frame

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
    from concurrent.futures import Future

    import httpx

    from runpod_flash.client.backend import Submission

T = TypeVar("T")

# How long one request may wait for a job; the next one goes on waiting.
_WAIT_MS = 30_000
_TRIES = 5


class Connection:
    """A server, asked from a thread of its own."""

    def __init__(self, address: str) -> None:
        self.origin = origin_of(address)
        self._key = key_for(address)
        self._client: httpx.AsyncClient | None = None
        self._was_there = False
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_forever, name="flash-client", daemon=True).start()
        self.app = ProgramApp(self)

    def spawn(self, work: Coroutine[Any, Any, T]) -> Future[T]:
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    async def ask(self, method: str, path: str, body: bytes = b"") -> list[Frame]:
        """The frames that the server answers. A job's id makes it safe to ask again.

        Raises `ConnectionClosedError` where it cannot be reached, and `ConfigurationError` with
        its own words where it refuses.
        """

        return self._read(await self._request(method, path, body))

    async def ask_json(
        self, method: str, path: str, value: Any = None, body: bytes = b""
    ) -> dict[str, Any]:
        """What the server answers in JSON, to a value or a body of frames; raises as `ask`."""
        headers = {"accept": "application/json"}
        if value is not None:
            body = json.dumps(value).encode()
            headers["content-type"] = "application/json"
        response = await self._request(method, path, body, headers)
        if not response.is_success:
            raise self._refusal(response)
        told: dict[str, Any] = response.json()
        return told

    @contextlib.asynccontextmanager
    async def streaming(self, path: str) -> AsyncIterator[AsyncIterator[bytes]]:
        """The pieces of a response that goes on for as long as both ends are there."""
        import httpx

        try:
            async with self._connected().stream("GET", f"{self.origin}{path}") as response:
                if not response.is_success:
                    await response.aread()
                    raise self._refusal(response)
                yield response.aiter_bytes()
        except httpx.TransportError as error:
            raise self._unreachable(error) from None

    async def _request(
        self, method: str, path: str, body: bytes, headers: Mapping[str, str] | None = None
    ) -> httpx.Response:
        import httpx

        client = self._connected()
        for left in reversed(range(_TRIES)):
            try:
                return await client.request(
                    method, f"{self.origin}{path}", content=body, headers=headers
                )
            except httpx.ConnectError as error:
                if not self._was_there or not left:
                    raise self._unreachable(error) from None
            except httpx.TransportError as error:
                if not left:
                    raise self._unreachable(error) from None
            # One that was there is being started again.
            await asyncio.sleep(0.1 * 2 ** (_TRIES - left) * random.random())
        raise AssertionError("the last try returns or raises")

    def _connected(self) -> httpx.AsyncClient:
        import httpx

        if self._client is None:
            headers = {"content-type": MEDIA_TYPE, "accept": MEDIA_TYPE}
            if self._key is not None:
                headers["authorization"] = f"Bearer {self._key}"
            timeout = _WAIT_MS / 1000 + 30
            # Proxies are not for it: the server is this machine's, or one's own.
            limits = httpx.Limits(max_connections=None)
            self._client = httpx.AsyncClient(
                timeout=timeout,
                trust_env=False,
                headers=headers,
                limits=limits,
                verify=httpx.create_ssl_context(),  # (of SSL_CERT_FILE, where that is set)
            )
        return self._client

    def _unreachable(self, error: Exception) -> ConnectionClosedError:
        why = str(error) or type(error).__name__
        return ConnectionClosedError(
            f"{self.origin} (FLASH_TARGET) cannot be reached: {why}; start it, or unset "
            "FLASH_TARGET to run embedded"
        )

    def _read(self, response: httpx.Response) -> list[Frame]:
        self._was_there = True
        if response.headers.get("content-type") == MEDIA_TYPE:
            return frames.decode(response.content)
        raise self._refusal(response)

    def _refusal(self, response: httpx.Response) -> ConfigurationError:
        try:
            said = response.json()["error"]
        except (ValueError, KeyError, TypeError):
            said = f"HTTP status {response.status_code}"
        kind = AppGoneError if response.status_code == 404 and _is_session(response) else None
        return (kind or ConfigurationError)(f"{self.origin} (FLASH_TARGET): {said}")


class AppGoneError(ConfigurationError):
    """The server does not know this program's app (any more)."""


def _is_session(response: httpx.Response) -> bool:
    return response.request.url.path.startswith(("/s/", "/v2/sessions/"))


class HttpBackend:
    """`Backend` for one endpoint of a server."""

    def __init__(self, connection: Connection, endpoint: str) -> None:
        self.names = module_names()
        self._connection = connection
        self._endpoint = endpoint
        self._sent: dict[str, Future[None]] = {}
        self._base = ""
        atexit.register(self._say_what_is_left)

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
        self._sent[job_id] = self._connection.spawn(self._accept(submission))
        if on_end is not None:
            ended = on_end
            self.wait(job_id, lambda end: ended(end or Ended("UNKNOWN")))

    def wait(self, job_id: str, on_end: Callable[[Ended | None], None]) -> None:
        self._connection.spawn(self._wait(job_id, on_end))

    def chunks(
        self, job_id: str, start: int, on_chunks: Callable[[Sequence[Payload], Ended | None], None]
    ) -> None:
        self._connection.spawn(self._chunks(job_id, start, on_chunks))

    def look(self, job_id: str, on_look: Callable[[Snapshot | None], None]) -> None:
        self._connection.spawn(self._look(job_id, on_look))

    def cancel(self, job_id: str) -> None:
        self._connection.spawn(self._cancel(job_id))

    def forget(self, job_id: str) -> None:
        self._sent.pop(job_id, None)

    # On the connection's thread

    async def _run(self, submission: Submission, on_end: Callable[[Ended], None]) -> None:
        try:
            await self._find_place(submission)
            body = b"".join(frames.encode(_job(submission)))
            end = _ended(await self._ask("POST", f"runsync?wait={_WAIT_MS}", body))
        except (FlashError, frames.FrameError) as error:
            end = _failed(error)
        if end is not None:
            on_end(end)
        else:
            job_id = submission.job_id
            self._sent.pop(job_id, None)
            await self._wait(job_id, lambda ended: on_end(ended or Ended("UNKNOWN")))

    async def _accept(self, submission: Submission) -> None:
        await self._find_place(submission)
        await self._ask("POST", "run", b"".join(frames.encode(_job(submission))))

    async def _wait(self, job_id: str, on_end: Callable[[Ended | None], None]) -> None:
        end: Ended | None = None
        try:
            await self._is_sent(job_id)
            while end is None:
                answer = await self._ask("GET", f"status/{job_id}?wait={_WAIT_MS}")
                if not answer.fields.get("state"):
                    break
                end = _ended(answer)
        except (FlashError, frames.FrameError) as error:
            end = _failed(error)
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
        except (FlashError, frames.FrameError) as error:
            end = _failed(error)
        on_chunks(found, end)

    async def _look(self, job_id: str, on_look: Callable[[Snapshot | None], None]) -> None:
        try:
            await self._is_sent(job_id)
            fields = (answer := await self._ask("GET", f"status/{job_id}")).fields
        except FlashError:
            on_look(None)
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

    async def _ask(self, method: str, path: str, body: bytes = b"") -> Frame:
        try:
            *_, last = await self._connection.ask(method, f"{self._path}{path}", body)
        except AppGoneError:
            # The server was started anew: its jobs are there, and wait for their code.
            await self._connection.app.again()
            *_, last = await self._connection.ask(method, f"{self._path}{path}", body)
        return last

    async def _find_place(self, submission: Submission) -> None:
        """Where the endpoint is: deployed, or in the app that this program brings along."""
        entry = submission.spec.entry
        if submission.describe is not None and (entry.file or entry.by_value):
            self._base = await self._connection.app.base(submission.describe())

    @property
    def _path(self) -> str:
        return f"{self._base}/v2/{self._endpoint}/"

    def _say_what_is_left(self) -> None:
        count = sum(not sent.done() for sent in list(self._sent.values()))
        if count:
            jobs = f"{count} job{'s' if count != 1 else ''}"
            where = self._connection.origin
            terminal.say(f"{jobs} not waited for: {where} goes on with them", self._endpoint)


_backends: dict[tuple[str, str], HttpBackend] = {}
_connections: dict[str, Connection] = {}


def backend_at(address: str, endpoint: str) -> HttpBackend:
    """The backend of an endpoint at a server, made on first use; a forked child makes its own."""
    if not _connections:
        os.register_at_fork(after_in_child=_forget_all)
    key = (address, endpoint)
    if key not in _backends:
        connection = _connections.get(address) or Connection(address)
        _connections[address] = connection
        _backends[key] = HttpBackend(connection, endpoint)
    return _backends[key]


def _forget_all() -> None:
    _connections.clear()
    _backends.clear()


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
