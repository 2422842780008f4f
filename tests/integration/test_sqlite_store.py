"""What the server's store has after it was closed, or has died, and is opened again."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

import pytest

from integration.stores import claim, job, lives, new, value
from runpod_flash.plane.store import records
from runpod_flash.plane.store.base import Chunk, JobState, NewJob, Outcome
from runpod_flash.testing import ManualClock
from runpod_flash.wire.codec import Payload, encode
from runpod_flash.wire.failures import Failure, capture

if TYPE_CHECKING:
    from pathlib import Path

    from runpod_flash.plane.store.base import Job
    from runpod_flash.plane.store.sqlite import SqliteStore

LARGE = 200_000
DONE = Outcome(JobState.COMPLETED, value(3))


async def ids(store: SqliteStore) -> list[str]:
    return [waiting.id for waiting in await store.waiting("e")]


async def claimed(store: SqliteStore, job_id: str, size: int = 10, **policy: Any) -> Job:
    await store.submit([new(job_id, size, **policy)])
    (found,) = await claim(store)
    assert found.id == job_id
    return found


@pytest.mark.parametrize("size", [10, LARGE])
def test_queued_jobs_are_there_whole_and_in_their_order(tmp_path: Path, size: int) -> None:
    names = [f"job-{number}" for number in range(20)]

    async def before(store: SqliteStore) -> None:
        await store.submit([new(name, size, extras=f'{{"pad":"{"e" * size}"}}') for name in names])
        await store.end("job-3", Outcome(JobState.CANCELLED))

    async def after(store: SqliteStore) -> None:
        assert await ids(store) == [name for name in names if name != "job-3"]
        for found in await claim(store, 100):
            expected = new(found.id, size)
            assert (found.call, found.policy) == (expected.call, expected.policy)
            assert found.extras == f'{{"pad":"{"e" * size}"}}'

    lives(tmp_path, before, after)


def test_nested_jobs_stay_ahead_of_those_that_clients_submit(tmp_path: Path) -> None:
    async def before(store: SqliteStore) -> None:
        await claimed(store, "parent")
        await store.submit([new("second"), new("child", parent="parent")])

    async def after(store: SqliteStore) -> None:
        assert await ids(store) == ["child", "parent", "second"]
        assert (await store.counts("e")).nested == 1

    lives(tmp_path, before, after)


@pytest.mark.parametrize("size", [10, LARGE])
def test_results_failures_and_streams_are_there_whole(tmp_path: Path, size: int) -> None:
    result = Payload(b'{"a":1}', (b"z" * size,))
    failure = capture(ValueError("no" * size))._replace(notes=("hint",))
    parts = [value(size, letter) for letter in "abc"]

    async def before(store: SqliteStore) -> None:
        done = await claimed(store, "done")
        await store.finish(done.ref, Outcome(JobState.COMPLETED, result))
        failed = await claimed(store, "failed")
        await store.finish(failed.ref, Outcome(JobState.FAILED, failure=failure))
        streamed = await claimed(store, "streamed")
        for index, part in enumerate(parts):
            assert await store.append(streamed.ref, Chunk(index, part))
        await store.finish(streamed.ref, DONE)

    async def after(store: SqliteStore) -> None:
        for _ in range(2):
            done = await job(store, "done")
            assert done.outcome == Outcome(JobState.COMPLETED, result)
            assert (await job(store, "failed")).outcome == Outcome(JobState.FAILED, failure=failure)
            found = await store.chunks("streamed", 0)
            assert found == [Chunk(index, part) for index, part in enumerate(parts)]
            assert (await store.chunks("streamed", 2)) == [Chunk(2, parts[2])]
            assert (done.attempt, done.worker, done.finished_at) == (1, "worker-1", 1000.0)

    lives(tmp_path, before, after, after)


def test_a_running_job_is_queued_again_at_its_place_and_for_free(tmp_path: Path) -> None:
    refs = []

    async def before(store: SqliteStore) -> None:
        refs.append((await claimed(store, "first", LARGE)).ref)
        await store.submit([new("second")])

    async def after(store: SqliteStore) -> None:
        first = await job(store, "first")
        assert (first.state, first.deaths, first.started_at) == (JobState.IN_QUEUE, 0, None)
        assert await ids(store) == ["first", "second"]
        (again,) = await claim(store)
        assert (again.id, again.attempt) == ("first", 2)
        assert await store.finish(refs[0], DONE) is None, "the fence holds over restarts"
        assert await store.finish(again.ref, DONE) is not None

    lives(tmp_path, before, after)


def test_a_plane_that_dies_ever_again_uses_up_no_attempts(tmp_path: Path) -> None:
    async def submit(store: SqliteStore) -> None:
        await store.submit([new("job", max_attempts=2)])

    async def die(store: SqliteStore) -> None:
        assert len(await claim(store)) == 1

    lives(tmp_path, submit, *[die] * 5)


def test_jobs_that_may_not_run_twice_fail_and_say_why(tmp_path: Path) -> None:
    async def before(store: SqliteStore) -> None:
        await claimed(store, "once", max_attempts=1)
        streamed = await claimed(store, "streamed")
        await store.append(streamed.ref, Chunk(0, value(1)))
        restartable = await claimed(store, "restartable", restartable=True)
        await store.append(restartable.ref, Chunk(0, value(1)))

    async def after(store: SqliteStore) -> None:
        reasons = {"once": "max_attempts=1", "streamed": "part of its stream"}
        for job_id, reason in reasons.items():
            found = await job(store, job_id)
            assert found.state is JobState.FAILED
            assert found.outcome is not None
            assert found.outcome.failure is not None
            assert reason in found.outcome.failure.message
        assert await ids(store) == ["restartable"]
        (again,) = await claim(store)
        assert not await store.append(again.ref, Chunk(0, value(1))), "it was seen before"
        assert await store.append(again.ref, Chunk(1, value(1)))

    lives(tmp_path, before, after)


def test_times_to_live_and_retention_go_on(tmp_path: Path) -> None:
    clock = ManualClock()

    async def before(store: SqliteStore) -> None:
        kept = await claimed(store, "kept", retention_ms=100_000)
        await store.finish(kept.ref, DONE)
        await store.submit([new("mortal", ttl_ms=60_000)])

    async def later(store: SqliteStore) -> None:
        clock.advance(59)
        assert not await store.expire()
        clock.advance(1)
        assert [gone.id for gone in await store.expire()] == ["mortal"]

    async def at_last(store: SqliteStore) -> None:
        assert (await job(store, "mortal")).state is JobState.TIMED_OUT
        assert await store.retire(3600) == 0
        clock.advance(40)
        assert await store.retire(3600) == 1
        assert await store.get("kept") is None

    async def finally_(store: SqliteStore) -> None:
        assert await store.get("kept") is None
        assert await store.get("mortal") is not None

    lives(tmp_path, before, later, at_last, finally_, clock=clock)


def test_ended_jobs_are_forgotten_in_the_order_of_their_ends(tmp_path: Path) -> None:
    clock = ManualClock()

    async def before(store: SqliteStore) -> None:
        slow = await claimed(store, "slow")
        quick = await claimed(store, "quick")
        await store.finish(quick.ref, DONE)
        clock.advance(50)
        await store.finish(slow.ref, DONE)

    async def after(store: SqliteStore) -> None:
        assert [found.id for found in await store.recent("e")] == ["quick", "slow"]
        assert await store.retire(40) == 1
        assert await store.get("quick") is None
        assert await store.get("slow") is not None

    lives(tmp_path, before, after, clock=clock)


def test_a_job_that_failed_runs_anew_with_its_own_arguments_and_a_new_stream(
    tmp_path: Path,
) -> None:
    async def before(store: SqliteStore) -> None:
        failed = await claimed(store, "job", LARGE)
        await store.append(failed.ref, Chunk(0, value(LARGE, "a")))
        no = Outcome(JobState.FAILED, failure=Failure("builtins", "ValueError", "no"))
        await store.finish(failed.ref, no)

    async def retry(store: SqliteStore) -> None:
        await store.submit([new("other")])
        assert await store.retry("job") is not None
        assert await ids(store) == ["other", "job"]

    async def run(store: SqliteStore) -> None:
        assert await ids(store) == ["other", "job"]
        _, again = await claim(store, 2)
        assert again.call == new("job", LARGE).call
        assert await store.append(again.ref, Chunk(0, value(LARGE, "b")))
        assert await store.finish(again.ref, DONE) is not None

    async def look(store: SqliteStore) -> None:
        assert (await job(store, "job")).state is JobState.COMPLETED
        assert await store.chunks("job", 0) == [Chunk(0, value(LARGE, "b"))]

    lives(tmp_path, before, retry, run, look)


def test_the_same_id_gives_the_same_job_after_a_restart(tmp_path: Path) -> None:
    async def submit(store: SqliteStore) -> None:
        await store.submit([new("job", LARGE)])

    async def again(store: SqliteStore) -> None:
        ((_, is_new),) = await store.submit([new("job", 5)])
        assert not is_new
        assert (await job(store, "job")).call == new("job", LARGE).call

    lives(tmp_path, submit, again)


def test_forgotten_jobs_leave_nothing_and_their_ids_are_free(tmp_path: Path) -> None:
    async def before(store: SqliteStore) -> None:
        for round_ in range(3):
            found = await claimed(store, "job", LARGE)
            await store.append(found.ref, Chunk(0, value(LARGE)))
            await store.finish(found.ref, DONE)
            if round_ == 1:
                await store.durable()
            await store.forget(["job"])
        await store.submit([new("job", 7)])

    async def after(store: SqliteStore) -> None:
        assert (await job(store, "job")).call == new("job", 7).call
        assert not await store.chunks("job", 0)

    lives(tmp_path, before, after)


def test_what_no_frame_can_carry_does_not_stop_the_others(tmp_path: Path) -> None:
    long = "x" * (17 << 20)  # a frame's header has at most 16 MiB

    async def before(store: SqliteStore) -> None:
        found = await claimed(store, "fails")
        failure = Failure("builtins", "ValueError", long, long)
        await store.finish(found.ref, Outcome(JobState.FAILED, failure=failure))
        await store.submit([new("odd", extras=f'"{long}"'), new("other")])
        await store.durable()

    async def after(store: SqliteStore) -> None:
        failed = await job(store, "fails")
        assert failed.outcome is not None
        assert failed.outcome.failure is not None
        assert failed.outcome.failure.qualname == "ValueError"
        assert set(failed.outcome.failure.message) == {"x"}
        assert [found.extras for found in await claim(store, 2)] == [f'"{long}"', ""]

    lives(tmp_path, before, after)


def test_a_value_that_no_file_can_hold_fails_its_job_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(records, "MOST_BYTES", 10_000)  # (for 900 MB)

    async def scenario(store: SqliteStore) -> None:
        with pytest.raises(Exception, match="the arguments of job big take more than the 0 MB"):
            await store.submit([new("big", 20_000)])
        finished = await claimed(store, "result")
        ended = await store.finish(finished.ref, Outcome(JobState.COMPLETED, value(20_000)))
        assert ended is not None
        streamed = await claimed(store, "streams")
        assert not await store.append(streamed.ref, Chunk(0, value(20_000)))
        assert [gone.id for gone in await store.expire()] == ["streams"], "whoever waits is told"
        await store.durable()
        for job_id in ("result", "streams"):
            found = await job(store, job_id)
            assert found.state is JobState.FAILED
            assert found.outcome is not None
            assert found.outcome.failure is not None
            assert "pass it through a volume" in found.outcome.failure.message

    lives(tmp_path, scenario)


def test_every_form_of_call_is_read_back_from_the_file(tmp_path: Path) -> None:
    numbers = itertools.count()
    values = [Payload(b"[]"), encode({"a": b"bytes" * 2000}), value(LARGE)]
    news = [
        NewJob(
            f"job-{next(numbers)}", "e",
            new("any").call._replace(
                payload=payload, form="input", method="run", constructor=constructor
            ),
            webhook="https://example.com/é", extras=extras, credits=3,
        )
        for payload in values
        for constructor in (None, *values)
        for extras in ("", '{"policy": {}}')
    ]  # fmt: skip

    async def before(store: SqliteStore) -> None:
        await store.submit(news)

    async def after(store: SqliteStore) -> None:
        found = await claim(store, 100)
        assert [(f.id, f.call, f.webhook, f.extras, f.credits) for f in found] == [
            (n.id, n.call, n.webhook, n.extras, n.credits) for n in news
        ]

    lives(tmp_path, before, after)
