"""The queue API, /v2/ENDPOINT/run and its siblings, as clients of the hosted service know it.

Flash's own SDK asks the same addresses, with frames for bodies: they carry values and failures that
JSON has no words for (docs/protocol.md).
"""

from __future__ import annotations

import asyncio
import functools
from typing import TYPE_CHECKING, Any, NamedTuple

from runpod_flash.gateway import idempotency
from runpod_flash.gateway.access import require
from runpod_flash.gateway.addresses import prefix_of
from runpod_flash.gateway.functions import REMEDY, RUN_LIMIT, RUNSYNC_LIMIT
from runpod_flash.gateway.health import health, metrics
from runpod_flash.gateway.job_object import summary
from runpod_flash.gateway.jobs import call_of, within
from runpod_flash.gateway.messages import (
    Answer,
    Refusal,
    answer,
    header,
    read_body,
    whole_number,
    wrong_method,
)
from runpod_flash.gateway.native import NOT_KNOWN, NativeApi
from runpod_flash.gateway.openai import OpenAiApi
from runpod_flash.gateway.sentinel import SENTINEL, named_by_headers, without_marker
from runpod_flash.gateway.submission import read_submission
from runpod_flash.plane.store.base import JobState, NewJob, Policy
from runpod_flash.plane.store.memory import now
from runpod_flash.project.catalog import choose_method
from runpod_flash.suggest import did_you_mean, near
from runpod_flash.wire.frames import MEDIA_TYPE

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from runpod_flash.gateway.addresses import Addresses
    from runpod_flash.gateway.jobs import Jobs
    from runpod_flash.gateway.messages import Receive, Scope, Sendable
    from runpod_flash.gateway.submission import Submission
    from runpod_flash.plane.pool import Pool
    from runpod_flash.project.catalog import Discovered

_WAIT_MS = (1000, 300_000)
_DEFAULT_WAIT_MS = 90_000
_REQUESTS = (1, 1000)
# (Jobs of one endpoint have few, and those that are kept share them.)
_policy = functools.lru_cache(maxsize=1000)(Policy)


class _Verb(NamedTuple):
    """An operation, with the methods that it takes."""

    methods: tuple[str, ...]
    run: Callable[..., Awaitable[Answer]]


class QueueApi:
    """See the module. `find` gives what is deployed under an app, an environment and a name.

    `ids` are those of endpoints that are deployed, with their names.

    Only the code's owner may send frames.
    """

    def __init__(
        self,
        jobs: Jobs,
        pool_of: Callable[[Discovered], Pool],
        find: Callable[[str, str, str], Discovered | None],
        ids: Callable[[], Mapping[str, str]],
    ) -> None:
        self._jobs = jobs
        self._pool_of = pool_of
        self._find = find
        self._ids = ids
        self._native = NativeApi(jobs)
        self._openai = OpenAiApi(jobs)
        # Of an endpoint, and of a job.
        self._verbs = {
            "run": _Verb(("POST",), self._run),
            "runsync": _Verb(("POST",), self._runsync),
            "purge-queue": _Verb(("POST",), self._purge),
            "health": _Verb(("GET",), self._health),
            "metrics": _Verb(("GET",), self._metrics),
            "requests": _Verb(("GET",), self._requests),
        }
        self._of_jobs = {
            "status": _Verb(("GET", "POST"), self._status),
            "stream": _Verb(("GET", "POST"), self._stream),
            "cancel": _Verb(("POST",), self._cancel),
            "retry": _Verb(("POST",), self._retry),
        }

    async def answer(self, addresses: Addresses, scope: Scope, receive: Receive) -> Sendable:
        """The answer to a request below /v2/."""
        _, _, name, *rest = scope["path"].split("/")
        verb = rest[0] if rest else ""
        framed = header(scope, b"content-type") == MEDIA_TYPE
        if framed and len(rest) == 2:
            require(scope, "deploy")
            if self._jobs.has_for_program(name, rest[1]):
                return await self._native.of_job(verb, rest[1], scope)
            if name not in addresses.names:
                return NOT_KNOWN
        endpoint = self._endpoint(addresses, name, scope)
        if not endpoint.operations and verb not in ("health", "metrics"):
            where = prefix_of(endpoint)
            raise Refusal(404, f"{name} has routes and no queue: call them below {where}/")
        if framed:
            require(scope, "deploy")
            pool = self._pool_of(endpoint)
            return await self._native.answer(endpoint, pool, rest, scope, receive)
        if verb == "openai" and len(rest) > 1:
            return await self._openai.answer(endpoint, self._pool_of(endpoint), scope, receive)
        if len(rest) == 1 and verb in self._verbs:
            return await _checked(self._verbs[verb], scope)(endpoint, scope, receive)
        if len(rest) == 2 and verb in self._of_jobs:
            run = _checked(self._of_jobs[verb], scope)
            return await run(self._pool_of(endpoint), rest[1], scope)
        verbs = [*self._verbs, *(f"{verb}/ID" for verb in self._of_jobs), "openai/PATH"]
        asked = f"{scope['method']} {scope['path']}"
        raise Refusal(404, f"{asked} is no operation of the queue API: {', '.join(verbs)}")

    def _endpoint(self, addresses: Addresses, name: str, scope: Scope) -> Discovered:
        if name == SENTINEL:
            app, environment, name = named_by_headers(scope)
            found = self._find(app, environment, name)
        else:
            found = addresses.names.get(name)
        if found is not None:
            return found
        problem = addresses.problem_of(name)
        if problem is not None:
            more = {"detail": problem.detail} if problem.detail else {}
            raise Refusal(500, problem.message, **more)
        raise Refusal(404, f"there is no endpoint {name!r}.{self._meant(addresses, name)}")

    def _meant(self, addresses: Addresses, name: str) -> str:
        """What is deployed is asked by its id, which may be spelled like, or its name."""
        ids = self._ids()
        if hint := did_you_mean(name, [*addresses.names, *ids]):
            return hint
        by_name = {deployed: endpoint_id for endpoint_id, deployed in ids.items()}
        found = near(name, by_name, 1)
        return f" Did you mean {by_name[found[0]]!r}?" if found else ""

    # Submitting

    async def _run(self, endpoint: Discovered, scope: Scope, receive: Receive) -> Answer:
        asked = read_submission(await read_body(scope, receive, RUN_LIMIT, REMEDY))
        kept = self._jobs.settings.run_retention_ms
        pool, new = self._new(endpoint, "run", asked, kept, scope)
        state = self._accept(pool, new, scope)
        return answer(200, {"id": new.id, "status": state.value})

    async def _runsync(self, endpoint: Discovered, scope: Scope, receive: Receive) -> Answer:
        seconds = wait_seconds(scope, _DEFAULT_WAIT_MS)
        asked = read_submission(await read_body(scope, receive, RUNSYNC_LIMIT, REMEDY))
        settings = self._jobs.settings
        waits = b"wait=" in scope["query_string"]
        retention = settings.waited_retention_ms if waits else settings.sync_retention_ms
        pool, new = self._new(endpoint, "runsync", asked, retention, scope)
        if header(scope, b"idempotency-key") is None:
            ended = await within(seconds, self._jobs.run_new(pool, new), None)
        else:
            self._accept(pool, new, scope)
            ended = await self._jobs.end(new.id, seconds)
        if ended is None:
            return self._jobs.pending(new.id)
        # (Soon: the answer is on its way by then.)
        asyncio.get_running_loop().call_soon(self._jobs.delivered, ended)
        return self._jobs.objects.answer(ended, kept=True)

    def _new(
        self, endpoint: Discovered, verb: str, asked: Submission, retention_ms: int, scope: Scope
    ) -> tuple[Pool, NewJob]:
        """The job that is asked for, and where it is to run."""
        method, value = _method_of(endpoint, without_marker(scope, asked.input))
        if asked.webhook:
            self._jobs.targets.check(asked.webhook, scope)
        pool = self._pool_of(endpoint)
        own = pool.spec.placement
        policy = _policy(
            own.max_attempts,
            own.restartable,
            asked.execution_timeout_ms or own.execution_timeout_ms,
            asked.ttl_ms or self._jobs.settings.ttl_ms,
            asked.low_priority,
            retention_ms,
        )
        new = NewJob(
            idempotency.job_id(scope, pool.key, verb), pool.key, call_of(value, method),
            policy, webhook=asked.webhook, extras=asked.extras,
        )  # fmt: skip
        return pool, new

    def _accept(self, pool: Pool, new: NewJob, scope: Scope) -> JobState:
        """Queue it, if it is not there; its state as far as it is known."""
        self._jobs.accept(pool, new)
        if header(scope, b"idempotency-key") is None:
            return JobState.IN_QUEUE
        job = self._jobs.get(pool, new.id)
        idempotency.check_same(scope, new, job)
        return job.state

    # Of an endpoint

    async def _purge(self, endpoint: Discovered, scope: Scope, receive: Receive) -> Answer:
        removed = self._jobs.purge(self._pool_of(endpoint))
        return answer(200, {"removed": removed, "status": "completed"})

    async def _health(self, endpoint: Discovered, scope: Scope, receive: Receive) -> Answer:
        return answer(200, health(self._jobs.store, self._pool_of(endpoint)))

    async def _metrics(self, endpoint: Discovered, scope: Scope, receive: Receive) -> Answer:
        return answer(200, metrics(self._pool_of(endpoint)))

    async def _requests(self, endpoint: Discovered, scope: Scope, receive: Receive) -> Answer:
        limit = whole_number(scope, "limit", 100, _REQUESTS)
        found = now(self._jobs.store.recent(self._pool_of(endpoint).key, limit))
        return answer(200, {"requests": [summary(job) for job in found]})

    # Of a job

    async def _status(self, pool: Pool, job_id: str, scope: Scope) -> Answer:
        return self._jobs.objects.answer(self._jobs.get(pool, job_id))

    async def _stream(self, pool: Pool, job_id: str, scope: Scope) -> Answer:
        return await self._jobs.streams.answer(pool, job_id, scope)

    async def _cancel(self, pool: Pool, job_id: str, scope: Scope) -> Answer:
        self._jobs.get(pool, job_id)
        self._jobs.cancel(job_id)
        return self._jobs.objects.answer(self._jobs.get(pool, job_id))

    async def _retry(self, pool: Pool, job_id: str, scope: Scope) -> Answer:
        self._jobs.retry(pool, self._jobs.get(pool, job_id))
        self._jobs.streams.forget(job_id)
        return answer(200, {"id": job_id, "status": JobState.IN_QUEUE.value})


def _checked(verb: _Verb, scope: Scope) -> Callable[..., Awaitable[Answer]]:
    if scope["method"] not in verb.methods:
        raise wrong_method(scope, ", ".join(verb.methods))
    return verb.run


def _method_of(endpoint: Discovered, value: Any) -> tuple[str, Any]:
    if not endpoint.owner:
        return "", value
    try:
        return choose_method(endpoint.owner, [o.method for o in endpoint.operations], value)
    except TypeError as error:
        raise Refusal(400, str(error)) from None


def wait_seconds(scope: Scope, default_ms: int) -> float:
    """How long the client wants to wait (`?wait=MS`), within what is allowed."""
    return whole_number(scope, "wait", default_ms, _WAIT_MS, " (milliseconds)") / 1000
