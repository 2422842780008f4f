"""The ids of jobs."""

from __future__ import annotations

import uuid

from runpod_flash.gateway.idempotency import new_id


def test_an_id_is_a_random_uuid() -> None:
    ids = [new_id() for _ in range(1000)]
    assert len(set(ids)) == 1000
    for each in ids:
        read = uuid.UUID(each)
        assert (str(read), read.version, read.variant) == (each, 4, uuid.RFC_4122)
    assert {each[19] for each in ids} == set("89ab")
