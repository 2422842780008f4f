"""Jobs for a server with OpenAI's API: which request an `input` means, and what its answer is."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, NamedTuple

from runpod_flash.errors import JobError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

# The key of an input that has no route, and the route that it is for.
_ROUTES = {"messages": "/v1/chat/completions", "prompt": "/v1/completions"}


class Asked(NamedTuple):
    """The request of a job. `openai`: the caller wants the server's own words, also of errors."""

    method: str
    route: str
    body: dict[str, Any]
    openai: bool

    @property
    def streams(self) -> bool:
        return self.body.get("stream") is True

    def result(self, status: int, content: bytes) -> Any:
        """The job's result. Raises `JobError` for an answer that is none."""
        try:
            value = json.loads(content)
        except ValueError:
            value = content.decode(errors="replace")
        if status < 400:
            return value
        if self.openai and isinstance(value, dict):
            return {"object": "error", "code": status, **_error(value)}
        raise JobError(f"{self.method} {self.route} answered {status}: {str(value)[:2000]}")


def _error(value: dict[str, Any]) -> dict[str, Any]:
    # (Servers have the error's fields in an object of their own, or not.)
    return {**value, "object": "error"} if isinstance(value.get("error"), dict) else value


def asked_by(value: Any) -> Asked:
    """The request that an input is for. Raises `JobError` for one that is for none."""
    if isinstance(value, dict):
        if isinstance(route := value.get("openai_route"), str):
            body = value.get("openai_input") or {}
            _check(route, body)
            return Asked("POST" if body else "GET", route, body, openai=True)
        for key, route in _ROUTES.items():
            if key in value:
                return Asked("POST", route, value, openai=False)
    keys = " or ".join(f"'{key}'" for key in _ROUTES)
    raise JobError(
        f"this worker is an HTTP server: a job's input has {keys}, as OpenAI's API takes them, or "
        "'openai_route' and 'openai_input'; ask other routes by post() or get()"
    )


def _check(route: str, body: Any) -> None:
    """Refuse a route that could be more than a path on the worker's server and its query."""
    path = route.partition("?")[0]
    below = path.startswith("/") and not path.startswith("//") and ".." not in path.split("/")
    if not below or not route.isprintable() or "\\" in route or "#" in route:
        raise JobError(
            f"'openai_route' is a path on the worker's server, such as /v1/models, without '//' at "
            f"its start, '..', '\\', '#' and control characters; it was {route!r:.200}"
        )
    if not isinstance(body, dict):
        raise JobError(
            f"'openai_input' is the request's body, an object such as {{'model': 'NAME'}}; it was "
            f"{body!r:.200}"
        )


async def events_of(lines: AsyncIterator[str]) -> AsyncIterator[str]:
    """Server-sent events as they are, each with what ends it."""
    event: list[str] = []
    async for line in lines:
        if line:
            event.append(line)
        elif event:
            yield "\n".join(event) + "\n\n"
            event = []
    if event:
        yield "\n".join(event) + "\n\n"
