"""What is shown of endpoints, workers and devices."""

from __future__ import annotations

from typing import TYPE_CHECKING

from runpod_flash.engines.base import CapacityError, Device, Refusal
from runpod_flash.plane.events import (
    JobAccepted,
    JobStarted,
    WorkerEnded,
    WorkerReady,
    WorkerStarted,
)
from runpod_flash.plane.overview import overview
from unit.rig import Rig, play, spec

if TYPE_CHECKING:
    from runpod_flash.plane.events import Event
    from runpod_flash.plane.overview import EndpointView


def view(rig: Rig, name: str = "a") -> EndpointView:
    found = overview(rig.plane).endpoint(name)
    assert found is not None
    return found


def test_an_endpoint_that_nobody_has_used_is_shown_with_its_bounds() -> None:
    async def scenario(rig: Rig) -> None:
        (shown,) = overview(rig.plane, [spec("new", (1, 4))]).endpoints
        assert (shown.name, shown.kind, shown.low, shown.high) == ("new", "queue", 1, 4)
        assert (shown.queued, shown.workers, shown.oldest) == (0, (), None)

    play(scenario)


def test_a_worker_is_shown_with_its_state_its_job_and_its_memory() -> None:
    async def scenario(rig: Rig) -> None:
        rig.engine.bytes_each = 512
        pool = rig.declare(spec(idle_timeout=100))
        id_ = await rig.busy(pool)
        await rig.after(3)
        (worker,) = view(rig).workers
        assert (worker.state, worker.jobs, worker.memory) == ("running", (id_,), 512)
        assert (worker.uptime, worker.node) == (3, "scripted")
        rig.worker().link.finish(id_)
        await rig.settle()
        assert view(rig).count("idle") == 1

    play(scenario)


def test_a_worker_that_loads_code_is_initializing_and_one_that_ends_is_draining() -> None:
    async def scenario(rig: Rig) -> None:
        pool = rig.declare(spec())
        id_ = rig.submit(pool)
        await rig.settle()
        assert view(rig).count("initializing") == 1
        rig.worker().link.become_ready()
        await rig.settle()
        rig.declare(spec(code="other"))
        await rig.settle()
        (worker,) = view(rig).workers
        assert (worker.state, worker.stale, worker.jobs) == ("draining", True, (id_,))

    play(scenario, ready_at_once=False)


def test_the_queue_is_shown_with_how_long_its_first_job_has_waited_and_for_what() -> None:
    async def scenario(rig: Rig) -> None:
        lacking = CapacityError(Refusal("a GPU, held by b-1", ("b-1",)))
        rig.engine.refusals.extend([lacking] * 100)
        pool = rig.declare(spec())
        rig.submit(pool)
        rig.submit(pool)
        await rig.after(7)
        shown = view(rig)
        assert (shown.queued, shown.oldest) == (2, 7)
        assert (shown.waits_for, shown.held_by) == ("a GPU, held by b-1", ("b-1",))

    play(scenario)


def test_devices_are_shown_with_their_holders() -> None:
    async def scenario(rig: Rig) -> None:
        rig.engine.gpus = [Device("local", 0, "NVIDIA L4", 24, 1, ("a-1",))]
        assert overview(rig.plane).devices == tuple(rig.engine.gpus)

    play(scenario)


def test_a_withdrawn_endpoint_is_shown_until_its_last_worker_has_ended() -> None:
    async def scenario(rig: Rig) -> None:
        pool = rig.declare(spec())
        id_ = await rig.busy(pool)
        rig.plane.withdraw(pool)
        assert view(rig).count("draining") == 1
        rig.worker().link.finish(id_)
        await rig.settle()
        assert overview(rig.plane).endpoints == ()

    play(scenario)


def test_the_life_of_a_job_and_its_worker_is_told_in_order() -> None:
    async def scenario(rig: Rig) -> None:
        told: list[Event] = []
        kinds = (JobAccepted, JobStarted, WorkerStarted, WorkerReady, WorkerEnded)
        rig.plane.events.subscribe(told.append, *kinds)
        pool = rig.declare(spec(idle_timeout=1))
        id_ = await rig.busy(pool)
        rig.worker().link.finish(id_)
        await rig.after(2)
        assert [type(each) for each in told] == [
            JobAccepted, WorkerStarted, WorkerReady, JobStarted, WorkerEnded,
        ]  # fmt: skip
        ended = told[-1]
        assert isinstance(ended, WorkerEnded)
        assert (ended.by_itself, ended.reason) == (False, "ended with code 0")

    play(scenario)


def test_the_end_of_a_worker_says_how_long_it_had_devices() -> None:
    async def scenario(rig: Rig) -> None:
        told: list[Event] = []
        rig.plane.events.subscribe(told.append, WorkerEnded)
        pool = rig.declare(spec())
        await rig.busy(pool)
        pool.workers[rig.worker().worker_id].devices = ("NVIDIA L4", "NVIDIA L4")
        await rig.after(5)
        rig.worker().exit()
        (ended,) = told
        assert isinstance(ended, WorkerEnded)
        assert (ended.gpu_seconds, ended.by_itself) == (10, True)

    play(scenario)


def test_a_job_that_is_run_again_is_started_twice_and_accepted_once() -> None:
    async def scenario(rig: Rig) -> None:
        told: list[Event] = []
        rig.plane.events.subscribe(told.append, JobAccepted, JobStarted)
        await rig.busy(rig.declare(spec()))
        rig.worker().exit()
        await rig.after(5)
        assert [type(each) for each in told] == [JobAccepted, JobStarted, JobStarted]

    play(scenario)
