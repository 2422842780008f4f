"""Workers that start, fail to start, idle, make room and are replaced."""

from __future__ import annotations

import asyncio
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest

from runpod_flash.engines.base import CapacityError, Refusal, StartOrder
from runpod_flash.errors import EnvironmentBuildError, WorkerStartError
from runpod_flash.plane.events import WorkerEnded
from runpod_flash.plane.making_room import TURN_SECONDS
from runpod_flash.plane.pool import Pool, Worker, WorkerState
from runpod_flash.plane.store.base import JobState, Lease
from runpod_flash.plane.store.memory import MemoryStore
from runpod_flash.testing import ScriptedEngine, ScriptedLink, ScriptedWorker
from runpod_flash.wire.failures import Failure
from unit.rig import Rig, play, real, spec

if TYPE_CHECKING:
    from runpod_flash.plane.events import Event
    from runpod_flash.spec import EndpointSpec

IMPORT_FAILS = Failure("builtins", "ModuleNotFoundError", "No module named 'nothing'")


def one_device(order: StartOrder, engine: ScriptedEngine) -> None:
    """Room for one worker of a GPU endpoint, or of several that wait for one another."""
    holders = [w for w in engine.workers.values() if w.order.spec.uses_gpu]
    foreign = [w for w in holders if w.worker_id not in order.near]
    if order.spec.uses_gpu and foreign:
        names = tuple(w.worker_id for w in foreign)
        raise CapacityError(Refusal(f"a GPU, held by {', '.join(names)}", names))


def gpu(name: str, workers: tuple[int, int] = (0, 1), **more: Any) -> Any:
    return spec(name, workers, gpus=("any",), **more)


# Scaling


def test_no_worker_starts_before_there_is_a_job() -> None:
    async def scenario(rig: Rig) -> None:
        rig.declare(spec())
        await rig.after(100)
        assert rig.engine.orders == []

    play(scenario)


def test_an_idle_worker_goes_after_the_idle_timeout_and_comes_back_for_the_next_job() -> None:
    async def scenario(rig: Rig) -> None:
        pool = rig.declare(spec(idle_timeout=10))
        rig.holder(await rig.busy(pool)).finish("1")
        await rig.after(9.5)
        first = rig.worker()
        await rig.after(1)
        assert rig.engine.workers == {}
        assert rig.engine.killed == [], "it was asked, not killed"
        await rig.busy(pool)
        assert rig.worker() is not first

    play(scenario)


def test_workers_are_kept_and_prewarmed_by_the_idle_times_that_were_learned() -> None:
    async def scenario(rig: Rig) -> None:
        pool = rig.declare(spec(idle_timeout=300, learned=True))
        for _ in range(8):
            id_ = await rig.busy(pool)
            rig.worker().link.finish(id_)
            await rig.after(1800)
        await rig.busy(pool)
        rig.worker().link.finish("9")
        await rig.after(2)
        assert rig.engine.workers == {}, "not kept for half an hour"
        await rig.after(1780)
        prewarmed = rig.worker()
        id_ = rig.submit(pool)
        assert id_ in prewarmed.link.jobs, "no cold start"

    play(scenario)


def test_a_call_that_was_forecast_and_does_not_come_lets_the_worker_go() -> None:
    async def scenario(rig: Rig) -> None:
        pool = rig.declare(spec(idle_timeout=300, learned=True))
        for _ in range(8):
            id_ = await rig.busy(pool)
            rig.worker().link.finish(id_)
            await rig.after(1800)
        await rig.after(400)
        assert rig.engine.workers == {}

    play(scenario)


def test_every_job_starts_the_idle_time_anew() -> None:
    async def scenario(rig: Rig) -> None:
        pool = rig.declare(spec(idle_timeout=10))
        for _ in range(5):
            id_ = await rig.busy(pool)
            rig.worker().link.finish(id_)
            await rig.after(8)
        assert len(rig.engine.orders) == 1
        await rig.after(3)
        assert rig.engine.workers == {}

    play(scenario)


def test_a_look_in_the_turn_in_which_a_job_ends_keeps_its_worker() -> None:
    async def scenario(rig: Rig) -> None:
        pool = rig.declare(spec(idle_timeout=10))
        id_ = await rig.busy(pool)
        await rig.after(100)
        rig.worker().link.finish(id_)
        rig.plane.reconciler.reconcile(pool)
        await rig.after(9)
        assert rig.worker(), "it had been busy for longer than it may idle"

    play(scenario)


def test_a_timer_that_is_set_for_later_does_not_prolong_the_idle_time() -> None:
    async def scenario(rig: Rig) -> None:
        pool = rig.declare(spec(workers=(0, 2), idle_timeout=5, scaler_value=500))
        ids = [rig.submit(pool), rig.submit(pool)]
        await rig.settle()
        for id_ in ids:
            rig.worker().link.finish(id_)
        await rig.after(6)
        assert rig.engine.workers == {}

    play(scenario)


def test_a_worker_that_does_not_end_when_asked_is_killed() -> None:
    async def scenario(rig: Rig) -> None:
        rig.holder(await rig.busy(rig.declare(spec(idle_timeout=10)))).finish("1")
        worker = rig.worker()
        await rig.after(16)
        assert rig.engine.killed == [worker.worker_id]

    play(scenario, exits_when_stopped=False)


def test_the_minimum_is_started_at_once_kept_alive_and_restarted() -> None:
    async def scenario(rig: Rig) -> None:
        rig.declare(spec(workers=(2, 3), idle_timeout=5))
        await rig.after(100)
        assert len(rig.engine.workers) == 2
        rig.engine.of("a")[0].exit()
        await rig.after(5)
        assert len(rig.engine.workers) == 2
        assert len(rig.engine.orders) == 3

    play(scenario)


def test_request_count_starts_a_worker_for_each_request_up_to_the_maximum() -> None:
    async def scenario(rig: Rig) -> None:
        pool = rig.declare(spec(workers=(0, 3), scaler="REQUEST_COUNT", scaler_value=1))
        ids = [rig.submit(pool) for _ in range(5)]
        await rig.settle()
        assert rig.states(ids) == ["IN_PROGRESS"] * 3 + ["IN_QUEUE"] * 2

    play(scenario)


def test_queue_delay_starts_no_crowd_for_one_job_while_its_worker_takes_minutes() -> None:
    async def scenario(rig: Rig) -> None:
        rig.submit(rig.declare(spec(workers=(0, 10))))
        await rig.after(300)
        assert len(rig.engine.orders) == 1

    play(scenario, ready_at_once=False)


def test_queue_delay_adds_a_worker_when_the_second_job_has_waited() -> None:
    async def scenario(rig: Rig) -> None:
        pool = rig.declare(spec(workers=(0, 3)))
        ids = [rig.submit(pool), rig.submit(pool)]
        await rig.after(3.9)
        assert rig.states(ids) == ["IN_PROGRESS", "IN_QUEUE"]
        await rig.after(0.2)
        assert rig.states(ids) == ["IN_PROGRESS", "IN_PROGRESS"]

    play(scenario)


def test_the_engine_s_limit_holds_and_is_said_once() -> None:
    async def scenario(rig: Rig) -> None:
        pool = rig.declare(spec(workers=(0, 5), scaler="REQUEST_COUNT", scaler_value=1))
        for _ in range(5):
            rig.submit(pool)
        await rig.after(10)
        assert len(rig.engine.workers) == 2
        assert rig.notices == ["at most 2 of 5 workers: room for 2 workers"]

    play(scenario, capacity=2)


def test_a_job_without_any_room_says_so_and_runs_as_soon_as_there_is_some() -> None:
    async def scenario(rig: Rig) -> None:
        id_ = rig.submit(rig.declare(spec()))
        await rig.settle()
        assert rig.plane.waits_for(rig.job(id_)) == "room for 0 workers"
        rig.engine.capacity = 1
        await rig.after(1.1)
        assert rig.state(id_) is JobState.IN_PROGRESS
        assert rig.plane.waits_for(rig.job(id_)) == ""

    play(scenario, capacity=0)


def test_a_job_of_an_endpoint_that_may_have_no_worker_says_so() -> None:
    async def scenario(rig: Rig) -> None:
        id_ = rig.submit(rig.declare(spec(workers=(0, 0))))
        await rig.after(10)
        assert "workers=0" in rig.plane.waits_for(rig.job(id_))

    play(scenario)


# Failing to start


def test_a_module_that_does_not_import_fails_the_waiting_jobs_at_once() -> None:
    async def scenario(rig: Rig) -> None:
        pool = rig.declare(spec())
        ids = [rig.submit(pool) for _ in range(3)]
        await rig.settle()
        rig.worker().link.events.start_failed(IMPORT_FAILS)
        assert [rig.failure(id_) for id_ in ids] == [IMPORT_FAILS] * 3
        await rig.after(60)
        assert len(rig.engine.orders) == 1

    play(scenario, ready_at_once=False)


def test_the_reason_that_a_worker_sent_before_it_exited_is_what_the_job_gets() -> None:
    async def scenario(rig: Rig) -> None:
        id_ = rig.submit(rig.declare(spec()))
        await rig.settle()
        link = rig.worker().link
        link.leave_unread(lambda: link.events.start_failed(IMPORT_FAILS))
        rig.worker().exit("ended with code 0")
        await rig.settle()
        assert rig.failure(id_) == IMPORT_FAILS
        assert len(rig.engine.orders) == 1

    play(scenario, ready_at_once=False)


@pytest.mark.parametrize("link_first", [False, True])
def test_a_worker_that_dies_at_its_start_is_tried_three_times_then_the_job_gets_its_output(
    link_first: bool,
) -> None:
    async def scenario(rig: Rig) -> None:
        pool = rig.declare(spec())
        id_ = rig.submit(pool)
        for _ in range(3):
            await rig.after(1)
            worker = rig.worker()
            if link_first:
                worker.link.events.closed()
                rig.plane.reconciler.reconcile(pool)  # as a submit would do at this very moment
            worker.exit("was killed by SIGILL", "Illegal instruction")
        await rig.settle()
        failure = rig.failure(id_)
        assert failure.qualname == "WorkerStartError"
        assert "3 in a row failed, the last one was killed by SIGILL" in failure.message
        assert "Illegal instruction" in failure.message
        assert len(rig.engine.orders) == 3

    play(scenario, ready_at_once=False)


@pytest.mark.parametrize("error", [OSError("too many processes"), KeyError("an engine's fault")])
def test_an_engine_that_cannot_start_the_worker_is_tried_three_times(error: Exception) -> None:
    async def scenario(rig: Rig) -> None:
        asyncio.get_running_loop().set_exception_handler(lambda *_: None)
        rig.engine.refusals = [error] * 3
        id_ = rig.submit(rig.declare(spec()))
        await rig.after(5)
        assert str(error) in rig.failure(id_).message

    play(scenario)


def test_a_start_that_succeeds_at_the_third_try_runs_the_job() -> None:
    async def scenario(rig: Rig) -> None:
        rig.engine.refusals = [OSError("busy"), OSError("busy")]
        id_ = rig.submit(rig.declare(spec()))
        await rig.after(5)
        assert rig.state(id_) is JobState.IN_PROGRESS

    play(scenario)


class Faulty:
    """An engine's `limit` that raises so often, then answers."""

    def __init__(self, rig: Rig, times: int) -> None:
        self.left = times
        self._limit = rig.engine.limit
        rig.engine.limit = self  # type: ignore[method-assign]

    def __call__(self, spec: EndpointSpec) -> tuple[int, str]:
        if self.left:
            self.left -= 1
            raise OSError("/proc cannot be read")
        return self._limit(spec)


def test_a_fault_of_ours_is_tried_again_and_the_job_runs() -> None:
    async def scenario(rig: Rig) -> None:
        pool = rig.declare(spec())
        await rig.settle()
        Faulty(rig, 2)
        job = rig.submit(pool)
        await rig.settle()
        assert rig.state(job) is JobState.IN_QUEUE
        await rig.after(0.7)
        assert rig.state(job) is JobState.IN_PROGRESS
        rig.holder(job).finish(job)
        await rig.settle()
        assert pool.faults.count == 0

    play(scenario, faulty=True)


def test_a_fault_that_lasts_fails_the_waiting_jobs_and_requests_with_its_cause() -> None:
    async def scenario(rig: Rig) -> None:
        pool = rig.declare(spec())
        await rig.settle()
        faulty = Faulty(rig, 1000)
        job, request = rig.submit(pool), asyncio.ensure_future(rig.plane.warm(pool))
        await rig.after(1)
        assert rig.state(job) is JobState.FAILED
        assert "workers of 'a', 3 times in a row: OSError: /proc cannot" in rig.failure(job).message
        with pytest.raises(WorkerStartError, match="3 times in a row"):
            await request
        late = rig.submit(pool)
        await rig.settle()
        assert rig.state(late) is JobState.FAILED, "nobody waits for what is known to fail"
        faulty.left = 0
        good = rig.submit(pool)
        await rig.settle()
        assert rig.state(good) is JobState.IN_PROGRESS, "it goes on once it can"

    play(scenario, faulty=True)


def test_a_worker_whose_link_cannot_be_opened_is_no_worker_that_starts_for_ever() -> None:
    async def scenario(rig: Rig) -> None:
        pool = rig.declare(spec())
        await rig.settle()
        opened = ScriptedLink.open

        def fails(*_: object) -> None:
            ScriptedLink.open = opened  # type: ignore[method-assign]
            raise ValueError("this spec cannot be sent")

        ScriptedLink.open = fails  # type: ignore[assignment,method-assign]
        job = rig.submit(pool)
        await rig.after(1)
        assert rig.state(job) is JobState.IN_PROGRESS
        assert len(rig.engine.orders) == 2
        assert len(rig.engine.workers) == 1

    play(scenario, faulty=True)


def test_an_environment_that_cannot_be_built_fails_the_waiting_jobs_with_its_reason() -> None:
    async def scenario(rig: Rig) -> None:
        rig.engine.refusals = [EnvironmentBuildError("no version of torch fits")]
        pool = rig.declare(spec())
        ids = [rig.submit(pool), rig.submit(pool)]
        await rig.settle()
        assert {rig.failure(id_).message for id_ in ids} == {"no version of torch fits"}
        later = rig.submit(pool)
        await rig.after(1)
        assert rig.state(later) is JobState.IN_PROGRESS

    play(scenario)


def test_a_failing_second_worker_does_not_fail_the_jobs_that_the_first_one_serves() -> None:
    async def scenario(rig: Rig) -> None:
        pool = rig.declare(spec(workers=(0, 2)))
        running = await rig.busy(pool)
        waiting = rig.submit(pool)
        rig.engine.refusals = [EnvironmentBuildError("the index is down")] * 100
        await rig.after(30)
        assert rig.states([running, waiting]) == ["IN_PROGRESS", "IN_QUEUE"]
        assert len(rig.engine.orders) < 12

    play(scenario)


@pytest.mark.parametrize("way", ["build", "import", "death", "idle exit"])
def test_a_minimum_that_never_holds_is_no_hot_loop(way: str) -> None:
    def fail(worker: ScriptedWorker) -> None:
        if way == "import":
            worker.link.events.start_failed(IMPORT_FAILS)
            worker.exit("ended with code 0")
        else:
            worker.exit("ended with code 0")

    async def scenario(rig: Rig) -> None:
        if way == "build":
            rig.engine.refusals = [EnvironmentBuildError("no")] * 10_000
        rig.declare(spec(workers=(1, 1)))
        for _ in range(6000):
            await rig.after(0.1)
            for worker in list(rig.engine.workers.values()):
                fail(worker)
        assert 5 < len(rig.engine.orders) < 60

    play(scenario, ready_at_once=way == "idle exit")


def test_a_job_does_not_wait_for_the_pause_of_a_minimum_that_never_holds() -> None:
    async def scenario(rig: Rig) -> None:
        rig.engine.refusals = [EnvironmentBuildError("no")] * 12
        pool = rig.declare(spec(workers=(1, 1)))
        await rig.after(300)
        rig.engine.refusals.clear()
        id_ = rig.submit(pool)
        await rig.after(0.5)
        assert rig.state(id_) is JobState.IN_PROGRESS

    play(scenario)


def test_an_exit_that_is_reported_before_start_returns_is_not_overlooked() -> None:
    def die(order: StartOrder, engine: ScriptedEngine) -> None:
        if len(engine.orders) == 1:
            rigs[0].plane.reconciler.exited(order.worker_id, _exit(order.worker_id))

    rigs: list[Rig] = []

    async def scenario(rig: Rig) -> None:
        rigs.append(rig)
        rig.engine.place = die
        id_ = rig.submit(rig.declare(spec()))
        await rig.after(5)
        assert rig.state(id_) is JobState.IN_PROGRESS
        assert len(rig.engine.orders) == 2
        assert len(rig.plane.workers()) == 1

    play(scenario)


def _exit(worker_id: str) -> Any:
    from runpod_flash.engines.base import WorkerExit

    return WorkerExit(worker_id, "was killed by SIGKILL")


def test_the_exit_of_an_unknown_worker_is_nothing() -> None:
    async def scenario(rig: Rig) -> None:
        ended: list[Event] = []
        rig.plane.events.subscribe(ended.append, WorkerEnded)
        id_ = await rig.busy(rig.declare(spec()))
        orders = [*rig.engine.orders]
        rig.plane.worker_exited(_exit("nobody-1234"))
        await rig.after(60)
        assert ended == []
        assert rig.engine.orders == orders
        assert rig.state(id_) is JobState.IN_PROGRESS

    play(scenario)


def test_a_worker_that_exits_by_itself_while_idle_is_just_gone() -> None:
    async def scenario(rig: Rig) -> None:
        pool = rig.declare(spec())
        rig.holder(await rig.busy(pool)).finish("1")
        rig.worker().exit("ended with code 0")
        await rig.after(60)
        assert len(rig.engine.orders) == 1
        await rig.busy(pool)

    play(scenario)


def test_a_worker_that_closes_its_link_and_lives_on_is_killed_and_its_job_rerun() -> None:
    async def scenario(rig: Rig) -> None:
        id_ = await rig.busy(rig.declare(spec()))
        first = rig.worker()
        first.link.events.closed()
        await rig.after(2)
        assert rig.engine.killed == [first.worker_id]
        assert (rig.state(id_), rig.job(id_).attempt) == (JobState.IN_PROGRESS, 2)

    play(scenario)


# Room


def test_a_job_that_waits_for_a_device_says_what_for_and_who_holds_it() -> None:
    async def scenario(rig: Rig) -> None:
        rig.engine.place = one_device
        await rig.busy(rig.declare(gpu("holder")))
        id_ = rig.submit(rig.declare(gpu("waiter")))
        await rig.settle()
        holder = rig.worker("holder").worker_id
        assert rig.plane.waits_for(rig.job(id_)) == f"a GPU, held by {holder}"
        snapshot = rig.views.look(id_)
        assert snapshot is not None
        assert snapshot.waits_for == f"a GPU, held by {holder}"

    play(scenario)


def test_an_idle_holder_gives_its_device_up_at_once() -> None:
    async def scenario(rig: Rig) -> None:
        rig.engine.place = one_device
        rig.holder(await rig.busy(rig.declare(gpu("holder")))).finish("1")
        id_ = rig.submit(rig.declare(gpu("waiter")))
        await rig.settle()
        assert rig.state(id_) is JobState.IN_PROGRESS
        assert rig.engine.of("holder") == []

    play(scenario)


def test_a_busy_holder_gives_its_device_up_as_soon_as_it_is_idle() -> None:
    async def scenario(rig: Rig) -> None:
        rig.engine.place = one_device
        first = await rig.busy(rig.declare(gpu("holder")))
        id_ = rig.submit(rig.declare(gpu("waiter")))
        await rig.after(0.5)
        rig.worker("holder").link.finish(first)
        await rig.settle()
        assert rig.state(id_) is JobState.IN_PROGRESS

    play(scenario)


def test_of_two_that_wait_for_a_device_the_older_job_s_endpoint_gets_it() -> None:
    async def scenario(rig: Rig) -> None:
        rig.engine.place = one_device
        younger, older = rig.declare(gpu("b")), rig.declare(gpu("c"))
        running = await rig.busy(rig.declare(gpu("holder")))
        first = rig.submit(older)
        await rig.after(0.3)
        second = rig.submit(younger)
        await rig.after(0.3)
        rig.holder(running).finish(running)
        await rig.settle()
        assert rig.states([first, second]) == ["IN_PROGRESS", "IN_QUEUE"]

    play(scenario)


def test_a_job_that_runs_is_not_said_to_wait_for_what_another_of_its_endpoint_waits_for() -> None:
    async def scenario(rig: Rig) -> None:
        pool = rig.declare(gpu("a", workers=(0, 2), scaler="REQUEST_COUNT", scaler_value=1))
        rig.engine.place = one_device
        running = await rig.busy(pool)
        waiting = rig.submit(pool)
        await rig.settle()
        seen = [rig.views.look(id_) for id_ in (running, waiting)]
        assert [bool(each and each.waits_for) for each in seen] == [False, True]

    play(scenario)


def test_a_refused_endpoint_looks_again_although_nothing_else_happens() -> None:
    async def scenario(rig: Rig) -> None:
        rig.engine.refusals = [CapacityError(Refusal("a GPU, held by another program"))]
        id_ = rig.submit(rig.declare(gpu("waiter")))
        await rig.settle()
        assert rig.state(id_) is JobState.IN_QUEUE
        await rig.after(1.1)
        assert rig.state(id_) is JobState.IN_PROGRESS

    play(scenario)


def test_a_permanent_refusal_fails_the_waiting_jobs() -> None:
    async def scenario(rig: Rig) -> None:
        rig.engine.refusals = [CapacityError(Refusal("no node has an H100", permanent=True))]
        id_ = rig.submit(rig.declare(gpu("waiter")))
        await rig.settle()
        assert "no node has an H100" in rig.failure(id_).message

    play(scenario)


def test_an_idle_worker_that_holds_something_else_is_left_alone() -> None:
    async def scenario(rig: Rig) -> None:
        other = rig.declare(gpu("other"))
        rig.holder(await rig.busy(other)).finish("1")
        holder = rig.declare(gpu("holder"))
        await rig.busy(holder)
        names = (rig.worker("holder").worker_id,)
        rig.engine.refusals = [CapacityError(Refusal("an A100", names))] * 5
        rig.submit(rig.declare(gpu("waiter")))
        await rig.after(4)
        assert len(rig.engine.of("other")) == 1

    play(scenario)


def test_a_device_that_younger_jobs_keep_busy_goes_to_the_older_job_after_a_turn() -> None:
    async def scenario(rig: Rig) -> None:
        rig.engine.place = one_device
        busy, waiter = rig.declare(gpu("busy")), rig.declare(gpu("waiter"))
        ids = [await rig.busy(busy)]
        waiting = rig.submit(waiter)
        for _ in range(60):
            ids.append(rig.submit(busy))
            await rig.after(1)
            for worker in rig.engine.of("busy"):
                for id_ in list(worker.link.jobs):
                    worker.link.finish(id_)
            if rig.state(waiting) is not JobState.IN_QUEUE:
                break
        assert rig.clock() - rig.job(waiting).created_at < TURN_SECONDS + 5
        rig.worker("waiter").link.finish(waiting)
        await rig.after(30)
        assert rig.states(ids[-2:]) != ["IN_QUEUE", "IN_QUEUE"], "and back again"

    play(scenario)


def test_a_minimum_takes_no_device_from_another_endpoint_s_idle_worker() -> None:
    async def scenario(rig: Rig) -> None:
        rig.engine.place = one_device
        rig.holder(await rig.busy(rig.declare(gpu("warm")))).finish("1")
        rig.declare(gpu("minimum", workers=(1, 1)))
        await rig.after(20)
        assert len(rig.engine.of("warm")) == 1
        await rig.after(60)
        assert len(rig.engine.of("minimum")) == 1, "it starts once the device is free"

    play(scenario)


# Nested calls


def test_a_to_b_to_a_with_one_worker_each_does_not_deadlock() -> None:
    async def scenario(rig: Rig) -> None:
        a, b = rig.declare(spec("a")), rig.declare(spec("b"))
        outer = await rig.busy(a)
        middle = await rig.busy(b, parent=outer)
        inner = await rig.busy(a, parent=middle)
        deepest = await rig.busy(b, parent=inner)
        for id_ in (deepest, inner, middle, outer):
            rig.holder(id_).finish(id_)
        await rig.settle()
        assert (len(rig.engine.of("a")), len(rig.engine.of("b"))) == (1, 1), "back at the maximum"

    play(scenario)


def test_two_trees_that_hold_each_other_s_only_worker_do_not_deadlock() -> None:
    async def scenario(rig: Rig) -> None:
        a, b = rig.declare(spec("a")), rig.declare(spec("b"))
        in_a, in_b = await rig.busy(a), await rig.busy(b)
        nested = [rig.submit(b, parent=in_a), rig.submit(a, parent=in_b)]
        await rig.settle()
        for _ in range(5):
            for worker in list(rig.engine.workers.values()):
                for id_ in list(worker.link.jobs):
                    if id_ in nested:
                        worker.link.finish(id_)
            await rig.settle()
        assert rig.states(nested) == ["COMPLETED"] * 2

    play(scenario)


def test_recursion_on_one_worker_goes_as_deep_as_it_needs_one_worker_a_level() -> None:
    async def scenario(rig: Rig) -> None:
        pool = rig.declare(spec("a"))
        ids = [await rig.busy(pool)]
        for _ in range(5):
            ids.append(await rig.busy(pool, parent=ids[-1]))
        assert len(rig.engine.of("a")) == 6

    play(scenario)


def test_a_fan_out_to_its_own_full_pool_gets_one_more_worker_and_no_more() -> None:
    async def scenario(rig: Rig) -> None:
        pool = rig.declare(spec("a"))
        outer = await rig.busy(pool)
        children = [rig.submit(pool, parent=outer) for _ in range(10)]
        await rig.after(60)
        assert len(rig.engine.of("a")) == 2
        for id_ in children:
            rig.holder(id_).finish(id_)
            await rig.settle()
        assert rig.states(children) == ["COMPLETED"] * 10

    play(scenario)


def test_jobs_of_other_clients_do_not_overtake_the_nested_ones() -> None:
    async def scenario(rig: Rig) -> None:
        a, b = rig.declare(spec("a")), rig.declare(spec("b"))
        outer, first = await rig.busy(a), await rig.busy(b)
        foreign, nested = rig.submit(b), rig.submit(b, parent=outer)
        rig.holder(first).finish(first)
        await rig.settle()
        assert rig.states([foreign, nested]) == ["IN_QUEUE", "IN_PROGRESS"]

    play(scenario)


def test_a_nested_call_that_only_its_caller_s_device_could_serve_shares_it() -> None:
    async def scenario(rig: Rig) -> None:
        rig.engine.place = one_device
        outer = await rig.busy(rig.declare(gpu("a")))
        inner = await rig.busy(rig.declare(gpu("b")), parent=outer)
        assert rig.engine.orders[-1].near == (rig.worker("a").worker_id,)
        rig.holder(inner).finish(inner)

    play(scenario)


# Changes


def test_a_changed_scaling_touches_no_worker() -> None:
    async def scenario(rig: Rig) -> None:
        pool = rig.declare(spec(workers=(0, 1)))
        await rig.busy(pool)
        worker = rig.worker()
        rig.declare(spec(workers=(0, 3), idle_timeout=5))
        rig.submit(pool)
        await rig.after(5)
        assert worker in rig.engine.of("a")
        assert len(rig.engine.of("a")) == 2

    play(scenario)


@pytest.mark.parametrize("change", ["env", "build", "placement"])
def test_a_change_replaces_idle_workers_at_once_and_busy_ones_after_their_jobs(change: str) -> None:
    async def scenario(rig: Rig) -> None:
        pool = rig.declare(spec(workers=(2, 2)), {"KEY": "old"})
        id_ = await rig.busy(pool)
        old = rig.holder(id_)
        rig.declare(
            spec(
                workers=(2, 2),
                code="new" if change == "build" else "code",
                max_concurrency=2 if change == "placement" else 1,
            ),
            {"KEY": "new" if change == "env" else "old"},
        )
        await rig.settle()
        fresh = [w for w in rig.engine.of("a") if w.link is not old]
        assert len(fresh) == 2
        assert all(w.env == pool.env and w.link.spec == pool.spec for w in fresh)
        assert rig.state(id_) is JobState.IN_PROGRESS
        next_one = await rig.busy(pool)
        assert rig.holder(next_one) is not old
        old.finish(id_, "done")
        await rig.settle()
        assert rig.value(id_) == "done"
        assert old.worker not in rig.engine.of("a")
        assert rig.engine.killed == []

    play(scenario)


def test_a_worker_that_was_starting_when_its_spec_changed_gets_its_own_spec_and_no_job() -> None:
    async def scenario(rig: Rig) -> None:
        pool = rig.declare(spec(code="old"))
        id_ = rig.submit(pool)
        await rig.settle()
        rig.declare(spec(code="new"))
        await rig.settle()
        rig.engine.let_start()
        await rig.after(1)
        assert rig.holder(id_).spec == spec(code="new")
        (old,) = rig.engine.ended
        assert old.link.spec == spec(code="old")

    play(scenario, starts_at_once=False)


def test_a_build_of_an_earlier_spec_that_fails_does_not_fail_the_new_one_s_jobs() -> None:
    async def scenario(rig: Rig) -> None:
        pool = rig.declare(spec(code="old"))
        id_ = rig.submit(pool)
        await rig.settle()
        rig.declare(spec(code="new"))
        await rig.settle()
        rig.engine.refusals = [EnvironmentBuildError("the old dependencies")]
        rig.engine.let_start()
        await rig.after(1)
        assert rig.state(id_) is JobState.IN_PROGRESS

    play(scenario, starts_at_once=False)


def test_a_new_declaration_is_tried_at_once_after_the_old_one_failed_for_long() -> None:
    async def scenario(rig: Rig) -> None:
        rig.engine.refusals = [EnvironmentBuildError("no")] * 9
        rig.declare(spec(workers=(1, 1)))
        await rig.after(120)
        rig.engine.refusals.clear()
        rig.declare(spec(workers=(1, 1), code="mended"))
        await rig.after(0.5)
        assert len(rig.engine.workers) == 1

    play(scenario)


# Races


def test_a_submit_while_the_last_idle_worker_is_being_stopped_starts_a_new_one() -> None:
    async def scenario(rig: Rig) -> None:
        pool = rig.declare(spec(idle_timeout=10))
        rig.holder(await rig.busy(pool)).finish("1")
        (worker,) = pool.workers.values()
        rig.plane.reconciler.stopper.stop(worker)  # and its exit is still to come
        id_ = rig.submit(pool)
        await rig.after(1)
        assert rig.state(id_) is JobState.IN_PROGRESS
        assert rig.job(id_).deaths == 0

    play(scenario)


def test_a_worker_that_a_thread_has_just_given_a_job_is_not_stopped() -> None:
    async def scenario(rig: Rig) -> None:
        pool = rig.declare(spec())
        rig.holder(await rig.busy(pool)).finish("1")
        (worker,) = pool.workers.values()
        id_ = rig.submit(pool)
        rig.plane.reconciler.stopper.stop(worker)
        await rig.after(10)
        assert rig.state(id_) is JobState.IN_PROGRESS
        assert worker.state is WorkerState.READY

    play(scenario)


def test_submits_from_a_thread_while_the_reconciler_stops_the_idle_worker_lose_nothing() -> None:
    total = 300

    async def scenario() -> None:
        rig = real(ScriptedEngine(lambda endpoint, args, kwargs: args[0]))
        pool = rig.declare(spec())
        done = asyncio.Event()
        rig.plane.events.subscribe(lambda _: done.set() if len(rig.ended) == total else None)

        def submit_all() -> None:
            for _ in range(total):
                rig.submit(pool)
                time.sleep(0)

        thread = threading.Thread(target=submit_all)
        thread.start()
        while not done.is_set():
            for worker in list(pool.workers.values()):
                if worker.idle:
                    rig.plane.reconciler.stopper.stop(worker)
            await asyncio.sleep(0)
        thread.join()
        assert {job.state for job in rig.ended} == {JobState.COMPLETED}
        assert len({job.id for job in rig.ended}) == total
        await rig.plane.close()

    asyncio.run(scenario())


# The pool


def test_a_thousand_workers_are_as_easily_listed_as_one() -> None:
    pool = Pool(spec(workers=(0, 1000)), {}, Lease("plane", 1, 30))
    workers = [Worker(str(n), pool, WorkerState.READY) for n in range(1000)]
    pool.workers = {worker.id: worker for worker in workers}
    steps = 0

    class Counting(str):
        def __eq__(self, other: object) -> bool:
            nonlocal steps
            steps += 1
            return str.__eq__(self, other)

        __hash__ = str.__hash__

    for worker in workers:
        worker.id = Counting(worker.id)
        pool.refresh(worker)
    for worker in workers:
        worker.state = WorkerState.DRAINING
        pool.refresh(worker)
    assert pool.free == {}
    assert steps < 10_000


def test_refresh_keeps_only_ready_workers_of_the_pool_with_a_free_slot() -> None:
    pool = Pool(spec(max_concurrency=2), {}, Lease("plane", 1, 30))
    worker = pool.workers["w"] = Worker("w", pool)
    pool.refresh(worker)
    assert pool.next_free() is None
    worker.state = WorkerState.READY
    pool.refresh(worker)
    assert pool.next_free() is worker
    worker.ghosts.update(["a", "b"])
    pool.refresh(worker)
    assert pool.next_free() is None
    worker.ghosts.clear()
    del pool.workers["w"]
    pool.refresh(worker)
    assert pool.next_free() is None


def test_the_store_of_a_plane_is_not_scanned_for_a_long_queue_at_every_job() -> None:
    async def scenario(rig: Rig) -> None:
        pool = rig.declare(spec())
        for _ in range(500):
            rig.submit(pool)
        await rig.settle()
        looks: list[int] = []
        original = MemoryStore.waiting

        async def waiting(endpoint: str, limit: int = 1000) -> Any:
            looks.append(limit)
            return await original(rig.store, endpoint, limit)

        rig.store.waiting = waiting  # type: ignore[method-assign]
        for id_ in list(map(str, range(1, 100))):
            rig.worker().link.finish(id_)
            await rig.settle()
        assert sum(looks) == 0

    play(scenario)


def test_a_worker_that_comes_back_by_its_id_stays_when_its_first_connection_is_settled() -> None:
    async def scenario(rig: Rig) -> None:
        pool = rig.declare(spec(workers=(0, 0)))

        def come() -> ScriptedLink:
            order = StartOrder("elsewhere", pool.spec, {})
            nobody: Any = None
            loop = asyncio.get_running_loop()
            link = ScriptedWorker(rig.engine, order, nobody, loop).link
            rig.plane.attach(pool, "elsewhere", link)
            return link

        first = come()
        await rig.settle()
        first.events.closed()
        rig.plane.detach("elsewhere", "was killed by SIGKILL")
        come()
        await rig.settle()
        job = await rig.busy(pool)
        await rig.after(5)
        assert rig.state(job) is JobState.IN_PROGRESS

    play(scenario)
