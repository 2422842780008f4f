"""The addresses of functions and methods: /FILE/FUNCTION/runsync and its siblings."""

from __future__ import annotations

from typing import TYPE_CHECKING

from runpod_flash.gateway.inputs import read_input
from runpod_flash.gateway.messages import Answer, Refusal, answer, read_body, wrong_method
from runpod_flash.gateway.waiting import until_gone
from runpod_flash.plane.store.base import JobState

if TYPE_CHECKING:
    from collections.abc import Callable

    from runpod_flash.gateway.addresses import Addresses, Bound
    from runpod_flash.gateway.jobs import Jobs
    from runpod_flash.gateway.messages import Receive, Scope
    from runpod_flash.plane.pool import Pool
    from runpod_flash.project.catalog import Discovered

RUN_LIMIT = 10_000_000
RUNSYNC_LIMIT = 20_000_000
REMEDY = "put large data on a volume, or take it through a route, which streams"


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
        await until_gone(self._jobs, job_id, ended, receive)
        job = ended.result()
        self._jobs.delivered(job)
        return self._jobs.objects.told_by_status(job)

    async def _look(self, bound: Bound, verb: str, job_id: str, scope: Scope) -> Answer:
        pool = self._pool_of(bound.endpoint)
        if verb == "stream":
            return await self._jobs.streams.answer(pool, job_id, scope)
        job = self._jobs.get(pool, job_id)
        if verb == "cancel":
            self._jobs.cancel(job_id)
            job = self._jobs.get(pool, job_id)
        return self._jobs.objects.described(job)


def _check_method(scope: Scope, wanted: str) -> None:
    if scope["method"] != wanted:
        raise wrong_method(scope, wanted)
