"""Bodies of the control API as their readers get them."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from runpod_flash.gateway.bodies import Body, closed, listed
from runpod_flash.gateway.messages import Refusal

INTEGER = {"type": "integer", "minimum": 0}
BODY = Body(
    {
        "size": INTEGER,
        "delay": {"type": "number"},
        "gpu": closed({"count": INTEGER}),
        "cpu": listed(closed({"vcpuCount": INTEGER})),
        "env": {"type": "object", "additionalProperties": {"type": "string"}},
    }
)


def read(value: Any) -> Any:
    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": json.dumps(value).encode()}

    return asyncio.run(BODY.read({"type": "http", "method": "POST", "headers": []}, receive))


def test_whole_floats_are_integers_where_these_are_asked_for() -> None:
    sent = {"size": 3.0, "gpu": {"count": 2.0}, "cpu": [{"vcpuCount": 1.0}], "delay": 2.0}
    found = read({**sent, "env": {"A": "1.0"}})
    numbers = [found["size"], found["gpu"]["count"], found["cpu"][0]["vcpuCount"]]
    assert numbers == [3, 2, 1] and all(type(each) is int for each in numbers)
    assert type(found["delay"]) is float and found["env"] == {"A": "1.0"}


@pytest.mark.parametrize("size", [2.5, -1.0, "2"])
def test_other_numbers_are_refused(size: Any) -> None:
    with pytest.raises(Refusal):
        read({"size": size})
