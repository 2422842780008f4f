"""/healthz and /readyz, for whatever watches over the server's process. They need no key."""

from __future__ import annotations

from typing import TYPE_CHECKING

from runpod_flash.gateway.messages import Answer, answer, wrong_method

if TYPE_CHECKING:
    from runpod_flash.gateway.messages import Scope

_PATHS = ("/healthz", "/readyz")


def probed(scope: Scope, ready: bool) -> Answer | None:
    """The answer, or None for another path. It tells nothing else, so that any Host may ask."""
    path = scope["path"]
    if path not in _PATHS or scope["type"] != "http":
        return None
    if scope["method"] not in ("GET", "HEAD"):
        raise wrong_method(scope, "GET, HEAD")
    if path == "/readyz" and not ready:
        return answer(503, {"status": "stopping"})
    return answer(200, {"status": "ok"})
