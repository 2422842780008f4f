"""A job request of the queue API: its input, and what it asks for beside it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, NamedTuple

from runpod_flash.gateway.messages import Refusal, parse_json

if TYPE_CHECKING:
    from collections.abc import Mapping

_WEEK_MS = 7 * 24 * 3_600_000
EXECUTION_MS = (5000, _WEEK_MS)
TTL_MS = (10_000, _WEEK_MS)
# What a job says of these is the server's to say.
_RESERVED = ("id", "input", "status", "webhook")


class Submission(NamedTuple):
    """What was asked. Times in milliseconds, 0 where nothing was said.

    `extras` are the other fields of the request, as the text of a JSON object.
    """

    input: Any
    execution_timeout_ms: int = 0
    ttl_ms: int = 0
    low_priority: bool = False
    webhook: str = ""
    extras: str = ""


def read_submission(body: bytes) -> Submission:
    """The request in a body; 400 says what is wrong with it."""
    request = parse_json(body)
    if not isinstance(request, dict) or "input" not in request:
        raise Refusal(
            400, 'the body is an object with the key "input", such as {"input": {"name": "value"}}'
        )
    if len(request) == 1:
        return Submission(request["input"])
    policy = _object(request, "policy")
    _object(request, "s3Config")
    others = {key: value for key, value in request.items() if key not in _RESERVED}
    return Submission(
        request["input"],
        _milliseconds(policy, "executionTimeout", *EXECUTION_MS),
        _milliseconds(policy, "ttl", *TTL_MS),
        _flag(policy, "lowPriority"),
        _text(request, "webhook"),
        json.dumps(others) if others else "",
    )


def _object(request: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    value = request.get(name)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise Refusal(400, f"{name} is an object, not {_shown(value)}")
    return value


def _milliseconds(policy: Mapping[str, Any], name: str, low: int, high: int) -> int:
    value = policy.get(name)
    if value is None:
        return 0
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise Refusal(
            400,
            f"policy.{name} is a whole number of milliseconds from {low} to {high}, "
            f"not {_shown(value)}",
        )
    return value


def _flag(policy: Mapping[str, Any], name: str) -> bool:
    value = policy.get(name)
    if value is not None and not isinstance(value, bool):
        raise Refusal(400, f"policy.{name} is true or false, not {_shown(value)}")
    return bool(value)


def _text(request: Mapping[str, Any], name: str) -> str:
    value = request.get(name)
    if value is not None and not isinstance(value, str):
        raise Refusal(400, f"{name} is a string, not {_shown(value)}")
    return value or ""


def _shown(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
