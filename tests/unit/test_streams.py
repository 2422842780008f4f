"""The stream operation: cursors, numbers, and chunks that are too large for known clients."""

from __future__ import annotations

import json
from base64 import b64decode, b64encode
from typing import TYPE_CHECKING, Any

import pytest

from runpod_flash.gateway.streams import CHUNK_LIMIT, items
from runpod_flash.plane.store.base import Chunk
from runpod_flash.wire.codec import encode
from unit.front import ask

if TYPE_CHECKING:
    from unit.front import Front


def shown(value: Any) -> list[Any]:
    found = list(items(Chunk(7, encode(value))))
    assert all(len(item) < CHUNK_LIMIT + 100 for item in found)
    return [json.loads(item) for item in found]


def test_a_chunk_has_its_number() -> None:
    assert shown({"a": 1}) == [{"index": 7, "output": {"a": 1}}]


@pytest.mark.parametrize("text", ["x" * 2_500_000, "ü" * 900_000, "\0" * 500_000, "😀" * 300_000])
def test_a_long_text_comes_in_parts(text: str) -> None:
    parts = shown(text)
    assert len(parts) > 1
    assert {part["index"] for part in parts} == {7}
    assert "".join(part["output"] for part in parts) == text


def test_long_bytes_come_in_parts_that_are_base64_each() -> None:
    data = bytes(range(256)) * 8000
    parts = [part["output"] for part in shown(data)]
    assert len(parts) > 1
    assert b"".join(map(b64decode, parts)) == data
    assert "".join(parts) == b64encode(data).decode()


def test_another_long_value_is_refused_in_its_place() -> None:
    (refused,) = shown(list(range(300_000)))
    assert refused["output"] is None
    assert "yield smaller values" in refused["error"]


def test_each_chunk_is_given_out_once_or_from_the_number_that_is_asked_for() -> None:
    async def scenario(front: Front) -> None:
        async def chunks(query: str = "") -> tuple[str, list[Any]]:
            part = (await front.get(f"stream/{job_id}{query}")).json()
            return part["status"], [each["output"] for each in part["stream"]]

        job_id = await front.run()
        began = front.rig.clock()
        assert await chunks() == ("IN_PROGRESS", [])
        assert front.rig.clock() - began < 9, "known clients wait for ten seconds"
        for index in range(3):
            front.link(job_id).chunk(job_id, index, index)
        assert await chunks() == ("IN_PROGRESS", [0, 1, 2])
        front.link(job_id).chunk(job_id, 3, 3)
        await front.finish(job_id)
        assert await chunks() == ("COMPLETED", [3])
        assert await chunks() == ("COMPLETED", [])
        assert await chunks("?start=1") == ("COMPLETED", [1, 2, 3])
        assert await chunks("?start=9") == ("COMPLETED", [])
        assert (await front.status(job_id))["output"] == [0, 1, 2, 3]
        for wrong in ("-1", "x", "²", "1.5"):
            assert (await front.get(f"stream/{job_id}?start={wrong}")).status_code == 400

    ask(scenario)


def test_one_answer_has_some_megabytes_at_most() -> None:
    async def scenario(front: Front) -> None:
        job_id = await front.run()
        for index in range(30):
            front.link(job_id).chunk(job_id, index, "x" * 900_000)
        counts: list[int] = []
        while sum(counts) < 30:
            counts.append(len((await front.get(f"stream/{job_id}")).json()["stream"]))
        assert counts == [12, 12, 6]

    ask(scenario)


def test_the_stream_of_a_cancelled_job_is_refused() -> None:
    async def scenario(front: Front) -> None:
        job_id = await front.run()
        await front.post(f"cancel/{job_id}")
        refused = await front.get(f"stream/{job_id}")
        assert refused.status_code == 409
        assert refused.json().keys() == {"error"}

    ask(scenario)
