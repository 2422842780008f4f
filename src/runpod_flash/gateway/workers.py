"""What workers from elsewhere ask, by tokens of their own; no key is good for it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from runpod_flash.gateway.projects import Projects
from runpod_flash.gateway.worker_api import METHODS, WorkerApi
from runpod_flash.gateway.worker_sockets import WorkerSockets

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from runpod_flash.control.worker_tokens import WorkerTokens
    from runpod_flash.gateway.messages import Answer, Receive, Scope, Send
    from runpod_flash.plane.plane import Plane
    from runpod_flash.plane.pool import Pool
    from runpod_flash.project.catalog import Discovered

    Find = Callable[[str], tuple[Discovered, Pool] | None]

_VERBS = frozenset(METHODS)
# Where a WebSocket of Flash's own workers is opened.
_SOCKET = "worker"


class Workers:
    """`find` gives an endpoint by its name, with its pool. What was brought is below `brought`."""

    def __init__(
        self, plane: Plane, tokens: WorkerTokens, find: Find, brought: Path | None
    ) -> None:
        self._find = find
        self._api = WorkerApi(plane, tokens)
        self._sockets = WorkerSockets(plane, tokens, Projects(brought))

    @staticmethod
    def asked(path: str) -> bool:
        """Whether a path is a worker's; on the way of every request."""
        if not path.startswith("/v2/"):
            return False
        parts = path.split("/", 5)
        return len(parts) > 4 and parts[3] in _VERBS

    async def answer(self, scope: Scope, receive: Receive) -> Answer:
        """The answer to a request."""
        name = scope["path"].split("/")[2]
        found = self._find(name)
        has_queue = found is not None and bool(found[0].operations)
        return await self._api.answer(found[1] if found and has_queue else None, scope, receive)

    @staticmethod
    def connects(path: str) -> bool:
        """Whether a WebSocket's path is that of a worker."""
        parts = path.split("/", 4)
        return len(parts) == 4 and parts[1] == "v2" and parts[3] == _SOCKET

    async def connect(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a worker's WebSocket."""
        name = scope["path"].split("/")[2]
        found = self._find(name)
        await self._sockets.serve(name, found[1] if found else None, scope, receive, send)
