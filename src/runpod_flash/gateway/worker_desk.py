"""Where containers of this machine ask for jobs: a listener of its own, for their tokens alone.

It serves nothing but the worker protocol, at an address that only they need to reach.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, NamedTuple

from runpod_flash.control.worker_tokens import WorkerTokens
from runpod_flash.gateway.messages import Refusal
from runpod_flash.gateway.server import GatewayServer
from runpod_flash.gateway.worker_api import WorkerApi
from runpod_flash.gateway.workers import Workers
from runpod_flash.links.runpod_variables import runpod_variables

if TYPE_CHECKING:
    from collections.abc import Callable

    from runpod_flash.gateway.messages import Receive, Scope, Send
    from runpod_flash.links.image import ImageLink
    from runpod_flash.links.runpod_http import RunPodLink
    from runpod_flash.plane.plane import Plane
    from runpod_flash.plane.pool import Pool, Worker


class _Seat(NamedTuple):
    """A worker that may come, its link, and what ends it."""

    link: ImageLink
    end: Callable[[str], None]


class WorkerDesk:
    """`engines.docker.engine.Desk` of a plane. On the plane's loop."""

    def __init__(self, plane: Plane) -> None:
        self._plane = plane
        self._tokens = WorkerTokens(time.time)
        self._seats: dict[str, _Seat] = {}
        self._api = WorkerApi(plane, self._tokens, self)
        self._server: GatewayServer | None = None
        self._host = ""

    async def open(self, listen: str, host: str) -> None:
        """Listen at an address of this machine, which containers call `host`."""
        self._host = host
        self._server = GatewayServer(self, listen, 0, tries=1, early=True)
        await self._server.start()

    async def expect(
        self, endpoint: str, link: ImageLink, end: Callable[[str], None]
    ) -> dict[str, str]:
        """The variables by which a new worker finds its jobs; `end` ends it for a reason."""
        assert self._server is not None
        issued = await self._tokens.issue(endpoint, link.worker_id)
        self._seats[link.worker_id] = _Seat(link, end)
        address = f"http://{self._host}:{self._server.port}"
        found = runpod_variables(address, endpoint, link.worker_id, issued.token)
        # (Its package writes several lines for each job otherwise.)
        return {"RUNPOD_DEBUG_LEVEL": "INFO", **found}

    async def dismiss(self, worker_id: str) -> None:
        """The worker is gone."""
        self._seats.pop(worker_id, None)
        await self._tokens.revoke(worker_id)

    async def close(self) -> None:
        if self._server is not None:
            await self._server.stop(0)

    # The links of the workers, as `WorkerApi` asks for them

    def find(self, worker_id: str) -> RunPodLink | None:
        seat = self._seats.get(worker_id)
        return None if seat is None else seat.link.queue

    async def of(self, pool: Pool, worker_id: str) -> RunPodLink | None:
        seat = self._seats.get(worker_id)
        link = None if seat is None or self._plane.draining else seat.link.asks()
        return None if link is None or link.stopping else link

    def replace(self, worker_id: str) -> None:
        worker = self._worker(worker_id)
        if worker is not None:
            self._plane.retire(worker)

    def detach(self, worker_id: str, reason: str) -> None:
        seat = self._seats.get(worker_id)
        if seat is not None:
            seat.end(reason)

    def _worker(self, worker_id: str) -> Worker | None:
        return next((each for each in self._plane.workers() if each.id == worker_id), None)

    # ASGI

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1008})
            return
        try:
            if not Workers.asked(scope["path"]):
                raise Refusal(404, "here are jobs of workers, and nothing else")
            worker = self._worker(scope["path"].split("/")[4])
            pool = None if worker is None else worker.pool
            answer = await self._api.answer(pool, scope, receive)
        except Refusal as refusal:
            answer = refusal.answer
        except ConnectionError:
            return  # the worker has left
        await answer.send(send)
