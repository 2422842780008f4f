"""What a server has besides endpoints, as resources below /v2; their errors are problem documents.

(RFC 9457, in the hosted service's shape: title, status, detail, errors.)
"""

from __future__ import annotations

import json
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Protocol

from runpod_flash.gateway.messages import Answer, Refusal, parse_json, read_body
from runpod_flash.project.collisions import RESERVED_NAMES

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from runpod_flash.gateway.messages import Receive, Scope

_BODY_LIMIT = 1_000_000
_PROBLEM = b"application/problem+json"


class Resource(Protocol):
    """What answers below /v2/NAME; `rest` are the segments after the name."""

    async def answer(self, rest: Sequence[str], scope: Scope, receive: Receive) -> Answer: ...


class InvalidError(Refusal):
    """The 422 of a body whose fields are wrong: a sentence for each."""

    def __init__(self, errors: Sequence[str]) -> None:
        super().__init__(422, "; ".join(errors))
        self.errors = list(errors)


class ControlApi:
    """`resources` by their names, all of which are reserved words."""

    def __init__(self, resources: Mapping[str, Resource]) -> None:
        self._resources = dict(resources)

    def owns(self, path: str) -> bool:
        """Whether the path is not an endpoint's."""
        return path.startswith("/v2/") and _name(path) in RESERVED_NAMES

    async def answer(self, scope: Scope, receive: Receive) -> Answer:
        """The answer to a request for a path that it owns."""
        _, _, name, *rest = scope["path"].split("/")
        resource = self._resources.get(name)
        if resource is None:
            raise Refusal(404, f"this server has no {name}; /docs lists what it has")
        return await resource.answer(rest, scope, receive)

    def worded(self, scope: Scope, refusal: Refusal) -> Answer:
        """The refusal as clients of its address read it."""
        return problem(refusal) if self.owns(scope["path"]) else refusal.answer


def _name(path: str) -> str:
    return path.split("/", 3)[2]


def problem(refusal: Refusal) -> Answer:
    """A refusal as a problem document."""
    status = refusal.answer.status
    fields: dict[str, Any] = {
        "title": HTTPStatus(status).phrase,
        "status": status,
        "detail": str(refusal),
    }
    if isinstance(refusal, InvalidError):
        fields |= {"detail": "Request validation failed.", "errors": refusal.errors}
    return Answer(status, json.dumps(fields).encode(), _PROBLEM, refusal.answer.headers)


async def read_fields(scope: Scope, receive: Receive, known: Collection[str]) -> dict[str, Any]:
    """The body's JSON object; 422 names fields that are not known."""
    body = await read_body(scope, receive, _BODY_LIMIT, "it holds a few fields")
    value = parse_json(body)
    if not isinstance(value, dict):
        raise InvalidError([f"$: a JSON object is needed, with {', '.join(known)}"])
    unknown = [name for name in value if name not in known]
    if unknown:
        raise InvalidError(
            [f"$: {name!r} is no field here; known are {', '.join(known)}" for name in unknown]
        )
    return value
