"""The endpoint id `flash`: programs of the hosted SDK name their endpoint by headers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from runpod_flash.gateway.addresses import prefix_of
from runpod_flash.gateway.messages import Refusal, header

if TYPE_CHECKING:
    from collections.abc import Callable

    from runpod_flash.gateway.messages import Scope
    from runpod_flash.project.catalog import Discovered

SENTINEL = "flash"
OPERATORS = (f"/v2/{SENTINEL}/overview", f"/v2/{SENTINEL}/logs")
_NAME = b"x-flash-endpoint"
# That SDK sends no empty input, but this.
_EMPTY = {"__empty": True}


def asked(path: str) -> bool:
    """Whether the endpoint id in the path is this one. (What operators ask has the same prefix.)"""
    return path.startswith(f"/v2/{SENTINEL}/") and path not in OPERATORS


def named_by_headers(scope: Scope) -> tuple[str, str, str]:
    """The app, the environment and the endpoint that are meant."""
    name = header(scope, _NAME)
    if not name:
        raise Refusal(404, "the endpoint id 'flash' takes the endpoint's name in X-Flash-Endpoint")
    app = header(scope, b"x-flash-app") or ""
    return app, header(scope, b"x-flash-environment") or "production", name


def naming(scope: Scope, name: str) -> Scope:
    """The same request for the endpoint of that name."""
    headers = [each for each in scope["headers"] if each[0] != _NAME]
    return {**scope, "headers": [*headers, (_NAME, name.encode())]}


def at_own_path(scope: Scope, find: Callable[[str, str, str], Discovered | None]) -> Scope:
    """A request for a route of the endpoint that its headers name, at the route's own address."""
    if scope["path"].startswith("/v2/") or header(scope, _NAME) is None:
        return scope
    app, environment, name = named_by_headers(scope)
    endpoint = find(app, environment, name)
    if endpoint is None or not endpoint.routes:
        raise Refusal(404, f"there is no endpoint {name!r} with routes here")
    return {**scope, "path": f"{prefix_of(endpoint)}{scope['path']}"}


def without_marker(scope: Scope, value: Any) -> Any:
    """The input, with the stand-in for an empty one undone."""
    return {} if asked(scope["path"]) and value == _EMPTY else value
