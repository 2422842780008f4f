"""The endpoint id `flash`: programs of the hosted SDK name their endpoint by headers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from runpod_flash.gateway.messages import Refusal, header

if TYPE_CHECKING:
    from runpod_flash.gateway.messages import Scope

SENTINEL = "flash"
# That SDK sends no empty input, but this.
_EMPTY = {"__empty": True}


def asked(path: str) -> bool:
    """Whether the endpoint id in the path is this one."""
    return path.startswith(f"/v2/{SENTINEL}/")


def named_by_headers(scope: Scope) -> tuple[str, str, str]:
    """The app, the environment and the endpoint that are meant."""
    name = header(scope, b"x-flash-endpoint")
    if not name:
        raise Refusal(404, "the endpoint id 'flash' takes the endpoint's name in X-Flash-Endpoint")
    app = header(scope, b"x-flash-app") or ""
    return app, header(scope, b"x-flash-environment") or "production", name


def without_marker(scope: Scope, value: Any) -> Any:
    """The input, with the stand-in for an empty one undone."""
    return {} if asked(scope["path"]) and value == _EMPTY else value
