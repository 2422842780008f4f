"""The plane as a whole: its end, its threads, its upkeep."""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING

import pytest

from runpod_flash.errors import JobCancelledError
from runpod_flash.plane.events import WorkerEnded
from runpod_flash.plane.store.base import JobState
from runpod_flash.testing import ScriptedEngine
from runpod_flash.wire.failures import capture
from unit.rig import Rig, play, real, spec

if TYPE_CHECKING:
    from runpod_flash.plane.events import Event

STOPPED = capture(JobCancelledError("the program has ended"), origin="system")


def test_a_thousand_submits_from_four_threads_lose_nothing() -> None:
    async def scenario() -> None:
        rig = real(ScriptedEngine(lambda endpoint, args, kwargs: args[0]))
        pool = rig.declare(spec(workers=(0, 3), max_concurrency=2, scaler="REQUEST_COUNT"))
        done = asyncio.Event()
        rig.plane.events.subscribe(lambda _: done.set() if len(rig.ended) == 1000 else None)

        def submit_all() -> None:
            for _ in range(250):
                rig.submit(pool)

        threads = [threading.Thread(target=submit_all) for _ in range(4)]
        for thread in threads:
            thread.start()
        await done.wait()
        for thread in threads:
            thread.join()
        assert len({job.id for job in rig.ended}) == 1000
        assert all(rig.value(job.id) == job.id and job.attempt == 1 for job in rig.ended)
        assert rig.plane.unfinished() == 0
        await rig.plane.close()

    asyncio.run(scenario())


def test_cancels_from_threads_while_jobs_run_end_every_job_exactly_once() -> None:
    async def scenario() -> None:
        rig = real(ScriptedEngine(lambda endpoint, args, kwargs: args[0]))
        pool = rig.declare(spec(workers=(0, 2), scaler="REQUEST_COUNT"))
        done = asyncio.Event()
        rig.plane.events.subscribe(lambda _: done.set() if len(rig.ended) == 400 else None)

        def submit_and_cancel() -> None:
            for _ in range(200):
                rig.plane.cancel(rig.submit(pool))

        threads = [threading.Thread(target=submit_and_cancel) for _ in range(2)]
        for thread in threads:
            thread.start()
        await done.wait()
        for thread in threads:
            thread.join()
        await rig.settle()
        assert len(rig.ended) == len({job.id for job in rig.ended}) == 400
        await rig.plane.close()

    asyncio.run(scenario())


def test_declaring_from_many_threads_at_once_makes_one_pool() -> None:
    async def scenario() -> None:
        rig = real(ScriptedEngine())
        pools: list[object] = []
        threads = [
            threading.Thread(target=lambda: pools.append(rig.declare(spec()))) for _ in range(8)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len({id(pool) for pool in pools}) == 1
        await rig.plane.close()

    asyncio.run(scenario())


# The end


@pytest.mark.parametrize("ready", [False, True])
def test_closing_while_a_worker_starts_ends_it(ready: bool) -> None:
    async def scenario(rig: Rig) -> None:
        id_ = rig.submit(rig.declare(spec()))
        await rig.settle()
        await rig.plane.close()
        await rig.settle()
        assert rig.engine.closed
        assert rig.engine.workers == {}
        assert rig.state(id_) is JobState.IN_QUEUE

    play(scenario, starts_at_once=ready, ready_at_once=False)


def test_closing_counts_as_no_death_and_leaves_the_jobs_in_the_store() -> None:
    async def scenario(rig: Rig) -> None:
        pool = rig.declare(spec())
        once = await rig.busy(pool, max_attempts=1)
        waiting = rig.submit(pool)
        await rig.plane.close()
        await rig.settle()
        assert rig.states([once, waiting]) == ["IN_QUEUE", "IN_QUEUE"]
        assert rig.job(once).deaths == 0
        assert rig.ended == []
        assert len(rig.engine.orders) == 1

    play(scenario)


def test_closing_with_a_failure_answers_everyone_who_waits() -> None:
    async def scenario(rig: Rig) -> None:
        pool, other = rig.declare(spec("a", max_concurrency=2)), rig.declare(spec("b"))
        ids = [await rig.busy(pool), await rig.busy(pool), rig.submit(pool), rig.submit(other)]
        await rig.plane.close(STOPPED)
        assert [rig.failure(id_) for id_ in ids] == [STOPPED] * 4
        assert sorted(job.id for job in rig.ended) == sorted(ids)

    play(scenario)


def test_closing_twice_is_closing_once() -> None:
    async def scenario(rig: Rig) -> None:
        ended: list[Event] = []
        rig.plane.events.subscribe(ended.append, WorkerEnded)
        await rig.busy(rig.declare(spec()))
        worker = rig.worker()
        for _ in range(2):
            await rig.plane.close()
            await rig.settle()
            assert rig.engine.killed == []  # the engine's own end is theirs
            assert rig.engine.ended == [worker]
            assert len(ended) == 1

    play(scenario)


def test_nothing_starts_after_the_end_whatever_timers_were_set() -> None:
    async def scenario(rig: Rig) -> None:
        rig.declare(spec(workers=(2, 2), idle_timeout=5))
        await rig.settle()
        await rig.plane.close()
        await rig.after(1000)
        assert len(rig.engine.orders) == 2
        assert rig.engine.killed == []

    play(scenario)


# Upkeep


def test_a_fault_in_one_turn_of_the_upkeep_does_not_end_it() -> None:
    async def scenario(rig: Rig) -> None:
        errors: list[object] = []
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, context: errors.append(context["exception"]))
        id_ = await rig.busy(rig.declare(spec()), max_attempts=1)
        expire = rig.store.expire

        async def fail_once() -> list[object]:
            rig.store.expire = expire  # type: ignore[method-assign]
            raise OSError("the disk is full")

        rig.store.expire = fail_once  # type: ignore[method-assign, assignment]
        await rig.after(300)
        assert [str(error) for error in errors] == ["the disk is full"]
        assert rig.job(id_).attempt == 1

    play(scenario)


def test_old_results_are_forgotten_and_fresh_ones_kept() -> None:
    async def scenario(rig: Rig) -> None:
        pool = rig.declare(spec(workers=(1, 1)))
        old = await rig.busy(pool)
        rig.worker().link.finish(old)
        await rig.after(1700)
        fresh = await rig.busy(pool)
        rig.worker().link.finish(fresh)
        await rig.after(200)
        assert await rig.store.get(old) is None
        assert rig.state(fresh) is JobState.COMPLETED

    play(scenario)


def test_the_caller_s_environment_reaches_the_worker_s_import() -> None:
    async def scenario(rig: Rig) -> None:
        await rig.busy(rig.declare(spec(), {"KEY": "value"}))
        assert rig.worker().link.caller_env == {"CALLER": "1"}
        assert rig.worker().env == {"KEY": "value"}

    play(scenario)


def test_a_job_that_runs_waits_for_nothing() -> None:
    async def scenario(rig: Rig) -> None:
        id_ = await rig.busy(rig.declare(spec()))
        seen = rig.views.look(id_)
        assert seen is not None
        assert (seen.state, seen.waits_for) == ("IN_PROGRESS", "")
        assert seen.worker_id == rig.worker().worker_id
        assert rig.views.look("unknown") is None

    play(scenario)
