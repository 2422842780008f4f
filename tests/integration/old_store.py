"""A server's file with jobs of every state, as it was left by a server that was killed.

    python tests/integration/old_store.py > tests/integration/data/store-N.sql

writes it down for the present schema N. One such file is kept for each schema that was released.
"""

from __future__ import annotations

import asyncio
import sqlite3
import sys
import tempfile
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1]))

from integration.stores import claim, job, new, opened, value
from runpod_flash.plane.store.base import Call, Chunk, JobState, NewJob, Outcome, Tally
from runpod_flash.wire.codec import Payload, encode
from runpod_flash.wire.failures import Failure

if TYPE_CHECKING:
    from runpod_flash.plane.store.base import Job
    from runpod_flash.plane.store.sqlite import SqliteStore

RESULT = Payload(b'{"a":1}', (b"\x00\xff" * 3000,))
FAILURE = Failure(
    "builtins", "ValueError", "no é", "Traceback: no", encode(("no é",)), None, ("a note",),
    exceptions=(Failure("builtins", "KeyError", "inner"),),
)  # fmt: skip
METHOD = Call(value(9), "input", "generate", encode({"args": ["model"], "kwargs": {}}))
PARTS = (value(7, "a"), value(6_000, "b"))
CANCELLED = Failure("runpod_flash.errors", "JobCancelledError", "cancelled", origin="system")
ENDS = {
    "completed": Outcome(JobState.COMPLETED, RESULT),
    "failed": Outcome(JobState.FAILED, failure=FAILURE),
    "cancelled": Outcome(JobState.CANCELLED, failure=CANCELLED),
    "timed-out": Outcome(JobState.TIMED_OUT, failure=CANCELLED),
}
QUEUED = {
    "plain": new("plain"),
    "large": new("large", 6_000, extras='{"policy":{"ttl":60000}}'),
    "method": NewJob("method", "e", METHOD, webhook="https://example.com/hook", credits=4),
    "policy": new("policy", max_attempts=5, ttl_ms=3_600_000, low_priority=True, retention_ms=9000),
    "nested": new("nested", parent="running"),
}


async def _claimed(store: SqliteStore, new: NewJob) -> Job:
    await store.submit([new])
    (found,) = await claim(store)
    return found


async def fill(store: SqliteStore) -> None:
    """A job of each state and form."""
    for job_id, outcome in ENDS.items():
        ended = await _claimed(store, new(job_id))
        await store.finish(ended.ref, outcome)
    streamed = await _claimed(store, new("streamed"))
    await _claimed(store, new("running"))
    await _claimed(store, new("once", max_attempts=1))
    cut = await _claimed(store, new("cut"))
    for index, part in enumerate(PARTS):
        await store.append(streamed.ref, Chunk(index, part))
        await store.append(cut.ref, Chunk(index, part))
    await store.finish(streamed.ref, Outcome(JobState.COMPLETED, Payload(b"null")))
    await store.submit(list(QUEUED.values()))
    await store.durable()


async def check(store: SqliteStore) -> None:
    """All of it is there, as a server that takes it up has it."""
    for job_id, outcome in ENDS.items():
        found = await job(store, job_id)
        assert (found.state, found.outcome) == (outcome.state, outcome)
        assert (found.attempt, found.worker, found.created_at) == (1, "worker-1", 1000.0)
    assert (await job(store, "streamed")).state is JobState.COMPLETED
    for job_id in ("streamed", "cut"):
        assert await store.chunks(job_id, 0) == [Chunk(i, part) for i, part in enumerate(PARTS)]
    for job_id in ("once", "cut"):
        assert (await job(store, job_id)).state is JobState.FAILED
    waiting = [found.id for found in await store.waiting("e")]
    assert waiting == ["nested", "running", "plain", "large", "method", "policy"]
    assert await store.tally("e") == Tally(2, 4, 0)  # with two that were cut off
    counts = await store.counts("e")
    assert (counts.queued, counts.nested, counts.patient) == (6, 1, 1)
    for found in await claim(store, 100):
        known = QUEUED.get(found.id, new(found.id))
        assert NewJob(
            found.id, found.endpoint, found.call, found.policy, found.parent, found.credits,
            found.webhook, found.extras,
        ) == known  # fmt: skip
        assert found.attempt == (2 if found.id == "running" else 1)


async def _write_down() -> None:
    with tempfile.TemporaryDirectory() as folder:
        async with opened(Path(folder)) as store:
            await fill(store)
        with closing(sqlite3.connect(Path(folder) / "flash.db")) as file:
            (version,) = file.execute("PRAGMA user_version").fetchone()
            lines = [*file.iterdump()]
    print("\n".join([lines[0], f"PRAGMA user_version={version};", *lines[1:]]))


if __name__ == "__main__":
    asyncio.run(_write_down())
