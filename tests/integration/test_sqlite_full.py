"""A store that has no room: new jobs are refused, accepted ones are safe, and it goes on."""

from __future__ import annotations

import asyncio
import itertools
import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from integration.disks import disk, take_all_but
from integration.stores import claim, job, lives, new, value
from runpod_flash.errors import StoreFullError
from runpod_flash.plane.store.base import Chunk, JobState, Outcome
from runpod_flash.plane.store.sqlite import Bounds

if TYPE_CHECKING:
    from pathlib import Path

    from runpod_flash.plane.store.sqlite import SqliteStore

pytestmark = pytest.mark.usefixtures("committer")

SMALL = Bounds(max_bytes=4_000_000, min_free_bytes=0)
LARGE = 200_000
DONE = Outcome(JobState.COMPLETED, value(5))


async def fill(store: SqliteStore, size: int = LARGE) -> list[str]:
    """Submit until there is no room; the jobs that were accepted."""
    accepted: list[str] = []
    while len(accepted) < 1000:
        job_id = f"job-{len(accepted)}"
        try:
            await store.submit([new(job_id, size)])
            await store.durable()
        except StoreFullError:
            return accepted
        accepted.append(job_id)
    raise AssertionError("there was room for all")


async def room(store: SqliteStore) -> None:
    """Return once a job is accepted."""
    while True:
        try:
            await store.submit([new("after")])
            await store.durable()
        except StoreFullError:
            await asyncio.sleep(0.05)
        else:
            return


async def waiting(store: SqliteStore) -> list[str]:
    return [found.id for found in await store.waiting("e")]


def test_over_its_bound_a_store_refuses_jobs_and_takes_results(tmp_path: Path) -> None:
    accepted: list[str] = []

    async def before(store: SqliteStore) -> None:
        accepted.extend(await fill(store))
        assert 15 <= len(accepted) <= 25
        with pytest.raises(StoreFullError, match="may keep 4 MB; try again"):
            await store.submit([new("one more")])
        ((again, is_new),) = await store.submit([new("job-0")])
        assert (again.id, is_new) == ("job-0", False), "what it has, it does not refuse"
        for found in await claim(store, 3):
            await store.finish(found.ref, Outcome(JobState.COMPLETED, value(LARGE)))
        await store.durable()
        await store.forget(["job-0", "job-1", "job-2"])
        await room(store)

    async def after(store: SqliteStore) -> None:
        assert await waiting(store) == [*accepted[3:], "after"]

    lives(tmp_path, before, after, bounds=SMALL)


def test_results_for_which_there_is_no_room_wait_in_memory_for_it(tmp_path: Path) -> None:
    async def before(store: SqliteStore) -> None:
        accepted = await fill(store)
        claimed = await claim(store, 5)
        for found in claimed:
            await store.append(found.ref, Chunk(0, value(LARGE)))
            await store.finish(found.ref, Outcome(JobState.COMPLETED, value(LARGE)))
        with pytest.raises(StoreFullError, match=r"is full.+ jobs that it has accepted are safe"):
            await store.durable()
        with pytest.raises(StoreFullError, match="cannot write to its disk"):
            await store.submit([new("one more")])
        assert (await job(store, "job-0")).outcome == Outcome(JobState.COMPLETED, value(LARGE))
        for job_id in accepted[5:]:
            await store.end(job_id, Outcome(JobState.CANCELLED))
        await store.forget(accepted[5:])
        await room(store)

    async def after(store: SqliteStore) -> None:
        for number in range(5):
            found = await job(store, f"job-{number}")
            assert found.outcome == Outcome(JobState.COMPLETED, value(LARGE))
            assert await store.chunks(found.id, 0) == [Chunk(0, value(LARGE))]

    lives(tmp_path, before, after, bounds=SMALL)


def test_a_stream_that_began_anew_while_nothing_could_be_written_is_kept_alone(
    tmp_path: Path,
) -> None:
    async def before(store: SqliteStore) -> None:
        accepted = await fill(store)
        (first,) = await claim(store)
        for index in range(6):
            await store.append(first.ref, Chunk(index, value(LARGE, "a")))
        no = Outcome(JobState.FAILED, value(LARGE))
        await store.finish(first.ref, no)
        with pytest.raises(StoreFullError):
            await store.durable()
        assert await store.retry(first.id) is not None
        for job_id in accepted[1:]:
            await store.end(job_id, Outcome(JobState.CANCELLED))
        await store.forget(accepted[1:])
        (again,) = await claim(store)
        await store.append(again.ref, Chunk(0, value(LARGE, "b")))
        await store.finish(again.ref, DONE)
        await room(store)

    async def after(store: SqliteStore) -> None:
        assert await store.chunks("job-0", 0) == [Chunk(0, value(LARGE, "b"))]
        assert (await job(store, "job-0")).outcome == DONE

    lives(tmp_path, before, after, bounds=SMALL)


def test_whoever_waits_for_a_refused_job_hears_of_it(tmp_path: Path) -> None:
    async def scenario(store: SqliteStore) -> None:
        await store.submit([new(f"job-{number}", LARGE) for number in range(17)])
        await store.durable()
        with closing(sqlite3.connect(tmp_path / "flash.db", isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")  # nothing is written meanwhile that takes the room
            for found in await claim(store, 9):
                await store.finish(found.ref, Outcome(JobState.COMPLETED, value(LARGE)))
            await store.submit([new("nested", LARGE, parent="job-10")])
            other.execute("ROLLBACK")
        with pytest.raises(StoreFullError):
            await store.durable()
        (ended,) = await store.expire()
        assert (ended.id, ended.state) == ("nested", JobState.FAILED)
        assert ended.outcome is not None
        assert ended.outcome.failure is not None
        assert "could not be written to the server's disk" in ended.outcome.failure.message
        assert await store.get("nested") is None
        assert not await store.expire()

    lives(tmp_path, scenario, bounds=SMALL)


def test_a_bound_that_is_lowered_leaves_room_for_results(tmp_path: Path) -> None:
    async def before(store: SqliteStore) -> None:
        await fill(store)

    async def after(store: SqliteStore) -> None:
        with pytest.raises(StoreFullError, match="may keep 2 MB"):
            await store.submit([new("one more")])
        (first,) = await claim(store)
        await store.finish(first.ref, Outcome(JobState.COMPLETED, value(LARGE)))
        await store.durable()

    lives(tmp_path, before, bounds=SMALL)
    lives(tmp_path, after, bounds=Bounds(max_bytes=2_000_000, min_free_bytes=0))


def test_room_that_no_job_needs_any_more_is_given_back(tmp_path: Path) -> None:
    async def scenario(store: SqliteStore) -> None:
        names = [f"job-{number}" for number in range(130)]
        for name in names:
            await store.submit([new(name, 1_000_000)])
            await store.end(name, Outcome(JobState.CANCELLED))
        await store.durable()
        await store.forget(names)
        for number in range(20):
            await store.submit([new(f"later-{number}")])
            await store.durable()

    lives(tmp_path, scenario)
    assert (tmp_path / "flash.db").stat().st_size < 80_000_000


# A disk of its own


def test_a_full_disk_refuses_jobs_and_loses_none(tmp_path: Path) -> None:
    accepted: list[str] = []
    no_minimum = Bounds(min_free_bytes=0)

    async def before(store: SqliteStore) -> None:
        await store.submit([new("running")])
        (running,) = await claim(store)
        await store.durable()
        filler = take_all_but(place, 2_000_000)
        accepted.extend(await fill(store, 50_000))
        assert accepted
        await store.finish(running.ref, Outcome(JobState.COMPLETED, value(LARGE)))
        with pytest.raises(StoreFullError, match="jobs that it has accepted are safe"):
            await store.durable()
        filler.unlink()
        await room(store)

    async def after(store: SqliteStore) -> None:
        assert await waiting(store) == [*accepted, "after"]
        found = await job(store, "running")
        assert found.outcome == Outcome(JobState.COMPLETED, value(LARGE))
        for claimed in await claim(store, 1000):
            assert claimed.call == new(claimed.id, 10 if claimed.id == "after" else 50_000).call

    with disk(tmp_path / "disk", 24) as place:
        lives(place, before, after, bounds=no_minimum)


def test_a_disk_that_is_nearly_full_takes_jobs_again_as_soon_as_it_has_room(
    tmp_path: Path,
) -> None:
    async def scenario(store: SqliteStore) -> None:
        await store.submit([new("first")])
        await store.durable()
        filler = take_all_but(place, 4_000_000)
        with pytest.raises(StoreFullError, match=r"disk has \d MB left; try again"):
            for number in itertools.count():  # (the disk is looked at after commits)
                await store.submit([new(f"job-{number}")])
                await asyncio.sleep(0.01)
        filler.unlink()
        await store.submit([new("last")])

    with disk(tmp_path / "disk", 24) as place:
        lives(place, scenario, bounds=Bounds(min_free_bytes=8_000_000))
