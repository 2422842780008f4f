"""What the server's store knows of its jobs' ends after it was opened again."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

from runpod_flash.plane.store.base import (
    Call,
    JobState,
    Lease,
    NewJob,
    Outcome,
    Tally,
)
from runpod_flash.plane.store.sqlite import SqliteStore
from runpod_flash.wire.codec import Payload
from runpod_flash.wire.failures import Failure

if TYPE_CHECKING:
    from pathlib import Path

BIG = Payload(b'"' + b"x" * 100_000 + b'"')
DONE = Outcome(JobState.COMPLETED, BIG)
FAILED = Outcome(JobState.FAILED, failure=Failure("builtins", "ValueError", "no"))


async def run(store: SqliteStore, *ends: Outcome) -> list[str]:
    """Submit and end as many jobs, each with a webhook."""
    epoch = await store.own("e", "plane", 60)
    assert epoch is not None
    ids = [f"job-{number}" for number in range(len(ends))]
    webhook = "https://example.com/hook"
    await store.submit([NewJob(id_, "e", Call(Payload(b"[]")), webhook=webhook) for id_ in ids])
    claimed = await store.claim("e", len(ends), Lease("plane", epoch, 60))
    for job, outcome in zip(claimed, ends, strict=True):
        await store.finish(job.ref, outcome)
    return ids


def test_a_webhook_that_was_not_told_is_owed_after_a_restart(tmp_path: Path) -> None:
    async def scenario() -> None:
        store = SqliteStore(tmp_path / "flash.db", time.time)
        first, second = await run(store, DONE, FAILED)
        await store.durable()
        await store.told(first)
        await store.close()

        again = SqliteStore(tmp_path / "flash.db", time.time)
        assert list(await again.owed()) == [second]
        told = await again.get(first)
        assert told is not None
        assert told.outcome == DONE, "telling has not touched the result"
        await again.retry(second)
        await again.close()
        third = SqliteStore(tmp_path / "flash.db", time.time)
        assert not await third.owed()
        await third.close()

    asyncio.run(scenario())


def test_tallies_go_on_after_a_restart(tmp_path: Path) -> None:
    async def scenario() -> None:
        store = SqliteStore(tmp_path / "flash.db", time.time)
        ids = await run(store, DONE, DONE, FAILED)
        for id_ in ids:
            await store.told(id_)
        await store.forget(ids)
        await store.close()
        again = SqliteStore(tmp_path / "flash.db", time.time)
        assert await again.tally("e") == Tally(2, 1, 0)
        await run(again, DONE)
        assert await again.tally("e") == Tally(3, 1, 0)
        await again.close()

    asyncio.run(scenario())
