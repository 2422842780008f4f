"""What RunPod's workers ask: /v2/ENDPOINT/job-take/WORKER and its siblings.

Requests for jobs and for words to stop are held, for such a worker asks again at once, whatever the
answer. No answer but to a `job-done` that could not be kept is an error that it would act on.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Protocol

from runpod_flash.errors import StoreFullError
from runpod_flash.gateway.connections import connection_of
from runpod_flash.gateway.functions import REMEDY
from runpod_flash.gateway.messages import (
    Answer,
    Refusal,
    answer,
    header,
    query,
    read_body,
    wrong_method,
)
from runpod_flash.gateway.results import NotJsonError
from runpod_flash.gateway.worker_links import WorkerLinks
from runpod_flash.gateway.worker_words import Said, failed, job_json, read_chunk, read_done
from runpod_flash.links.leaving import leaving
from runpod_flash.links.runpod_http import Poll
from runpod_flash.links.runpod_variables import DONE, PING, STOP, STREAM, TAKE, TAKE_BATCH
from runpod_flash.plane.events import Notice
from runpod_flash.plane.store.base import JobState, Outcome

if TYPE_CHECKING:
    from collections.abc import Iterator

    from runpod_flash.control.worker_tokens import WorkerTokens
    from runpod_flash.gateway.messages import Receive, Scope
    from runpod_flash.links.runpod_http import Ending, RunPodLink
    from runpod_flash.plane.plane import Plane
    from runpod_flash.plane.pool import Pool
    from runpod_flash.plane.store.base import Job

# Workers give a request up after 90 s; what is between may do so sooner (`?wait=MS`).
_HOLD_SECONDS = 45.0
_LONGEST_SECONDS = 60.0
# What a worker is refused comes so late that it does not ask all the time.
_REFUSED_SECONDS = 1.0
_RESULT_LIMIT = 100_000_000
_MOST_JOBS = 1000
# A connection of what sends these is not the worker's.
_FORWARDED = (b"via", b"forwarded", b"x-forwarded-for")
METHODS = {TAKE: "GET", TAKE_BATCH: "GET", STOP: "GET", PING: "GET", DONE: "POST", STREAM: "POST"}
_NOTHING = Answer(204, b"")


class Links(Protocol):
    """The links of workers by their ids; see `WorkerLinks`."""

    def find(self, worker_id: str) -> RunPodLink | None: ...
    async def of(self, pool: Pool, worker_id: str) -> RunPodLink | None: ...
    def replace(self, worker_id: str) -> None: ...
    def detach(self, worker_id: str, reason: str) -> None: ...


class WorkerApi:
    """See the module; `tokens` say which worker may ask, `links` are those of the workers."""

    def __init__(self, plane: Plane, tokens: WorkerTokens, links: Links | None = None) -> None:
        self._plane = plane
        self._tokens = tokens
        self.links: Links = links or WorkerLinks(plane, tokens)

    async def answer(self, pool: Pool | None, scope: Scope, receive: Receive) -> Answer:
        """The answer to a worker's request; `pool` is its endpoint's, if that has a queue."""
        _, _, name, verb, worker_id, *rest = scope["path"].split("/")
        if not self._tokens.check(name, worker_id, token_of(scope)):
            await asyncio.sleep(_REFUSED_SECONDS)
            raise Refusal(401, f"this is no token of a worker {worker_id!r} of {name!r}")
        if pool is None or len(rest) != (1 if verb in (DONE, STREAM) else 0):
            await asyncio.sleep(_REFUSED_SECONDS)
            raise Refusal(404, f"no jobs of {name!r} are at {scope['path']}")
        if scope["method"] != METHODS[verb]:
            raise wrong_method(scope, METHODS[verb])
        if verb == PING:
            return self._ping(pool, worker_id, query(scope))
        if verb in (DONE, STREAM):
            return await self._told(pool, worker_id, verb, rest[0], scope, receive)
        link = await self.links.of(pool, worker_id)
        if link is None:
            await asyncio.sleep(_REFUSED_SECONDS)
            return _NOTHING
        _note_connection(link, scope)
        if verb == STOP:
            return await self._stop(link, query(scope), receive)
        return await self._take(link, verb == TAKE_BATCH, query(scope), receive)

    # Jobs

    async def _take(
        self, link: RunPodLink, batch: bool, given: dict[str, str], receive: Receive
    ) -> Answer:
        poll = Poll(_number(given.get("batch_size"), 1, _MOST_JOBS) if batch else 1)
        idle = given.get("job_in_progress") == "0"
        with _watched(receive, poll):
            jobs = await link.take(poll, _hold(given), idle=idle)
        found = [text for job in jobs if (text := self._shown(link, job)) is not None]
        if not found:
            return _NOTHING
        await self._kept()
        return Answer(200, b"[" + b", ".join(found) + b"]" if batch else found[0])

    def _shown(self, link: RunPodLink, job: Job) -> bytes | None:
        try:
            return job_json(job)
        except NotJsonError as error:
            link.ended(job.id, failed(f"job {job.id} cannot run on {link.worker_id}: {error}"))
            return None

    async def _stop(self, link: RunPodLink, given: dict[str, str], receive: Receive) -> Answer:
        poll = Poll()
        with _watched(receive, poll):
            found = await link.stops(poll, _hold(given))
        return answer(200, {"jobsToStop": found}) if found else _NOTHING

    def _ping(self, pool: Pool, worker_id: str, given: dict[str, str]) -> Answer:
        if given.get("status") == "unhealthy":
            reason = f"is unhealthy: {given.get('check', '')}: {given.get('reason', '')}"
            text = f"the worker {worker_id} {reason}"
            self._plane.events.publish(Notice(pool.spec.name, text, pool.spec.app))
            self.links.detach(worker_id, reason)
            return answer(200, {})
        # A heartbeat attaches nobody: those of a worker that was killed go on for ever.
        link = self.links.find(worker_id)
        if link is not None:
            running = [job_id for job_id in given.get("job_id", "").split(",") if job_id]
            link.heartbeat(running, _number(given.get("interval"), 10_000, 600_000) / 1000)
        return answer(200, {})

    # What workers tell

    async def _told(
        self,
        pool: Pool,
        worker_id: str,
        verb: str,
        job_id: str,
        scope: Scope,
        receive: Receive,
    ) -> Answer:
        link = self.links.find(worker_id)
        if link is not None:
            _note_connection(link, scope)
        if verb == STREAM:
            chunk = read_chunk(await read_body(scope, receive, _RESULT_LIMIT, REMEDY))
            if link is not None:
                link.chunk(job_id, chunk)
        else:
            said = await self._said(scope, receive)
            if said.progress is not None and link is not None:
                link.progress(job_id, said.progress)
            if said.ending is not None and (link is None or not link.ended(job_id, said.ending)):
                self._plane.dispatcher.late(pool, worker_id, job_id, _outcome(said.ending))
            if said.leaves:
                self.links.replace(worker_id)
        await self._kept()
        return answer(200, {})

    async def _said(self, scope: Scope, receive: Receive) -> Said:
        try:
            return read_done(await read_body(scope, receive, _RESULT_LIMIT, REMEDY))
        except Refusal as refusal:  # a worker would drop the result, and wait for no other word
            return Said(failed(f"the worker's result was refused: {refusal}"))

    async def _kept(self) -> None:
        try:
            await self._plane.store.durable()
        except StoreFullError as error:
            raise Refusal(503, str(error)) from None


def token_of(scope: Scope) -> str:
    """The token that a worker sends, with or without the word Bearer."""
    given = header(scope, b"authorization") or ""
    word, _, rest = given.partition(" ")
    return rest if word.lower() == "bearer" else given


def _note_connection(link: RunPodLink, scope: Scope) -> None:
    connection = connection_of(scope)
    between = any(header(scope, name) is not None for name in _FORWARDED)
    if connection is not None and not between:
        link.life.asks_by(connection)


def _outcome(ending: Ending) -> Outcome:
    state = JobState.COMPLETED if ending.failure is None else JobState.FAILED
    return Outcome(state, ending.output, ending.failure)


def _hold(given: dict[str, str]) -> float:
    default = round(_HOLD_SECONDS * 1000)
    return min(_number(given.get("wait"), default, 1 << 40) / 1000, _LONGEST_SECONDS)


def _number(text: str | None, default: int, most: int) -> int:
    """A positive number of a query; what is none gets the default."""
    if text is None or not text.isascii() or not text.isdigit() or len(text) > 12:
        return default
    return min(int(text), most) or default


@contextlib.contextmanager
def _watched(receive: Receive, poll: Poll) -> Iterator[None]:
    """Notice a worker that closes the connection."""
    # (By the end of the block, which cancels the task, nobody looks at the poll any more.)
    with leaving(receive) as gone:
        gone.add_done_callback(lambda _: poll.broke())
        yield
