"""What every store does, whatever keeps its rows."""

from __future__ import annotations

import asyncio
import itertools
import threading
from typing import TYPE_CHECKING, Any, TypeVar

import pytest

from runpod_flash.plane.store.base import (
    Call,
    Chunk,
    Counts,
    CursorLostError,
    Job,
    JobState,
    Lease,
    NewJob,
    Outcome,
    Policy,
    Release,
    Tally,
)
from runpod_flash.wire.codec import Payload
from runpod_flash.wire.failures import Failure

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Coroutine

    from runpod_flash.plane.store.base import Change, Store
    from runpod_flash.testing import ManualClock

T = TypeVar("T")

CALL = Call(Payload(b"[]"))
DONE = Outcome(JobState.COMPLETED, Payload(b"1"))
KILLED = Failure("runpod_flash.errors", "WorkerLostError", "it was killed")
CANCELLED = Outcome(JobState.CANCELLED, failure=KILLED)
NO_LEASE = Lease("nobody", 0, 10)


def do(work: Coroutine[Any, Any, T]) -> T:
    return asyncio.run(work)


def job(id_: str, endpoint: str = "e", parent: str = "", **policy: Any) -> NewJob:
    return NewJob(id_, endpoint, CALL, Policy(**policy), parent)


def own(store: Store, owner: str = "plane", endpoint: str = "e", seconds: float = 10) -> Lease:
    epoch = do(store.own(endpoint, owner, seconds))
    assert epoch is not None
    return Lease(owner, epoch, seconds)


def submit(store: Store, *jobs: NewJob) -> None:
    do(store.submit(jobs))


def claim(store: Store, lease: Lease, limit: int = 100) -> list[Job]:
    return list(do(store.claim("e", limit, lease)))


def claim_one(store: Store, lease: Lease) -> Job:
    (claimed,) = claim(store, lease, 1)
    return claimed


def get(store: Store, id_: str) -> Job:
    found = do(store.get(id_))
    assert found is not None
    return found


def state(store: Store, id_: str) -> JobState:
    return get(store, id_).state


def started(store: Store, **policy: Any) -> tuple[Job, Lease]:
    lease = own(store)
    submit(store, job("a", **policy))
    return claim_one(store, lease), lease


# Submitting


def test_a_submitted_job_is_there_and_waits(store: Store, clock: ManualClock) -> None:
    ((accepted, new),) = do(store.submit([job("a")]))
    assert new
    assert accepted == get(store, "a")
    assert accepted.state is JobState.IN_QUEUE
    assert (accepted.attempt, accepted.deaths, accepted.chunks) == (0, 0, 0)
    assert (accepted.created_at, accepted.started_at, accepted.outcome) == (clock(), None, None)


def test_an_unknown_job_is_none(store: Store) -> None:
    assert do(store.get("a")) is None


def test_submitting_again_gives_the_job_that_is_there_and_queues_nothing(store: Store) -> None:
    submit(store, job("a"))
    ((again, new),) = do(store.submit([job("a", endpoint="other", max_attempts=9)]))
    assert not new
    assert again == get(store, "a")
    assert do(store.counts("e")).queued == 1
    assert do(store.counts("other")) == Counts()


def test_submitting_an_id_twice_in_one_batch_accepts_it_once(store: Store) -> None:
    accepted = do(store.submit([job("a"), job("a")]))
    assert [each.new for each in accepted] == [True, False]
    assert do(store.counts("e")).queued == 1


def test_submitting_a_running_job_again_with_a_claim_does_not_claim_it_twice(store: Store) -> None:
    lease = own(store)
    ((first, new),) = do(store.submit([job("a")], lease))
    assert new
    assert (first.state, first.attempt) == (JobState.IN_PROGRESS, 1)
    ((second, new),) = do(store.submit([job("a")], lease))
    assert not new
    assert second == first


def test_submitting_an_ended_job_again_does_not_run_it_again(store: Store) -> None:
    running, lease = started(store)
    do(store.finish(running.ref, DONE))
    ((again, new),) = do(store.submit([job("a")], lease))
    assert not new
    assert again.state is JobState.COMPLETED
    assert claim(store, lease) == []


def test_a_submit_with_a_claim_does_not_overtake_those_that_wait(store: Store) -> None:
    lease = own(store)
    submit(store, job("a"))
    ((second, _),) = do(store.submit([job("b")], lease))
    assert second.state is JobState.IN_QUEUE
    assert [each.id for each in claim(store, lease)] == ["a", "b"]


def test_a_batch_with_a_claim_keeps_its_order(store: Store) -> None:
    lease = own(store)
    accepted = do(store.submit([job("a"), job("b")], lease))
    assert [each.job.state for each in accepted] == [JobState.IN_PROGRESS, JobState.IN_PROGRESS]


def test_a_submit_with_a_claim_under_a_lost_lease_only_queues(store: Store) -> None:
    ((accepted, _),) = do(store.submit([job("a")], NO_LEASE))
    assert accepted.state is JobState.IN_QUEUE


# Order


def test_jobs_are_claimed_in_the_order_in_which_they_came(store: Store) -> None:
    lease = own(store)
    for name in "abcde":
        submit(store, job(name))
    claimed = [each.id for _ in range(5) for each in claim(store, lease, 1)]
    assert claimed == list("abcde")


def test_a_claim_takes_at_most_its_limit(store: Store) -> None:
    lease = own(store)
    submit(store, *[job(str(n)) for n in range(5)])
    assert [len(claim(store, lease, 2)) for _ in range(4)] == [2, 2, 1, 0]


def test_nested_jobs_go_first_the_deepest_before_the_others(store: Store) -> None:
    lease = own(store)
    submit(store, job("root"), job("other"))
    submit(store, job("child", parent="root"))
    submit(store, job("grandchild", parent="child"), job("late"))
    order = [each.id for each in do(store.waiting("e"))]
    assert order == ["grandchild", "child", "root", "other", "late"]
    assert [each.id for each in claim(store, lease)] == order


def test_siblings_keep_their_order(store: Store) -> None:
    lease = own(store)
    submit(store, job("root"))
    submit(store, *[job(f"child {n}", parent="root") for n in range(3)])
    assert [each.id for each in claim(store, lease, 3)] == ["child 0", "child 1", "child 2"]


def test_a_job_whose_parent_is_unknown_here_is_nested_all_the_same(store: Store) -> None:
    submit(store, job("top"), job("child", parent="elsewhere"))
    assert [each.id for each in do(store.waiting("e"))] == ["child", "top"]
    assert do(store.counts("e")).nested == 1


def test_endpoints_have_queues_of_their_own(store: Store) -> None:
    lease = own(store)
    submit(store, job("a", endpoint="other"))
    assert claim(store, lease) == []
    assert do(store.counts("other")).queued == 1


def test_waiting_lists_at_most_its_limit_and_no_ended_job(store: Store) -> None:
    submit(store, *[job(name) for name in "abcd"])
    do(store.end("b", CANCELLED))
    assert [each.id for each in do(store.waiting("e", 2))] == ["a", "c"]


def test_a_released_job_takes_its_old_place(store: Store) -> None:
    lease = own(store)
    submit(store, *[job(name) for name in "abcd"])
    first = claim(store, lease, 3)
    do(store.release([Release(each.ref) for each in first]))
    assert [each.id for each in claim(store, lease)] == ["a", "b", "c", "d"]


def test_a_released_job_stays_behind_nested_ones(store: Store) -> None:
    lease = own(store)
    submit(store, job("a"))
    running = claim_one(store, lease)
    submit(store, job("child", parent="x"))
    do(store.release([Release(running.ref)]))
    assert [each.id for each in claim(store, lease)] == ["child", "a"]


# Counts


def test_counts_follow_a_job_through_its_life(store: Store, clock: ManualClock) -> None:
    lease = own(store)
    assert do(store.counts("e")) == Counts()
    submit(store, job("a"))
    clock.advance(1)
    submit(store, job("b"), job("c", parent="a"))
    assert do(store.counts("e")) == Counts(3, 0, clock() - 1, 1)
    running = claim(store, lease, 2)
    assert [each.id for each in running] == ["c", "a"]
    assert do(store.counts("e")) == Counts(1, 2, clock(), 0)
    do(store.finish(running[0].ref, DONE))
    do(store.end("b", CANCELLED))
    assert do(store.counts("e")) == Counts(0, 1)
    do(store.release([Release(running[1].ref)]))
    assert do(store.counts("e")) == Counts(1, 0, clock() - 1)


def test_the_oldest_is_found_behind_younger_nested_ones(store: Store, clock: ManualClock) -> None:
    submit(store, job("old"))
    clock.advance(5)
    submit(store, job("young", parent="x"))
    assert do(store.counts("e")).oldest_queued_at == clock() - 5


# Ownership


def test_only_one_owner_at_a_time(store: Store, clock: ManualClock) -> None:
    assert do(store.own("e", "first", 10)) == do(store.own("e", "first", 10))
    assert do(store.own("e", "second", 10)) is None
    clock.advance(10)
    assert do(store.own("e", "second", 10)) is not None
    assert do(store.own("e", "first", 10)) is None


def test_an_owner_that_keeps_its_lease_keeps_its_epoch(store: Store, clock: ManualClock) -> None:
    epochs = set()
    for _ in range(5):
        epochs.add(do(store.own("e", "first", 10)))
        clock.advance(9)
    assert len(epochs) == 1


def test_an_owner_that_comes_back_has_a_later_epoch(store: Store, clock: ManualClock) -> None:
    first = own(store, "first")
    clock.advance(11)
    own(store, "second")
    clock.advance(11)
    assert own(store, "first").epoch > first.epoch


def test_claims_are_refused_after_ownership_has_moved(store: Store, clock: ManualClock) -> None:
    old = own(store, "first")
    clock.advance(11)
    new = own(store, "second")
    submit(store, job("a"))
    assert claim(store, old) == []
    ((queued, _),) = do(store.submit([job("b")], old))
    assert queued.state is JobState.IN_QUEUE
    assert len(claim(store, new)) == 2


def test_claims_under_a_forged_epoch_are_refused(store: Store) -> None:
    lease = own(store)
    submit(store, job("a"))
    assert claim(store, lease._replace(epoch=lease.epoch + 1)) == []
    assert claim(store, lease._replace(owner="other")) == []


# Ending


def test_a_finished_job_keeps_its_result(store: Store, clock: ManualClock) -> None:
    running, _ = started(store)
    clock.advance(2)
    ended = do(store.finish(running.ref, DONE))
    assert ended is not None
    assert ended._replace(call=CALL) == get(store, "a")
    assert (ended.state, ended.outcome) == (JobState.COMPLETED, DONE)
    assert (ended.started_at, ended.finished_at) == (clock() - 2, clock())


def test_finishing_twice_is_refused_and_changes_nothing(store: Store) -> None:
    running, _ = started(store)
    do(store.finish(running.ref, DONE))
    assert do(store.finish(running.ref, Outcome(JobState.FAILED, failure=KILLED))) is None
    assert get(store, "a").outcome == DONE


def test_a_late_finish_with_an_older_attempt_is_refused(store: Store) -> None:
    running, lease = started(store)
    do(store.release([Release(running.ref)]))
    assert do(store.finish(running.ref, DONE)) is None  # while it waits
    again = claim_one(store, lease)
    assert again.attempt == running.attempt + 1
    assert do(store.finish(running.ref, DONE)) is None  # while another attempt runs
    assert do(store.finish(again.ref, DONE)) is not None


def test_finishing_an_unclaimed_or_unknown_job_is_refused(store: Store) -> None:
    submit(store, job("a"))
    assert do(store.finish(get(store, "a").ref, DONE)) is None
    assert do(store.finish(get(store, "a").ref._replace(job_id="b"), DONE)) is None


@pytest.mark.parametrize("claimed", [False, True])
def test_end_ends_a_job_whatever_it_is_doing_once(store: Store, claimed: bool) -> None:
    lease = own(store)
    submit(store, job("a"))
    if claimed:
        claim_one(store, lease)
    ended = do(store.end("a", CANCELLED))
    assert ended is not None
    assert (ended.state, ended.attempt) == (JobState.CANCELLED, int(claimed))
    assert do(store.end("a", DONE)) is None
    assert state(store, "a") is JobState.CANCELLED
    assert claim(store, lease) == []
    assert do(store.counts("e")) == Counts()


def test_ending_after_finishing_is_refused_and_so_the_other_way_round(store: Store) -> None:
    running, lease = started(store)
    do(store.finish(running.ref, DONE))
    assert do(store.end("a", CANCELLED)) is None
    submit(store, job("b"))
    running = claim_one(store, lease)
    do(store.end("b", CANCELLED))
    assert do(store.finish(running.ref, DONE)) is None
    assert (state(store, "a"), state(store, "b")) == (JobState.COMPLETED, JobState.CANCELLED)


def test_ending_an_unknown_job_is_refused(store: Store) -> None:
    assert do(store.end("a", CANCELLED)) is None


def test_a_final_state_absorbs_every_later_command(store: Store, clock: ManualClock) -> None:
    running, lease = started(store, ttl_ms=5000)
    do(store.finish(running.ref, DONE))
    clock.advance(100)
    assert do(store.expire()) == []
    assert do(store.release([Release(running.ref, KILLED)])) == []
    assert do(store.renew([running.ref], lease)) == []
    assert not do(store.append(running.ref, Chunk(0, Payload(b"1"))))
    assert get(store, "a").outcome == DONE


# Attempts


def test_only_a_worker_s_own_death_counts_against_the_attempts(store: Store) -> None:
    running, lease = started(store, max_attempts=2)
    for _ in range(5):
        (back,) = do(store.release([Release(running.ref)]))
        assert (back.state, back.deaths) == (JobState.IN_QUEUE, 0)
        running = claim_one(store, lease)
    (back,) = do(store.release([Release(running.ref, KILLED)]))
    assert (back.state, back.deaths) == (JobState.IN_QUEUE, 1)
    (ended,) = do(store.release([Release(claim_one(store, lease).ref, KILLED)]))
    assert (ended.state, ended.deaths) == (JobState.FAILED, 2)
    assert ended.outcome == Outcome(JobState.FAILED, failure=KILLED)


def test_a_job_with_one_attempt_is_not_run_again_after_a_death(store: Store) -> None:
    running, lease = started(store, max_attempts=1)
    (ended,) = do(store.release([Release(running.ref, KILLED)]))
    assert ended.state is JobState.FAILED
    assert claim(store, lease) == []


def test_a_job_with_one_attempt_may_be_given_back_before_it_ran(store: Store) -> None:
    running, lease = started(store, max_attempts=1)
    do(store.release([Release(running.ref)]))
    assert claim_one(store, lease).id == "a"


@pytest.mark.parametrize("lost", [None, KILLED])
def test_a_job_that_has_delivered_a_chunk_is_not_rerun(store: Store, lost: Failure | None) -> None:
    running, lease = started(store, max_attempts=5)
    do(store.append(running.ref, Chunk(0, Payload(b"1"))))
    (ended,) = do(store.release([Release(running.ref, lost)]))
    assert ended.state is JobState.FAILED
    assert ended.outcome is not None
    assert ended.outcome.failure is not None
    assert ended.outcome.failure.qualname == "WorkerLostError"
    assert claim(store, lease) == []


def test_a_restartable_job_is_rerun_after_its_chunks_until_its_attempts_are_used(
    store: Store,
) -> None:
    running, lease = started(store, max_attempts=2, restartable=True)
    do(store.append(running.ref, Chunk(0, Payload(b"1"))))
    do(store.release([Release(running.ref, KILLED)]))
    running = claim_one(store, lease)
    assert running.chunks == 1
    (ended,) = do(store.release([Release(running.ref, KILLED)]))
    assert ended.state is JobState.FAILED


def test_a_release_of_an_older_attempt_or_twice_is_refused(store: Store) -> None:
    running, lease = started(store)
    assert len(do(store.release([Release(running.ref), Release(running.ref)]))) == 1
    again = claim_one(store, lease)
    assert do(store.release([Release(running.ref, KILLED)])) == []
    assert get(store, "a") == again


# Leases


def test_a_job_whose_lease_ran_out_is_queued_again(store: Store, clock: ManualClock) -> None:
    running, lease = started(store)
    clock.advance(9.9)
    assert do(store.expire()) == []
    clock.advance(0.1)
    (back,) = do(store.expire())
    assert (back.id, back.state, back.deaths) == ("a", JobState.IN_QUEUE, 0)
    assert do(store.renew([running.ref], lease)) == []
    assert do(store.finish(running.ref, DONE)) is None
    assert do(store.expire()) == []


def test_a_renewed_lease_holds_on(store: Store, clock: ManualClock) -> None:
    running, lease = started(store)
    for _ in range(5):
        clock.advance(9)
        assert do(store.renew([running.ref], lease)) == [running.ref]
        assert do(store.expire()) == []
    assert do(store.finish(running.ref, DONE)) is not None


def test_renew_returns_the_claims_that_still_hold(store: Store) -> None:
    lease = own(store)
    submit(store, job("a"), job("b"), job("c"))
    refs = [each.ref for each in claim(store, lease)]
    do(store.finish(refs[0], DONE))
    do(store.release([Release(refs[1])]))
    assert do(store.renew(refs, lease)) == [refs[2]]


def test_a_job_that_may_run_once_fails_when_its_lease_runs_out(
    store: Store, clock: ManualClock
) -> None:
    _, lease = started(store, max_attempts=1)
    clock.advance(11)
    (ended,) = do(store.expire())
    assert ended.state is JobState.FAILED
    assert claim(store, lease) == []


def test_a_job_that_has_delivered_a_chunk_fails_when_its_lease_runs_out(
    store: Store, clock: ManualClock
) -> None:
    running, _ = started(store)
    do(store.append(running.ref, Chunk(0, Payload(b"1"))))
    clock.advance(11)
    (ended,) = do(store.expire())
    assert ended.state is JobState.FAILED


@pytest.mark.parametrize("claimed", [False, True])
def test_a_job_past_its_time_to_live_times_out(
    store: Store, clock: ManualClock, claimed: bool
) -> None:
    lease = own(store, seconds=1000)
    submit(store, job("a", ttl_ms=5000), job("b"))
    if claimed:
        claim_one(store, lease)
    clock.advance(4.9)
    assert do(store.expire()) == []
    clock.advance(0.2)
    (ended,) = do(store.expire())
    assert (ended.id, ended.state) == ("a", JobState.TIMED_OUT)
    assert ended.outcome is not None
    assert ended.outcome.failure is not None
    assert do(store.expire()) == []
    assert state(store, "b") is JobState.IN_QUEUE


def test_a_lease_and_a_time_to_live_that_run_out_together_report_the_job_once(
    store: Store, clock: ManualClock
) -> None:
    started(store, ttl_ms=5000)
    clock.advance(60)
    (ended,) = do(store.expire())
    assert ended.state is JobState.TIMED_OUT
    assert do(store.counts("e")) == Counts()


# Chunks


def test_chunks_are_kept_in_order_and_read_from_any_number(store: Store) -> None:
    running, _ = started(store)
    chunks = [Chunk(n, Payload(str(n).encode())) for n in range(5)]
    for chunk in chunks:
        assert do(store.append(running.ref, chunk))
    assert do(store.chunks("a", 0)) == chunks
    assert do(store.chunks("a", 3)) == chunks[3:]
    assert do(store.chunks("a", 1, limit=2)) == chunks[1:3]
    assert do(store.chunks("a", 5)) == []
    assert do(store.chunks("unknown", 0)) == []
    assert get(store, "a").chunks == 5


def test_a_chunk_whose_number_was_seen_or_skips_one_is_refused(store: Store) -> None:
    running, _ = started(store)
    assert do(store.append(running.ref, Chunk(0, Payload(b"0"))))
    assert not do(store.append(running.ref, Chunk(0, Payload(b"x"))))
    assert not do(store.append(running.ref, Chunk(2, Payload(b"x"))))
    assert do(store.chunks("a", 0)) == [Chunk(0, Payload(b"0"))]


def test_a_chunk_of_an_older_attempt_is_refused(store: Store) -> None:
    running, lease = started(store, restartable=True)
    do(store.append(running.ref, Chunk(0, Payload(b"0"))))
    do(store.release([Release(running.ref)]))
    again = claim_one(store, lease)
    assert not do(store.append(running.ref, Chunk(1, Payload(b"1"))))
    assert not do(store.append(again.ref, Chunk(0, Payload(b"0"))))
    assert do(store.append(again.ref, Chunk(1, Payload(b"1"))))


def test_chunks_of_an_ended_job_can_be_read(store: Store) -> None:
    running, _ = started(store)
    do(store.append(running.ref, Chunk(0, Payload(b"0"))))
    do(store.finish(running.ref, DONE))
    assert len(do(store.chunks("a", 0))) == 1


# Forgetting


def test_forget_drops_ended_jobs_only(store: Store) -> None:
    running, _ = started(store)
    do(store.append(running.ref, Chunk(0, Payload(b"0"))))
    submit(store, job("b"))
    do(store.forget(["a", "b", "unknown"]))
    assert get(store, "a").state is JobState.IN_PROGRESS
    do(store.finish(running.ref, DONE))
    do(store.forget(["a", "a"]))
    assert do(store.get("a")) is None
    assert do(store.chunks("a", 0)) == []
    assert state(store, "b") is JobState.IN_QUEUE


@pytest.mark.parametrize("claimed", [True, False])
def test_a_job_that_is_not_kept_is_forgotten_with_its_end(store: Store, claimed: bool) -> None:
    lease = own(store)
    submit(store, job("a")._replace(kept=False), job("b"))
    if claimed:
        ended = do(store.finish(claim(store, lease, 1)[0].ref, DONE))
    else:
        ended = do(store.end("a", DONE))
    assert ended is not None and ended.outcome == DONE
    assert do(store.get("a")) is None
    assert do(store.counts("e"))[:2] == (1, 0)
    assert do(store.tally("e")).completed == 1
    assert [each.id for each in claim(store, lease)] == ["b"]
    assert [each.id for each in do(store.recent("e"))] == ["b"]


def test_retire_forgets_jobs_that_ended_long_ago(store: Store, clock: ManualClock) -> None:
    submit(store, *[job(name) for name in "abc"])
    do(store.end("b", CANCELLED))
    clock.advance(60)
    do(store.end("a", CANCELLED))
    clock.advance(60)
    assert do(store.retire(100)) == 1
    assert do(store.get("b")) is None
    assert do(store.retire(100)) == 0
    assert do(store.retire(60)) == 1
    assert state(store, "c") is JobState.IN_QUEUE


def test_a_forgotten_id_may_be_used_again(store: Store) -> None:
    running, lease = started(store)
    do(store.finish(running.ref, DONE))
    do(store.forget(["a"]))
    submit(store, job("a"))
    assert claim_one(store, lease).attempt == 1
    assert do(store.retire(0)) == 0


# Watching


async def take(changes: AsyncIterator[Change], count: int) -> list[tuple[str, JobState, int]]:
    found = [await anext(changes) for _ in range(count)]
    assert [c.cursor for c in found] == sorted({c.cursor for c in found})
    return [(change.job_id, change.state, change.chunks) for change in found]


def test_watch_gives_every_change_from_the_moment_of_the_call(store: Store) -> None:
    async def scenario() -> None:
        epoch = await store.own("e", "plane", 10)
        assert epoch is not None
        await store.submit([job("before")])
        changes = store.watch()
        await store.submit([job("a", parent="x")])
        (running,) = await store.claim("e", 1, Lease("plane", epoch, 10))
        await store.append(running.ref, Chunk(0, Payload(b"0")))
        await store.finish(running.ref, DONE)
        assert await take(changes, 4) == [
            ("a", JobState.IN_QUEUE, 0),
            ("a", JobState.IN_PROGRESS, 0),
            ("a", JobState.IN_PROGRESS, 1),
            ("a", JobState.COMPLETED, 1),
        ]

    do(scenario())


def test_watch_goes_on_from_a_cursor(store: Store) -> None:
    async def scenario() -> None:
        changes = store.watch()
        await store.submit([job(name) for name in "abc"])
        first = await anext(changes)
        rest = store.watch(first.cursor)
        assert [each[0] for each in await take(rest, 2)] == ["b", "c"]

    do(scenario())


def test_watch_wakes_up_for_a_change_made_by_another_thread(store: Store) -> None:
    async def scenario() -> None:
        changes = store.watch()
        pending = asyncio.ensure_future(anext(changes))
        await asyncio.sleep(0)
        thread = threading.Thread(target=submit, args=(store, job("a")))
        thread.start()
        assert (await pending).job_id == "a"
        thread.join()

    do(scenario())


def test_a_watcher_that_has_fallen_behind_is_told_so(store: Store) -> None:
    async def scenario() -> None:
        changes = store.watch()
        for n in range(20_000):
            await store.submit([job(str(n))])
        with pytest.raises(CursorLostError):
            await anext(changes)

    do(scenario())


def test_a_watcher_whose_loop_has_closed_harms_nobody(store: Store) -> None:
    loop = asyncio.new_event_loop()
    changes = store.watch()

    async def look() -> None:
        await store.submit([job("a")])
        await anext(changes)

    loop.run_until_complete(look())
    loop.close()
    submit(store, job("b"))
    assert state(store, "b") is JobState.IN_QUEUE


# Threads


def test_jobs_submitted_and_claimed_by_many_threads_run_once_each(store: Store) -> None:
    lease = own(store)
    claimed: list[str] = []

    def work(names: list[str]) -> None:
        for name in names:
            submit(store, job(name))
            claimed.extend(each.id for each in claim(store, lease, 2))

    names = [[f"{thread}.{n}" for n in range(25)] for thread in range(4)]
    threads = [threading.Thread(target=work, args=(each,)) for each in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    claimed.extend(each.id for each in claim(store, lease, 1000))
    assert sorted(claimed) == sorted(itertools.chain(*names))


# What has been


def test_the_tally_says_what_has_ended_and_what_was_begun_anew(store: Store) -> None:
    lease = own(store)
    submit(store, *(job(id_) for id_ in "abcdef"))
    for done in claim(store, lease, 2):
        do(store.finish(done.ref, DONE))
    do(store.finish(claim_one(store, lease).ref, Outcome(JobState.FAILED, failure=KILLED)))
    do(store.end("d", Outcome(JobState.TIMED_OUT, failure=KILLED)))
    do(store.end("e", CANCELLED))
    lost = claim_one(store, lease)
    do(store.release([Release(lost.ref, KILLED)]))
    again = claim_one(store, lease)
    assert again.id == lost.id
    assert do(store.tally("e")) == Tally(completed=2, failed=2, retried=1)
    do(store.forget(["a", "b"]))
    assert do(store.tally("e")).completed == 2
    assert do(store.tally("other")) == Tally()


# Webhooks


def with_webhook(id_: str, **policy: Any) -> NewJob:
    return job(id_, **policy)._replace(webhook="https://example.com/hook")


def test_an_ended_job_with_a_webhook_is_owed_until_it_was_told(store: Store) -> None:
    lease = own(store)
    submit(store, with_webhook("a"), job("b"), with_webhook("c"))
    first, second, _ = claim(store, lease)
    assert not do(store.owed())
    do(store.finish(first.ref, DONE))
    do(store.finish(second.ref, DONE))
    assert list(do(store.owed())) == ["a"]
    do(store.told("a"))
    do(store.told("unknown"))
    assert not do(store.owed())


@pytest.mark.parametrize("retention_ms", [0, 1000])
def test_a_job_is_kept_until_its_webhook_was_told(
    store: Store, clock: ManualClock, retention_ms: int
) -> None:
    lease = own(store)
    submit(store, with_webhook("a", retention_ms=retention_ms))
    do(store.finish(claim_one(store, lease).ref, DONE))
    clock.advance(3600)
    do(store.forget(["a"]))
    assert do(store.retire(60)) == 0
    assert state(store, "a") is JobState.COMPLETED
    do(store.told("a"))
    assert do(store.retire(60)) == 1
    assert do(store.get("a")) is None


def test_a_job_that_is_retried_owes_its_webhook_anew(store: Store) -> None:
    lease = own(store)
    submit(store, with_webhook("a"))
    do(store.finish(claim_one(store, lease).ref, Outcome(JobState.FAILED, failure=KILLED)))
    do(store.told("a"))
    do(store.retry("a"))
    assert not do(store.owed())
    do(store.finish(claim_one(store, lease).ref, DONE))
    assert list(do(store.owed())) == ["a"]
