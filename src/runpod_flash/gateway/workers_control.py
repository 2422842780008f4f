"""Tokens of workers that are started elsewhere: POST /v2/serverless/ENDPOINT/workers.

For who may deploy. (The list of workers is `control.py`'s.)
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from runpod_flash.gateway.access import require
from runpod_flash.gateway.external import check_name
from runpod_flash.gateway.messages import Answer, answer, wrong_method
from runpod_flash.gateway.problems import invalid, problem
from runpod_flash.gateway.resources import read_fields

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from runpod_flash.control.worker_tokens import WorkerTokens
    from runpod_flash.gateway.messages import Receive, Scope
    from runpod_flash.gateway.workers import Find
    from runpod_flash.plane.plane import Plane
    from runpod_flash.plane.pool import Pool

# An answer that holds a token is for one reader.
_NO_STORE = (b"cache-control", b"no-store")


class WorkersControl:
    """A `Resource`. `find` gives an endpoint by its name, with its pool; `externals_changed` has
    the gateway serve the external endpoints that there are now.
    """

    def __init__(
        self,
        plane: Plane,
        tokens: WorkerTokens,
        find: Find,
        externals_changed: Callable[[], object],
    ) -> None:
        self._plane = plane
        self._tokens = tokens
        self._find = find
        self._externals_changed = externals_changed

    async def answer(self, rest: Sequence[str], scope: Scope, receive: Receive) -> Answer:
        require(scope, "deploy")
        name, *below = rest or [""]
        method = scope["method"]
        if not below and name in self._tokens.externals:
            if method != "DELETE":
                raise wrong_method(scope, "DELETE")
            return await self._drop(name)
        if below == ["workers"]:
            if method != "POST":
                raise wrong_method(scope, "GET, POST")
            return await self._create(name, await read_fields(scope, receive, ("external",)))
        if len(below) == 2 and below[0] == "workers":
            if method != "DELETE":
                raise wrong_method(scope, "DELETE")
            return await self._revoke(name, below[1])
        raise problem(404, f"nothing is at {scope['path']}; ask /v2/serverless/ENDPOINT/workers")

    def _pool(self, name: str) -> Pool:
        found = self._find(name)
        if found is None:
            raise problem(
                404,
                f"there is no endpoint {name!r}; `flash ps` shows all, and `flash worker env "
                "--new` makes one for a program of RunPod's package",
            )
        return found[1]

    async def _create(self, name: str, fields: dict[str, Any]) -> Answer:
        external = fields.get("external", False)
        if not isinstance(external, bool):
            raise invalid(f"$.external: true or false is needed, not {external!r}")
        if external and self._find(name) is None:
            check_name(name)
            await self._tokens.add_external(name)
            self._externals_changed()
        self._pool(name)
        worker_id, token = await self._tokens.issue(name)
        made = {"id": worker_id, "endpoint": name, "token": token}
        return answer(201, made, _NO_STORE)

    async def _revoke(self, name: str, worker_id: str) -> Answer:
        if worker_id not in [each.id for each in self._tokens.of(name)]:
            raise problem(404, f"{name} has no worker {worker_id!r} with a token of its own")
        await self._tokens.revoke(worker_id)
        self._plane.detach(worker_id, "was given up, its token revoked")
        return Answer(204, b"")

    async def _drop(self, name: str) -> Answer:
        workers = [each.id for each in self._tokens.of(name)]
        await self._tokens.drop_external(name)
        self._externals_changed()
        for worker_id in workers:
            self._plane.detach(worker_id, "has lost its endpoint")
        return Answer(204, b"")
