"""/v2/ENDPOINT/openai/...: calls in OpenAI's shapes, as jobs that a worker's function answers.

The job's input is `{"openai_route": "/v1/...", "openai_input": BODY}`, as vLLM workers take it.
"""

from __future__ import annotations

import asyncio
import json
import time
import uuid
from typing import TYPE_CHECKING, Any

from runpod_flash.gateway.functions import REMEDY, RUNSYNC_LIMIT
from runpod_flash.gateway.jobs import call_of
from runpod_flash.gateway.messages import (
    Answer,
    Refusal,
    answer,
    parse_json,
    read_body,
    wrong_method,
)
from runpod_flash.gateway.openai_shapes import (
    DONE,
    Asked,
    event,
    failure,
    failure_event,
    last_event,
    status_of,
    whole,
)
from runpod_flash.gateway.results import NotJsonError, error_text, to_json
from runpod_flash.gateway.waiting import until_gone
from runpod_flash.links.leaving import leaving
from runpod_flash.plane.store.base import JobState, NewJob, Policy
from runpod_flash.plane.store.memory import now

if TYPE_CHECKING:
    from collections.abc import Sequence

    from runpod_flash.gateway.jobs import Jobs
    from runpod_flash.gateway.messages import Receive, Scope, Send, Sendable
    from runpod_flash.plane.pool import Pool
    from runpod_flash.plane.store.base import Chunk, Job
    from runpod_flash.project.catalog import Discovered

# Proxies and clients give up on a stream that says nothing for long.
_KEEP_ALIVE_SECONDS = 10.0
_STATUSES = {JobState.FAILED: 500, JobState.TIMED_OUT: 504, JobState.CANCELLED: 409}


class OpenAiApi:
    """See the module. A client that leaves cancels its job."""

    def __init__(self, jobs: Jobs) -> None:
        self._jobs = jobs

    async def answer(
        self, endpoint: Discovered, pool: Pool, scope: Scope, receive: Receive
    ) -> Sendable:
        """The answer, whole or as events."""
        if scope["method"] not in ("GET", "POST"):
            raise wrong_method(scope, "GET, POST")
        body = await read_body(scope, receive, RUNSYNC_LIMIT, REMEDY)
        given = parse_json(body) if body.strip() else {}
        if not isinstance(given, dict):
            raise Refusal(400, "the body is an object, such as OpenAI's clients send")
        route = "/" + scope["path"].partition("/openai/")[2]
        asked = Asked(route, given, f"sync-{uuid.uuid4()}", int(time.time()))
        new = self._job(endpoint, pool, asked)
        if given.get("stream") is True:
            self._jobs.accept(pool, new)
            return _Events(self._jobs, asked, receive)
        ended = self._jobs.run_new(pool, new)
        await until_gone(self._jobs, new.id, ended, receive)
        self._jobs.delivered(ended.result())
        return self._whole(asked, ended.result())

    def _job(self, endpoint: Discovered, pool: Pool, asked: Asked) -> NewJob:
        value = {"openai_route": asked.route, "openai_input": asked.body}
        methods = [each.method for each in endpoint.operations]
        if endpoint.owner and len(methods) != 1:
            text = (
                f"{endpoint.owner} has several methods, and OpenAI's routes need one that has all"
            )
            raise Refusal(404, text)
        kept = self._jobs.settings.sync_retention_ms
        own = Policy.of(pool.spec.placement)
        policy = own._replace(ttl_ms=self._jobs.settings.ttl_ms, retention_ms=kept)
        return NewJob(asked.job_id, pool.key, call_of(value, methods[0]), policy)

    def _whole(self, asked: Asked, job: Job) -> Answer:
        try:
            found = now(self._jobs.store.chunks(job.id, 0, job.chunks)) if job.chunks else ()
            if job.state is JobState.COMPLETED:
                result = whole(asked, _values(job, found))
                return answer(status_of(result), result)
        except NotJsonError as error:
            return answer(500, failure(str(error), "server_error"))
        return answer(_STATUSES[job.state], failure(*_said(job)))


class _Events:
    """A response of server-sent events."""

    def __init__(self, jobs: Jobs, asked: Asked, receive: Receive) -> None:
        self._jobs = jobs
        self._asked = asked
        self._receive = receive
        self._wrapped = False
        self._last = b""

    async def send(self, send: Send) -> None:
        with leaving(self._receive) as gone:
            await self._send(send, gone)

    async def _send(self, send: Send, gone: asyncio.Future[None]) -> None:
        start = 0
        job: Job | None = None
        chunks: Sequence[Chunk] = ()
        headers = [(b"content-type", b"text/event-stream"), (b"cache-control", b"no-cache")]
        while job is None:
            chunks, job = await self._next(start, gone)
            if not start and job is not None and job.state in _STATUSES:
                # Nothing was sent yet: the status can still tell.
                await answer(_STATUSES[job.state], failure(*_said(job))).send(send)
                return
            if headers:
                await send({"type": "http.response.start", "status": 200, "headers": headers})
                headers = []
            start += len(chunks)
            text = self._shown(chunks, job) or b": waiting\n\n"
            more = job is None
            await send({"type": "http.response.body", "body": text, "more_body": more})
        self._jobs.delivered(job)

    async def _next(
        self, start: int, gone: asyncio.Future[None]
    ) -> tuple[Sequence[Chunk], Job | None]:
        work = self._jobs.chunks(self._asked.job_id, start, _KEEP_ALIVE_SECONDS)
        chunks = asyncio.ensure_future(work)
        await asyncio.wait((chunks, gone), return_when=asyncio.FIRST_COMPLETED)
        if gone.done():
            chunks.cancel()
            self._jobs.cancel(self._asked.job_id)
            raise ConnectionError("the client has left")
        await self._jobs.store.durable()
        return chunks.result()

    def _shown(self, chunks: Sequence[Chunk], job: Job | None) -> bytes:
        text = b""
        try:
            values = [_value(chunk) for chunk in chunks]
            if job is not None and job.state is JobState.COMPLETED and not job.chunks:
                values = _values(job, ())
        except NotJsonError as error:
            return failure_event(str(error), "server_error")
        for value in values:
            self._last = event(self._asked, value)
            self._wrapped = isinstance(value, str) and b'"finish_reason": null' in self._last
            text += self._last
        return text + (self._end(job) if job is not None else b"")

    def _end(self, job: Job) -> bytes:
        if job.state is not JobState.COMPLETED:
            return failure_event(*_said(job))
        if self._last.endswith(DONE):
            return b""
        return (last_event(self._asked) if self._wrapped else b"") + DONE


def _values(job: Job, chunks: Sequence[Chunk]) -> list[Any]:
    if chunks:
        return [_value(chunk) for chunk in chunks]
    payload = job.outcome.payload if job.outcome is not None else None
    return [None if payload is None else json.loads(to_json(payload))]


def _value(chunk: Chunk) -> Any:
    return json.loads(to_json(chunk.payload))


def _said(job: Job) -> tuple[str, str]:
    found = job.outcome.failure if job.outcome is not None else None
    if found is None:
        return f"the job is {job.state.value}", "server_error"
    return error_text(found), found.type_name
