"""The addresses of functions and methods: /FILE/FUNCTION/runsync and its siblings."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from runpod_flash.gateway.inputs import read_input
from runpod_flash.gateway.messages import Answer, Refusal, answer, query, read_body, wrong_method
from runpod_flash.plane.store.base import JobState

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from typing import Any

    from runpod_flash.gateway.addresses import Addresses, Bound
    from runpod_flash.gateway.jobs import Jobs
    from runpod_flash.gateway.messages import Receive, Scope
    from runpod_flash.plane.pool import Pool
    from runpod_flash.project.catalog import Discovered

RUN_LIMIT = 10_000_000
RUNSYNC_LIMIT = 20_000_000
REMEDY = "put large data on a volume, or take it through a route, which streams"
# A client that leaves is looked for from then on.
_PATIENCE_SECONDS = 0.05
# One request for chunks waits so long, below the time limit of known clients.
STREAM_SECONDS = 8.0


class FunctionApi:
    """Inputs are checked here, and a job that did not complete is told by the HTTP status."""

    def __init__(self, jobs: Jobs, pool_of: Callable[[Discovered], Pool]) -> None:
        self._jobs = jobs
        self._pool_of = pool_of

    async def answer(self, addresses: Addresses, scope: Scope, receive: Receive) -> Answer | None:
        """The answer, or None where no function has the address."""
        path: str = scope["path"]
        base, _, last = path.rpartition("/")
        if last in ("runsync", "run"):
            bound = self._bound(addresses, base)
            if bound is None:
                return None
            _check_method(scope, "POST")
            return await self._submit(bound, last, scope, receive)
        base, _, verb = base.rpartition("/")
        if verb in ("status", "stream", "cancel"):
            bound = self._bound(addresses, base)
            if bound is not None:
                _check_method(scope, "POST" if verb == "cancel" else "GET")
                return await self._look(bound, verb, last, scope)
        return None

    def _bound(self, addresses: Addresses, base: str) -> Bound | None:
        bound = addresses.operations.get(base)
        if bound is None and base in addresses.ambiguous:
            paths = " or ".join(addresses.ambiguous[base])
            raise Refusal(404, f"{base} may mean several methods; ask {paths}")
        return bound

    async def _submit(self, bound: Bound, verb: str, scope: Scope, receive: Receive) -> Answer:
        limit = RUN_LIMIT if verb == "run" else RUNSYNC_LIMIT
        body = await read_body(scope, receive, limit, REMEDY)
        value = read_input(body)
        bound.checker.check(value)
        pool = self._pool_of(bound.endpoint)
        if verb == "run":
            job_id = self._jobs.submit(pool, value, bound.operation.method)
            return answer(200, {"id": job_id, "status": JobState.IN_QUEUE.value})
        job_id, ended = self._jobs.run(pool, value, bound.operation.method)
        await self._until_gone(job_id, ended, receive)
        job = ended.result()
        self._jobs.forget_soon(job)
        return self._jobs.envelope(job, status_tells=True)

    async def _until_gone(self, job_id: str, ended: asyncio.Future[Any], receive: Receive) -> None:
        """Wait for the job's end; a client that leaves before it cancels the job."""
        # Most are done soon, and to look for the client costs a task.
        await asyncio.wait((ended,), timeout=_PATIENCE_SECONDS)
        if ended.done():
            return
        leaving = asyncio.ensure_future(_left(receive))
        await asyncio.wait((ended, leaving), return_when=asyncio.FIRST_COMPLETED)
        leaving.cancel()
        if not ended.done():
            self._jobs.cancel(job_id)
            raise ConnectionError("the client has left")

    async def _look(self, bound: Bound, verb: str, job_id: str, scope: Scope) -> Answer:
        pool = self._pool_of(bound.endpoint)
        job = self._jobs.get(pool, job_id)
        if verb == "status":
            return self._jobs.envelope(job)
        if verb == "cancel":
            self._jobs.cancel(job_id)
            ended = await self._jobs.end(job_id, 5.0)
            return self._jobs.envelope(ended or job)
        return await stream_answer(self._jobs, pool, job_id, query(scope))


async def stream_answer(jobs: Jobs, pool: Pool, job_id: str, given: dict[str, str]) -> Answer:
    """The chunks since the last time; `?start=N` asks from number N instead."""
    if jobs.get(pool, job_id).state is JobState.CANCELLED:
        # Known clients would ask for ever.
        raise Refusal(409, f"job {job_id} was cancelled")
    start = given.get("start")
    if start is not None and not start.isdigit():
        raise Refusal(400, f"start={start!r} is no number of a chunk; the first one is 0")
    chunks = await jobs.drain(job_id, STREAM_SECONDS, None if start is None else int(start))
    state = jobs.get(pool, job_id).state.value
    body = b'{"status": "' + state.encode() + b'", "stream": [' + b", ".join(chunks) + b"]}"
    return Answer(200, body)


async def _left(receive: Callable[[], Awaitable[Any]]) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _check_method(scope: Scope, wanted: str) -> None:
    if scope["method"] != wanted:
        raise wrong_method(scope, wanted)
