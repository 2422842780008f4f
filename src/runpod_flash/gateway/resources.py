"""What a server has besides endpoints: resources below /v2, whose errors are problem documents."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from runpod_flash.gateway.messages import Refusal, parse_text_json, read_body, wrong_method
from runpod_flash.gateway.problems import as_problem, invalid, problem
from runpod_flash.project.collisions import RESERVED_NAMES

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence

    from runpod_flash.gateway.messages import Answer, Receive, Scope, Sendable

_BODY_LIMIT = 1_000_000
# (What is left out is not the control API's: its clients read another kind of refusal.)
_NAMES = RESERVED_NAMES - {"blobs", "flash", "openapi.json", "sessions"}


class Resource(Protocol):
    """What answers below /v2/NAME; `rest` are the segments after the name."""

    async def answer(self, rest: Sequence[str], scope: Scope, receive: Receive) -> Sendable: ...


class Resources:
    """Resources by their names, which are reserved words; without any, nothing is reserved."""

    def __init__(self, resources: Mapping[str, Resource]) -> None:
        self._resources = dict(resources)

    def owns(self, path: str) -> bool:
        """Whether the path is a resource's, and not an endpoint's."""
        if not self._resources or not path.startswith("/v2/"):
            return False
        return path.split("/", 3)[2] in _NAMES

    async def answer(self, scope: Scope, receive: Receive) -> Sendable:
        """The answer to a request for a path that it owns."""
        _, _, name, *rest = scope["path"].split("/")
        resource = self._resources.get(name)
        if resource is None:
            raise problem(404, f"this server has no {name}; /docs lists what it has")
        return await resource.answer(rest, scope, receive)

    def worded(self, scope: Scope, refusal: Refusal) -> Answer:
        """The refusal as clients of its address read it."""
        return as_problem(refusal) if self.owns(scope["path"]) else refusal.answer


def allow(scope: Scope, *methods: str) -> None:
    """Raise the refusal of a request whose method is none of these."""
    if scope["method"] not in methods:
        raise wrong_method(scope, ", ".join(methods))


def page(name: str, items: Iterable[Any]) -> dict[str, Any]:
    """A list of resources as answers have it: all of it, on one page."""
    return {name: list(items), "pagination": {"hasNextPage": False}}


async def read_fields(scope: Scope, receive: Receive, known: Collection[str]) -> dict[str, Any]:
    """The body's JSON object; 422 names fields that are not known."""
    body = await read_body(scope, receive, _BODY_LIMIT, "it holds a few fields")
    value = parse_text_json(body)
    if not isinstance(value, dict):
        raise invalid(f"$: a JSON object is needed, with {', '.join(known)}")
    unknown = [name for name in value if name not in known]
    if unknown:
        names = ", ".join(known)
        raise invalid(*(f"$: {name!r} is no field here; known are {names}" for name in unknown))
    return value
