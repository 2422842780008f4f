"""Jobs on their way to workers and back: what is lost, cancelled, late, streamed or nested."""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING, Any

import pytest

from runpod_flash.errors import ConnectionClosedError
from runpod_flash.links.base import JobRef
from runpod_flash.plane.store.base import JobState
from runpod_flash.plane.store.memory import now
from runpod_flash.testing import ManualClock, ScriptedEngine
from runpod_flash.wire.codec import decode, encode
from unit.rig import Rig, play, spec

if TYPE_CHECKING:
    from runpod_flash.plane.store.base import Chunk, Job


def add(endpoint: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    return sum(args)


def test_a_job_runs_and_its_result_comes_back() -> None:
    async def scenario(rig: Rig) -> None:
        id_ = rig.submit(rig.declare(spec()), 1, 2)
        await rig.settle()
        assert rig.value(id_) == 3
        assert [job.id for job in rig.ended] == [id_]

    play(scenario, handler=add)


def test_what_the_function_raises_fails_the_job_without_a_second_try() -> None:
    async def scenario(rig: Rig) -> None:
        id_ = rig.submit(rig.declare(spec()), 1, "x")
        await rig.settle()
        assert rig.failure(id_).qualname == "TypeError"
        assert rig.job(id_).attempt == 1

    play(scenario, handler=add)


def test_a_free_worker_gets_the_job_on_the_submitting_thread() -> None:
    async def scenario(rig: Rig) -> None:
        pool = rig.declare(spec())
        rig.holder(await rig.busy(pool)).finish("1")
        second = rig.submit(pool)  # and no turn of the loop since
        assert second in rig.worker().link.jobs

    play(scenario)


def test_one_worker_runs_jobs_one_at_a_time_in_order() -> None:
    async def scenario(rig: Rig) -> None:
        pool = rig.declare(spec())
        ids = [rig.submit(pool) for _ in range(3)]
        await rig.settle()
        for id_ in ids:
            assert list(rig.worker().link.jobs) == [id_]
            rig.worker().link.finish(id_)
        assert rig.states(ids) == ["COMPLETED"] * 3

    play(scenario)


def test_max_concurrency_jobs_run_at_once_on_one_worker() -> None:
    async def scenario(rig: Rig) -> None:
        pool = rig.declare(spec(max_concurrency=3))
        ids = [rig.submit(pool) for _ in range(5)]
        await rig.settle()
        assert list(rig.worker().link.jobs) == ids[:3]
        rig.worker().link.finish(ids[1])
        assert list(rig.worker().link.jobs) == [ids[0], ids[2], ids[3]]

    play(scenario)


def test_the_most_recently_used_worker_is_taken_first_so_that_the_others_idle_out() -> None:
    async def scenario(rig: Rig) -> None:
        pool = rig.declare(spec(workers=(3, 3)))
        ids = [rig.submit(pool) for _ in range(3)]
        await rig.settle()
        for id_ in (ids[2], ids[0], ids[1]):
            last = rig.holder(id_)
            last.finish(id_)
        assert rig.submit(pool) in last.jobs

    play(scenario)


# Submitting again


def test_submitting_a_running_job_again_does_not_run_it_on_a_second_worker() -> None:
    async def scenario(rig: Rig) -> None:
        pool = rig.declare(spec(workers=(2, 2)))
        id_ = await rig.busy(pool)
        new = rig.job(id_)
        rig.plane.submit(pool, rig.store._rows[id_].new)
        await rig.settle()
        assert rig.job(id_) == new
        assert sum(len(w.link.jobs) for w in rig.engine.workers.values()) == 1

    play(scenario)


# Lost workers


def test_a_job_whose_worker_died_is_rerun_once_and_fails_at_the_second_loss() -> None:
    async def scenario(rig: Rig) -> None:
        id_ = await rig.busy(rig.declare(spec()))
        rig.worker().exit("was killed by SIGSEGV")
        await rig.after(5)
        assert (rig.state(id_), rig.job(id_).attempt) == (JobState.IN_PROGRESS, 2)
        worker = rig.worker()
        worker.exit("was killed by SIGKILL")
        await rig.settle()
        failure = rig.failure(id_)
        assert failure.qualname == "WorkerLostError"
        assert worker.worker_id in failure.message
        assert "was killed by SIGKILL" in failure.message

    play(scenario)


def test_a_job_with_one_attempt_fails_at_the_first_loss() -> None:
    async def scenario(rig: Rig) -> None:
        id_ = await rig.busy(rig.declare(spec()), max_attempts=1)
        rig.worker().exit()
        await rig.settle()
        assert rig.failure(id_).qualname == "WorkerLostError"

    play(scenario)


def test_a_job_that_has_delivered_a_chunk_fails_at_the_first_loss() -> None:
    async def scenario(rig: Rig) -> None:
        id_ = await rig.busy(rig.declare(spec()))
        rig.worker().link.chunk(id_, 0, "first")
        rig.worker().exit()
        await rig.settle()
        assert rig.failure(id_).qualname == "WorkerLostError"

    play(scenario)


def test_a_lost_job_is_not_forgotten_while_the_other_worker_is_busy() -> None:
    async def scenario(rig: Rig) -> None:
        pool = rig.declare(spec(workers=(2, 2)))
        first, second = await rig.busy(pool), await rig.busy(pool)
        rig.engine.refusals = [OSError("no more processes")] * 2
        rig.holder(first).worker.exit()
        await rig.settle()
        rig.holder(second).finish(second)
        await rig.settle()
        assert rig.state(first) is JobState.IN_PROGRESS

    play(scenario)


def test_a_result_that_came_with_the_worker_s_last_breath_counts() -> None:
    async def scenario(rig: Rig) -> None:
        id_ = await rig.busy(rig.declare(spec()))
        link = rig.worker().link
        link.leave_unread(lambda: link.finish(id_, 42))
        rig.worker().exit()
        await rig.settle()
        assert rig.value(id_) == 42

    play(scenario)


def test_the_late_answer_of_an_older_attempt_is_refused_and_frees_no_slot() -> None:
    async def scenario(rig: Rig) -> None:
        pool = rig.declare(spec(workers=(1, 1), max_concurrency=2))
        id_ = await rig.busy(pool)
        assert isinstance(rig.clock, ManualClock)
        rig.clock.advance(31)  # the lease runs out while the loop stood still
        changed = await rig.store.expire()
        rig.plane.dispatcher.lapsed(pool, changed)
        await rig.settle()
        assert rig.job(id_).attempt == 2
        link = rig.worker().link
        link.events.finished(JobRef(id_, 1), encode("late"))
        assert rig.state(id_) is JobState.IN_PROGRESS
        assert pool.workers[link.worker.worker_id].free_slots == 1
        link.events.finished(JobRef(id_, 2), encode("right"))
        assert rig.value(id_) == "right"
        assert pool.workers[link.worker.worker_id].free_slots == 2

    play(scenario)


# Cancelling


def test_a_waiting_job_is_cancelled_and_never_runs() -> None:
    async def scenario(rig: Rig) -> None:
        pool = rig.declare(spec())
        first = await rig.busy(pool)
        second = rig.submit(pool)
        rig.plane.cancel(second)
        await rig.settle()
        assert rig.failure(second).qualname == "JobCancelledError"
        rig.worker().link.finish(first)
        await rig.settle()
        assert rig.worker().link.jobs == {}

    play(scenario)


def test_the_code_of_a_cancelled_job_is_told_and_its_worker_lives_on() -> None:
    async def scenario(rig: Rig) -> None:
        pool = rig.declare(spec())
        id_ = await rig.busy(pool)
        worker = rig.worker()
        rig.plane.cancel(id_)
        await rig.settle()
        assert rig.state(id_) is JobState.CANCELLED
        assert [ref.job_id for ref in worker.link.cancelled] == [id_]
        await rig.after(10)
        next_one = await rig.busy(pool)
        assert rig.holder(next_one) is worker.link

    play(scenario)


def test_cancelling_twice_or_after_the_end_changes_nothing() -> None:
    async def scenario(rig: Rig) -> None:
        pool = rig.declare(spec())
        id_ = await rig.busy(pool)
        rig.worker().link.finish(id_, 1)
        rig.plane.cancel(id_)
        await rig.settle()
        assert rig.value(id_) == 1
        assert len(rig.ended) == 1

    play(scenario)


def test_sync_code_that_does_not_stop_costs_its_worker_and_no_other_job() -> None:
    async def scenario(rig: Rig) -> None:
        pool = rig.declare(spec(max_concurrency=2))
        stuck, other = await rig.busy(pool), await rig.busy(pool)
        worker = rig.worker()
        rig.plane.cancel(stuck)
        waiting = [rig.submit(pool), rig.submit(pool)]
        await rig.after(2.5)
        assert rig.states(waiting) == ["IN_PROGRESS"] * 2, "a new worker takes over"
        assert all(rig.holder(id_) is not worker.link for id_ in waiting)
        assert rig.state(other) is JobState.IN_PROGRESS
        worker.link.finish(other, "done")
        await rig.settle()
        assert rig.value(other) == "done"
        assert rig.engine.killed == [worker.worker_id]

    play(scenario, stops_when_cancelled=False)


def test_a_result_that_comes_after_the_cancel_is_refused_and_frees_the_worker() -> None:
    async def scenario(rig: Rig) -> None:
        pool = rig.declare(spec())
        id_ = await rig.busy(pool)
        rig.plane.cancel(id_)
        await rig.after(1)
        rig.worker().link.finish(id_, "too late")
        await rig.after(5)
        assert rig.state(id_) is JobState.CANCELLED
        assert rig.engine.killed == []
        await rig.busy(pool)

    play(scenario, stops_when_cancelled=False)


# Time limits


def test_a_job_that_runs_too_long_times_out_and_its_worker_is_replaced() -> None:
    async def scenario(rig: Rig) -> None:
        pool = rig.declare(spec())
        id_ = await rig.busy(pool, execution_timeout_ms=5000)
        waiting = rig.submit(pool)
        await rig.after(4.9)
        assert rig.state(id_) is JobState.IN_PROGRESS
        await rig.after(0.2)
        assert rig.state(id_) is JobState.TIMED_OUT
        text = f"job {id_} of the endpoint 'a' ran longer than its execution_timeout_ms=5000"
        assert rig.failure(id_).message == text
        await rig.after(2.5)
        assert rig.state(waiting) is JobState.IN_PROGRESS

    play(scenario, stops_when_cancelled=False)


def test_a_second_attempt_has_the_whole_time_for_itself() -> None:
    async def scenario(rig: Rig) -> None:
        id_ = await rig.busy(rig.declare(spec()), execution_timeout_ms=5000)
        await rig.after(4)
        rig.worker().exit()
        await rig.after(4)
        assert (rig.state(id_), rig.job(id_).attempt) == (JobState.IN_PROGRESS, 2)
        await rig.after(1.5)
        assert rig.state(id_) is JobState.TIMED_OUT

    play(scenario)


def test_the_time_of_a_lost_attempt_does_not_run_on_while_the_job_waits() -> None:
    async def scenario(rig: Rig) -> None:
        id_ = await rig.busy(rig.declare(spec()), execution_timeout_ms=5000)
        rig.engine.ready_at_once = False
        rig.worker().exit()
        await rig.after(60)
        assert rig.state(id_) is JobState.IN_QUEUE
        rig.worker().link.become_ready()
        await rig.after(1)
        assert rig.state(id_) is JobState.IN_PROGRESS

    play(scenario)


@pytest.mark.parametrize("runs", [False, True])
def test_a_job_past_its_time_to_live_ends_and_whoever_waits_hears_it(runs: bool) -> None:
    async def scenario(rig: Rig) -> None:
        pool = rig.declare(spec())
        if not runs:
            await rig.busy(pool)
        id_ = rig.submit(pool, ttl_ms=15_000)
        await rig.after(31)
        assert rig.state(id_) is JobState.TIMED_OUT
        assert [job.id for job in rig.ended] == [id_]
        assert len(rig.worker().link.cancelled) == runs

    play(scenario)


def test_long_jobs_keep_their_leases() -> None:
    async def scenario(rig: Rig) -> None:
        id_ = await rig.busy(rig.declare(spec()), max_attempts=1)
        await rig.after(3600)
        assert rig.job(id_).attempt == 1
        rig.worker().link.finish(id_, "at last")
        assert rig.value(id_) == "at last"

    play(scenario)


# Streams


def collect(rig: Rig, id_: str) -> tuple[list[Any], list[Job]]:
    """Read a stream as a client does, one look after another."""
    found: list[Any] = []
    ends: list[Job] = []

    def arrived(chunks: Any, job: Job | None) -> None:
        found.extend(decode(chunk.payload, trusted=True) for chunk in chunks)
        if job is None:
            rig.views.chunks(id_, len(found), arrived)
        else:
            ends.append(job)

    rig.views.chunks(id_, 0, arrived)
    return found, ends


def test_a_stream_s_chunks_arrive_in_order_and_once_and_then_its_end() -> None:
    async def scenario(rig: Rig) -> None:
        id_ = await rig.busy(rig.declare(spec()), credits=2)
        found, ends = collect(rig, id_)
        link = rig.worker().link
        for index in range(5):
            link.chunk(id_, index, index)
            link.events.chunk(link.jobs[id_].ref, index, encode("again"))
        assert found == list(range(5))
        assert ends == []
        link.finish(id_)
        assert [job.id for job in ends] == [id_]

    play(scenario)


def test_a_generator_is_granted_what_its_consumer_has_taken() -> None:
    async def scenario(rig: Rig) -> None:
        id_ = await rig.busy(rig.declare(spec()), credits=2)
        link = rig.worker().link
        link.chunk(id_, 0, "a")
        link.chunk(id_, 1, "b")
        assert link.granted == []
        collect(rig, id_)
        assert sum(count for _, count in link.granted) == 2
        link.chunk(id_, 2, "c")
        assert sum(count for _, count in link.granted) == 3

    play(scenario)


def test_a_restarted_stream_goes_on_although_nobody_takes_its_first_chunks_again() -> None:
    async def scenario(rig: Rig) -> None:
        id_ = await rig.busy(rig.declare(spec()), credits=2, restartable=True)
        found, _ = collect(rig, id_)
        for index in range(10):
            rig.worker().link.chunk(id_, index, index)
        rig.worker().exit()
        await rig.after(5)
        link = rig.worker().link
        room = 2
        for index in range(12):
            granted = sum(count for _, count in link.granted)
            assert granted + room > index, "the generator would wait for ever"
            link.chunk(id_, index, index)
        assert found == list(range(12))

    play(scenario)


# Nested calls


def call_submit(link: Any, id_: str, spec_: Any, parent: str) -> None:
    fields = {"spec": spec_.to_wire(), "env": {}, "form": "call", "method": "", "credits": 0}
    link.call("submit", encode({"args": [], "kwargs": {}}), job=id_, parent=parent, **fields)


def test_a_nested_call_runs_and_its_answer_reaches_the_caller() -> None:
    async def scenario(rig: Rig) -> None:
        outer = await rig.busy(rig.declare(spec("a")))
        link = rig.worker("a").link
        call_submit(link, "inner", spec("b"), outer)
        wait = link.call("wait", job="inner")
        await rig.settle()
        rig.worker("b").link.finish("inner", 7)
        fields, payload = link.answers[wait]
        assert fields["state"] == "COMPLETED"
        assert payload is not None
        assert decode(payload, trusted=True) == 7

    play(scenario)


@pytest.mark.parametrize("wire", [{}, {"name": "x"}, {**spec("b").to_wire(), "unknown": 1}])
def test_a_nested_call_that_cannot_be_read_harms_nobody(wire: dict[str, Any]) -> None:
    async def scenario(rig: Rig) -> None:
        outer = await rig.busy(rig.declare(spec("a")))
        link = rig.worker("a").link
        number = link.call("submit", encode([]), job="x", parent=outer, spec=wire, env={})
        refused = link.answers[number][0]
        assert refused["state"] == "FAILED"
        wait = link.call("wait", job="x")
        assert link.answers[wait] == (refused, None)
        link.call("forget", job="x")
        wait = link.call("wait", job="x")
        assert link.answers[wait] == ({}, None)
        link.finish(outer, 1)
        assert rig.value(outer) == 1

    play(scenario)


def test_a_circle_of_parents_is_no_endless_loop() -> None:
    async def scenario(rig: Rig) -> None:
        pool = rig.declare(spec(max_concurrency=3))
        first = await rig.busy(pool, parent="2")
        second = await rig.busy(pool, parent=first)
        ancestors = rig.plane.dispatcher.ancestors(rig.job(second))
        assert [worker.id for worker in ancestors] == [rig.worker().worker_id]

    play(scenario)


# Subscribers


def test_a_subscriber_that_fails_harms_neither_the_job_nor_the_other_subscribers(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def fail(event: Any) -> None:
        raise RuntimeError("a subscriber's own fault")

    async def scenario(rig: Rig) -> None:
        pool = rig.declare(spec())
        ends: list[Any] = []
        rig.plane.events.follow("1", fail)
        rig.plane.events.follow("1", ends.append)
        id_ = await rig.busy(pool)
        rig.worker().link.finish(id_, 1)
        assert len(ends) == 1
        await rig.busy(pool)

    play(scenario)
    assert "a subscriber's own fault" in caplog.text


def test_waiting_for_an_unknown_or_ended_job_answers_at_once() -> None:
    async def scenario(rig: Rig) -> None:
        answers: list[Job | None] = []
        rig.views.wait("unknown", answers.append)
        id_ = await rig.busy(rig.declare(spec()))
        rig.worker().link.finish(id_)
        rig.views.wait(id_, answers.append)
        assert [job and job.id for job in answers] == [None, id_]

    play(scenario)


def test_a_wait_that_begins_while_the_job_ends_is_answered_exactly_once() -> None:
    rounds = 300

    async def scenario() -> None:
        rig = Rig(ScriptedEngine(), ManualClock())
        pool = rig.declare(spec())
        answers: list[Any] = []
        for _ in range(rounds):
            id_ = rig.submit(pool)
            while id_ not in (rig.engine.of("a")[0].link.jobs if rig.engine.workers else ()):
                await asyncio.sleep(0)
            waiter = threading.Thread(target=rig.views.wait, args=(id_, answers.append))
            waiter.start()
            rig.worker().link.finish(id_)
            waiter.join()
        await rig.plane.close()
        assert len(answers) == rounds

    asyncio.run(scenario())


# Leaks


def test_twenty_thousand_jobs_leave_nothing_behind() -> None:
    async def scenario(rig: Rig) -> None:
        pool = rig.declare(spec(workers=(2, 2), max_concurrency=4))
        await rig.settle()
        dispatcher = rig.plane.dispatcher
        for n in range(20_000):
            id_ = rig.submit(pool, 1, execution_timeout_ms=1000 if n % 100 == 0 else 0, credits=1)
            link = dispatcher.holder(id_).link  # type: ignore[union-attr]
            if n % 50 == 0:
                rig.views.chunks(id_, 0, lambda chunks, job: None)
                link.chunk(id_, 0, 1)  # type: ignore[union-attr]
                dispatcher.consumed(id_, 1)
            link.finish(id_)  # type: ignore[union-attr]
            rig.views.forget(id_)
            if n % 1000 == 0:
                await rig.settle()
        rig.ended.clear()
        await rig.settle()
        kept = (dispatcher._holders, dispatcher.limits._limits, dispatcher._consumed)
        assert [len(each) for each in kept] == [0, 0, 0]
        assert rig.plane.events._by_job == {}
        assert rig.store._rows == {}
        assert rig.store._ended == {}
        assert rig.store._queues[pool.key].running == {}
        assert len(pool.free) == 2
        assert all(not w.jobs and not w.ghosts for w in pool.workers.values())
        assert len(rig.plane.reconciler._timers) <= 1

    play(scenario)


def test_a_chunk_that_nobody_reads_is_kept_for_whoever_comes() -> None:
    async def scenario(rig: Rig) -> None:
        id_ = await rig.busy(rig.declare(spec()))
        rig.worker().link.chunk(id_, 0, "kept")
        rig.worker().link.finish(id_)
        kept: list[Chunk] = list(now(rig.store.chunks(id_, 0)))
        assert [decode(chunk.payload, trusted=True) for chunk in kept] == ["kept"]

    play(scenario)


def test_a_job_for_a_closed_plane_is_refused_and_not_forgotten() -> None:
    async def scenario(rig: Rig) -> None:
        pool = rig.declare(spec())
        await rig.plane.close()
        with pytest.raises(ConnectionClosedError, match="was not accepted"):
            rig.submit(pool)

    play(scenario)
