"""The queue API, /v2/ENDPOINT/run and its siblings, as clients of the hosted service know it.

Flash's own SDK asks the same addresses, with frames for bodies: they carry values and failures that
JSON has no words for (docs/protocol.md).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from runpod_flash.gateway.access import require
from runpod_flash.gateway.addresses import prefix_of
from runpod_flash.gateway.functions import REMEDY, RUN_LIMIT, RUNSYNC_LIMIT, stream_answer
from runpod_flash.gateway.inputs import read_input
from runpod_flash.gateway.messages import (
    Answer,
    Refusal,
    answer,
    header,
    query,
    read_body,
)
from runpod_flash.gateway.native import NativeApi
from runpod_flash.plane.store.base import JobState
from runpod_flash.project.catalog import choose_method
from runpod_flash.suggest import did_you_mean
from runpod_flash.wire.frames import MEDIA_TYPE

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from runpod_flash.gateway.addresses import Addresses
    from runpod_flash.gateway.jobs import Jobs
    from runpod_flash.gateway.messages import Receive, Scope
    from runpod_flash.plane.pool import Pool
    from runpod_flash.project.catalog import Discovered

_WAIT_MS = (1000, 300_000)
_DEFAULT_WAIT_MS = 90_000


class QueueApi:
    """See the module. Only the code's owner may send frames."""

    def __init__(self, jobs: Jobs, pool_of: Callable[[Discovered], Pool]) -> None:
        self._jobs = jobs
        self._pool_of = pool_of
        self._native = NativeApi(jobs)
        self._posts: dict[str, Callable[..., Awaitable[Answer]]] = {
            "run": self._run,
            "runsync": self._runsync,
            "purge-queue": self._purge,
        }
        self._of_jobs: dict[str, Callable[..., Awaitable[Answer]]] = {
            "status": self._status,
            "stream": self._stream,
            "cancel": self._cancel,
        }

    async def answer(self, addresses: Addresses, scope: Scope, receive: Receive) -> Answer:
        """The answer to a request below /v2/."""
        _, _, name, *rest = scope["path"].split("/")
        endpoint = self._endpoint(addresses, name)
        if rest == ["health"] and scope["method"] == "GET":
            return await self._health(endpoint)
        if not endpoint.operations:
            where = prefix_of(endpoint)
            raise Refusal(404, f"{name} has routes and no queue: call them below {where}/")
        if header(scope, b"content-type") == MEDIA_TYPE:
            require(scope, "deploy")
            pool = self._pool_of(endpoint)
            return await self._native.answer(endpoint, pool, rest, scope, receive)
        method = scope["method"]
        if len(rest) == 1 and rest[0] in self._posts and method == "POST":
            return await self._posts[rest[0]](endpoint, scope, receive)
        if len(rest) == 2 and rest[0] in self._of_jobs and method in ("GET", "POST"):
            pool = self._pool_of(endpoint)
            return await self._of_jobs[rest[0]](pool, rest[1], scope)
        verbs = [*self._posts, "health", *(f"{verb}/ID" for verb in self._of_jobs)]
        asked = f"{method} {scope['path']}"
        raise Refusal(404, f"{asked} is no operation of the queue API: {', '.join(verbs)}")

    def _endpoint(self, addresses: Addresses, name: str) -> Discovered:
        found = addresses.names.get(name)
        if found is not None:
            return found
        problem = addresses.problem_of(name)
        if problem is not None:
            more = {"detail": problem.detail} if problem.detail else {}
            raise Refusal(500, problem.message, **more)
        hint = did_you_mean(name, addresses.names)
        raise Refusal(404, f"there is no endpoint {name!r}.{hint}")

    # Operations

    async def _input(
        self, endpoint: Discovered, limit: int, scope: Scope, receive: Receive
    ) -> tuple[str, Any]:
        value = read_input(await read_body(scope, receive, limit, REMEDY))
        if not endpoint.owner:
            return "", value
        try:
            return choose_method(endpoint.owner, [o.method for o in endpoint.operations], value)
        except TypeError as error:
            raise Refusal(400, str(error)) from None

    async def _run(self, endpoint: Discovered, scope: Scope, receive: Receive) -> Answer:
        method, value = await self._input(endpoint, RUN_LIMIT, scope, receive)
        job_id = self._jobs.submit(self._pool_of(endpoint), value, method)
        return answer(200, {"id": job_id, "status": JobState.IN_QUEUE.value})

    async def _runsync(self, endpoint: Discovered, scope: Scope, receive: Receive) -> Answer:
        seconds = wait_seconds(scope, _DEFAULT_WAIT_MS)
        method, value = await self._input(endpoint, RUNSYNC_LIMIT, scope, receive)
        job_id = self._jobs.submit(self._pool_of(endpoint), value, method)
        job = await self._jobs.end(job_id, seconds)
        if job is None:
            return self._jobs.pending(job_id)
        self._jobs.forget_soon(job)
        return self._jobs.envelope(job)

    async def _purge(self, endpoint: Discovered, scope: Scope, receive: Receive) -> Answer:
        removed = self._jobs.purge(self._pool_of(endpoint))
        return answer(200, {"removed": removed, "status": "completed"})

    async def _health(self, endpoint: Discovered) -> Answer:
        return answer(200, self._jobs.health(self._pool_of(endpoint)))

    async def _status(self, pool: Pool, job_id: str, scope: Scope) -> Answer:
        return self._jobs.envelope(self._jobs.get(pool, job_id))

    async def _stream(self, pool: Pool, job_id: str, scope: Scope) -> Answer:
        return await stream_answer(self._jobs, pool, job_id, query(scope))

    async def _cancel(self, pool: Pool, job_id: str, scope: Scope) -> Answer:
        job = self._jobs.get(pool, job_id)
        self._jobs.cancel(job_id)
        ended = await self._jobs.end(job_id, 5.0)
        return self._jobs.envelope(ended or job)


def wait_seconds(scope: Scope, default_ms: int) -> float:
    """How long the client wants to wait (`?wait=MS`), within what is allowed."""
    given = query(scope).get("wait")
    if given is None:
        return default_ms / 1000
    low, high = _WAIT_MS
    if not given.isdigit() or not low <= int(given) <= high:
        raise Refusal(400, f"wait={given!r} is not from {low} to {high} (milliseconds)")
    return int(given) / 1000
