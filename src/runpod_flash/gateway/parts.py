"""What a server has at a path beside endpoints and apps: on the way of every request."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from runpod_flash.gateway.control import is_control

if TYPE_CHECKING:
    from runpod_flash.gateway.hosted.graphql import HostedApi
    from runpod_flash.gateway.management import Answering, Management
    from runpod_flash.gateway.workers import Workers

# Of so many paths, each up to so long, it is remembered what is there: most requests are for few.
_MOST = 1000
_LONGEST = 200


class Part(NamedTuple):
    """What is there; nothing of it where all are false.

    `brought` is about programs' apps and their files.
    """

    workers: Workers | None
    uploads: HostedApi | None
    control: bool
    brought: bool
    managed: Answering | None


class Parts:
    """See the module; what answers stays the same as long as the gateway."""

    def __init__(self, workers: Workers | None, management: Management) -> None:
        self._workers = workers
        self._management = management
        self._known: dict[str, Part] = {}

    def at(self, path: str) -> Part:
        part = self._known.get(path)
        if part is None:
            part = self._find(path)
            if len(self._known) >= _MOST:
                self._known.clear()
            if len(path) <= _LONGEST and part.uploads is None:  # (those are used once)
                self._known[path] = part
        return part

    def _find(self, path: str) -> Part:
        workers = self._workers
        return Part(
            workers if workers is not None and workers.asked(path) else None,
            self._management.uploads(path),
            is_control(path),
            path.startswith(("/v2/sessions/", "/v2/blobs")),
            self._management.of(path),
        )
