"""Workers that ask over HTTP: attached when they first ask, detached once they are dead."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, NamedTuple

from runpod_flash.links.runpod_http import RunPodLink

if TYPE_CHECKING:
    from runpod_flash.control.worker_tokens import WorkerTokens
    from runpod_flash.plane.plane import Plane
    from runpod_flash.plane.pool import Pool, Worker

_LOOK_SECONDS = 1.0
# A worker that is to be replaced and asks again within so long is the same process; a new one
# takes longer to start.
_SAME_PROCESS_SECONDS = 1.5


class _Attached(NamedTuple):
    link: RunPodLink
    worker: Worker


class WorkerLinks:
    """By the workers' ids; on the plane's loop."""

    def __init__(self, plane: Plane, tokens: WorkerTokens) -> None:
        self._plane = plane
        self._tokens = tokens
        self._loop = asyncio.get_running_loop()
        self._attached: dict[str, _Attached] = {}
        self._resting: dict[str, float] = {}
        self._looking = False

    def find(self, worker_id: str) -> RunPodLink | None:
        """The link of a worker that is attached."""
        found = self._attached.get(worker_id)
        return None if found is None or found.link.closed else found.link

    async def of(self, pool: Pool, worker_id: str) -> RunPodLink | None:
        """The link of a worker that asks for work; None while it is to get none."""
        if self._plane.draining or self._rests(worker_id):
            return None
        link = self.find(worker_id)
        if link is None:
            link = RunPodLink(worker_id)
            self._attached[worker_id] = _Attached(link, self._plane.attach(pool, worker_id, link))
            await self._tokens.came(worker_id)
            self._look_on()
        return None if link.stopping else link

    def replace(self, worker_id: str) -> None:
        """The worker wants to be started anew: this process of it gets no more jobs."""
        found = self._attached.get(worker_id)
        if found is not None:
            self._resting[worker_id] = self._loop.time()
            self._plane.retire(found.worker)

    def detach(self, worker_id: str, reason: str) -> None:
        """It is gone, for a reason that is known; `reason` is a phrase."""
        if self._attached.pop(worker_id, None) is not None:
            self._plane.detach(worker_id, reason)

    def _rests(self, worker_id: str) -> bool:
        since, now = self._resting.get(worker_id), self._loop.time()
        if since is None or now - since > _SAME_PROCESS_SECONDS:
            self._resting.pop(worker_id, None)
            return False
        self._resting[worker_id] = now
        return True

    def _look_on(self) -> None:
        if not self._looking:
            self._looking = True
            self._loop.call_later(_LOOK_SECONDS, self._look)

    def _look(self) -> None:
        self._looking = False
        for worker_id, each in list(self._attached.items()):
            if each.link.closed:
                del self._attached[worker_id]
                continue
            death = each.link.life.death()
            if death:
                self.detach(worker_id, death)
            else:
                self._tokens.heard(worker_id)
        if self._attached:
            self._look_on()
