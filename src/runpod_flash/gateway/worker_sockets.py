"""Flash's own workers on other machines: a WebSocket for each, at /v2/ENDPOINT/worker.

`agent/` is the other end; docs/protocol.md has what is said.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from runpod_flash.control.worker_tokens import worker_of
from runpod_flash.gateway.messages import Refusal
from runpod_flash.gateway.worker_api import token_of
from runpod_flash.gateway.worker_connection import WorkerConnection
from runpod_flash.links.relay import REPLACED, REVOKED, SUBPROTOCOL

if TYPE_CHECKING:
    from runpod_flash.control.worker_tokens import WorkerTokens
    from runpod_flash.gateway.messages import Receive, Scope, Send
    from runpod_flash.gateway.projects import Projects
    from runpod_flash.plane.plane import Plane
    from runpod_flash.plane.pool import Pool


class WorkerSockets:
    """See the module; `tokens` say which worker may connect. On the plane's loop."""

    def __init__(self, plane: Plane, tokens: WorkerTokens, projects: Projects) -> None:
        self._plane = plane
        self._tokens = tokens
        self._projects = projects
        self._open: dict[str, WorkerConnection] = {}

    async def serve(
        self, name: str, pool: Pool | None, scope: Scope, receive: Receive, send: Send
    ) -> None:
        """Serve a worker of that endpoint until one of the two ends leaves; or raise `Refusal`."""
        worker_id = self._admitted(name, scope)
        if pool is None:
            raise Refusal(404, f"there is no endpoint {name!r} here any more")
        if pool.spec.external:
            raise Refusal(
                409, f"{name!r} has no code here: start a worker of RunPod's package instead"
            )
        if self._plane.draining:
            raise Refusal(503, "this server is about to end")
        connection = WorkerConnection(self._plane, self._projects, worker_id, pool, receive, send)
        revoked = partial(connection.end, REVOKED, "its token was revoked")
        async with self._tokens.connected(worker_id, revoked):
            await send({"type": "websocket.accept", "subprotocol": SUBPROTOCOL})
            await self._alone(worker_id, connection)

    async def _alone(self, worker_id: str, connection: WorkerConnection) -> None:
        former = self._open.get(worker_id)
        if former is not None:
            former.end(REPLACED, "its token is used by another process")
        self._open[worker_id] = connection
        if former is not None:
            await former.gone.wait()
        try:
            await connection.serve()
        finally:
            if self._open.get(worker_id) is connection:
                del self._open[worker_id]

    def _admitted(self, name: str, scope: Scope) -> str:
        """The id of the worker that may connect."""
        token = token_of(scope)
        worker_id = worker_of(token)
        if not self._tokens.check(name, worker_id, token):
            raise Refusal(
                401,
                f"this is no token of a worker of {name!r}, or it was revoked; "
                f"`flash worker env {name}` makes one",
            )
        if SUBPROTOCOL not in scope.get("subprotocols", ()):
            raise Refusal(
                400,
                f"this server speaks {SUBPROTOCOL}, and the worker does not: install the same "
                "version of Flash on both machines",
            )
        return worker_id
