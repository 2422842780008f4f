"""What the server's store knows of its jobs' ends after it was opened again."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from runpod_flash.errors import ConfigurationError
from runpod_flash.plane.store.base import (
    Call,
    JobState,
    Lease,
    NewJob,
    Outcome,
    Policy,
    Tally,
)
from runpod_flash.plane.store.sqlite import SqliteStore
from runpod_flash.wire import frames
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


@pytest.mark.parametrize("size", [10, 10_000])
def test_a_job_that_ended_before_it_was_written_is_there_whole(tmp_path: Path, size: int) -> None:
    call = Call(Payload(b'"' + b"x" * size + b'"'), "input", "method", Payload(b"[]"))

    async def scenario() -> None:
        store = SqliteStore(tmp_path / "flash.db", time.time)
        epoch = await store.own("e", "plane", 60)
        assert epoch is not None
        lease = Lease("plane", epoch, 60)
        ((ended, _),) = await store.submit([NewJob("job", "e", call)], lease, "worker")
        await store.finish(ended.ref, FAILED)
        await store.durable()
        written = await store.get("job")
        await store.close()
        with closing(sqlite3.connect(tmp_path / "flash.db")) as file:
            (apart,) = file.execute("SELECT count(*) FROM calls").fetchone()
            assert apart == (size > 4096)

        again = SqliteStore(tmp_path / "flash.db", time.time)
        found = await again.get("job")
        assert found == written and found is not None
        assert (found.call, found.outcome) == (call, FAILED)
        assert await again.retry("job") is not None
        await again.close()
        third = SqliteStore(tmp_path / "flash.db", time.time)
        epoch = await third.own("e", "plane", 60)
        assert epoch is not None
        (claimed,) = await third.claim("e", 1, Lease("plane", epoch, 60))
        assert (claimed.call, claimed.attempt) == (call, 2)
        assert await third.tally("e") == Tally(0, 1, 1)
        await third.finish(claimed.ref, DONE)
        await third.forget(["job"])
        assert await third.tally("e") == Tally(1, 1, 1)
        await third.close()
        last = SqliteStore(tmp_path / "flash.db", time.time)
        assert await last.tally("e") == Tally(1, 1, 1)
        await last.close()

    asyncio.run(scenario())


def test_a_row_that_lacks_its_call_is_said_to_be_damage(tmp_path: Path) -> None:
    async def scenario() -> None:
        store = SqliteStore(tmp_path / "flash.db", time.time)
        await run(store, DONE)
        await store.close()
        with closing(sqlite3.connect(tmp_path / "flash.db")) as file, file:
            file.execute("DELETE FROM calls")
            file.execute("UPDATE jobs SET call = NULL")
        with pytest.raises(ConfigurationError, match="is damaged: the job job-0 has no call"):
            SqliteStore(tmp_path / "flash.db", time.time)

    asyncio.run(scenario())


def damaged(fields: dict[str, object], *buffers: bytes) -> bytes:
    return b"".join(frames.assemble(frames.header_of("call", fields), buffers))


GOOD = {
    "form": "call",
    "method": "",
    "policy": Policy()._asdict(),
    "parent": "",
    "credits": 0,
    "webhook": "",
    "extras": False,
    "constructor": 1,
}


@pytest.mark.parametrize(
    "call",
    [
        damaged(GOOD, b"[]")[:-1],
        damaged({"form": "call"}, b"[]"),
        damaged({**GOOD, "unknown": 1}, b"[]"),
        damaged({**GOOD, "policy": []}, b"[]"),
        damaged(GOOD),
        damaged({**GOOD, "extras": True}, b"[]", b"\xff"),
    ],
)
def test_a_call_that_cannot_be_read_is_said_to_be_damage(tmp_path: Path, call: bytes) -> None:
    async def scenario() -> None:
        store = SqliteStore(tmp_path / "flash.db", time.time)
        await run(store, DONE)
        await store.close()
        with closing(sqlite3.connect(tmp_path / "flash.db")) as file, file:
            file.execute("UPDATE jobs SET call = ?", (call,))
        with pytest.raises(ConfigurationError, match=r"is damaged: .* put a backup in its place"):
            SqliteStore(tmp_path / "flash.db", time.time)

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
