"""Workers that are started beside those that serve, and take over once they are ready."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from runpod_flash.errors import FlashError, WorkerStartError
from unit.rig import Rig, play, spec

if TYPE_CHECKING:
    from runpod_flash.spec import EndpointSpec

OLD, NEW = (
    spec(workers=(0, 3), scaler="REQUEST_COUNT", scaler_value=1, code=code)
    for code in ("old", "new")
)


def codes(rig: Rig) -> list[str]:
    return [worker.order.spec.build.code for worker in rig.engine.of("a")]


def test_a_staged_worker_takes_the_next_job_and_the_others_finish_theirs() -> None:
    async def scenario(rig: Rig) -> None:
        pool = rig.declare(OLD)
        running = await rig.busy(pool)
        staged = await rig.plane.stage(NEW, {}, {})
        assert codes(rig) == ["old", "new"]
        waiting = await rig.busy(pool)
        assert rig.holder(waiting).worker.order.spec.build.code == "old"
        assert rig.declare(NEW) is pool
        rig.plane.adopt(staged, pool)
        following = await rig.busy(pool)
        assert rig.holder(following).worker.order.spec.build.code == "new"
        rig.holder(running).finish(running)
        rig.holder(waiting).finish(waiting)
        await rig.settle()
        assert rig.states([running, waiting]) == ["COMPLETED", "COMPLETED"]
        assert codes(rig) == ["new"]
        assert rig.plane.pools() == [pool]

    play(scenario)


def test_as_many_take_over_as_have_served_and_no_job_waits_for_a_start() -> None:
    async def scenario(rig: Rig) -> None:
        pool = rig.declare(OLD)
        running = [await rig.busy(pool) for _ in range(3)]
        rig.engine.ready_at_once = False
        staging = asyncio.ensure_future(rig.plane.stage(NEW, {}, {}, 3))
        for number in range(3):
            await rig.settle()
            assert not staging.done(), "the last one has yet to come"
            rig.engine.of("a")[3 + number].link.become_ready()
        staged = await staging
        rig.declare(NEW)
        rig.plane.adopt(staged, pool)
        following = [await rig.busy(pool) for _ in range(3)]
        assert {rig.holder(each).worker.order.spec.build.code for each in following} == {"new"}
        for id_ in running:
            rig.holder(id_).finish(id_)
        await rig.settle()
        assert codes(rig) == ["new", "new", "new"]

    play(scenario)


def test_those_that_there_is_room_for_take_over() -> None:
    async def scenario(rig: Rig) -> None:
        rig.engine.capacity = 2
        staged = await asyncio.wait_for(rig.plane.stage(NEW, {}, {}, 3), 1)
        assert len(staged.workers) == 2

    play(scenario)


def test_one_that_cannot_start_says_why_and_touches_nothing() -> None:
    async def scenario(rig: Rig) -> None:
        pool = rig.declare(OLD)
        running = await rig.busy(pool)
        rig.engine.refusals.append(WorkerStartError("the module does not import"))
        with pytest.raises(WorkerStartError, match="does not import"):
            await rig.plane.stage(NEW, {}, {})
        assert codes(rig) == ["old"]
        assert rig.plane.pools() == [pool]
        rig.holder(running).finish(running)
        assert rig.state(running).value == "COMPLETED"

    play(scenario)


def test_workers_with_other_values_are_replaced_one_by_one() -> None:
    async def scenario(rig: Rig) -> None:
        pool = rig.plane.declare(replace(OLD), {"TOKEN": "old"})
        running = [await rig.busy(pool), await rig.busy(pool)]
        assert rig.plane.declare(OLD, {"TOKEN": "new"}, rolling=True) is pool
        most = 0

        async def watch() -> None:
            nonlocal most
            while True:
                most = max(most, len(rig.engine.of("a")))
                await asyncio.sleep(0)

        watching = asyncio.ensure_future(watch())
        await rig.plane.roll(pool)
        watching.cancel()
        assert len([w for w in pool.live() if not w.stale]) == 2
        for id_ in running:
            rig.holder(id_).finish(id_)
        await rig.settle()
        assert {worker.env["TOKEN"] for worker in rig.engine.of("a")} == {"new"}
        assert rig.states(running) == ["COMPLETED", "COMPLETED"]
        assert most <= 4

    play(scenario)


def test_a_full_pool_of_idle_workers_keeps_its_number_while_they_are_replaced() -> None:
    async def scenario(rig: Rig) -> None:
        full = replace(OLD, scaling=replace(OLD.scaling, workers_min=3))
        pool = rig.plane.declare(full, {"TOKEN": "old"})
        await rig.settle()
        fewest = len(pool.free)
        rig.plane.declare(full, {"TOKEN": "new"}, rolling=True)

        async def watch() -> None:
            nonlocal fewest
            while True:
                fewest = min(fewest, len(pool.free))
                await asyncio.sleep(0)

        watching = asyncio.ensure_future(watch())
        await rig.plane.roll(pool)
        await rig.settle()
        watching.cancel()
        assert fewest == 3
        assert {worker.env["TOKEN"] for worker in rig.engine.of("a")} == {"new"}
        assert len(rig.engine.orders) == 6, "each was replaced once"

    play(scenario)


@pytest.mark.parametrize("started", [False, True])
def test_an_app_can_end_while_a_worker_of_it_is_staged(started: bool) -> None:
    def of_app(one: EndpointSpec) -> EndpointSpec:
        return replace(one, app="shop")

    async def scenario(rig: Rig) -> None:
        rig.declare(of_app(OLD))
        staging = asyncio.ensure_future(rig.plane.stage(of_app(NEW), {}, {}))
        await rig.settle()
        ending = asyncio.ensure_future(rig.plane.discard("shop"))
        await rig.settle()
        rig.engine.let_start()
        await asyncio.wait_for(ending, 1)
        with pytest.raises(FlashError, match="is not served any more"):
            await asyncio.wait_for(staging, 1)
        await rig.settle()
        assert rig.engine.workers == {}
        assert rig.plane.pools() == []

    play(scenario, starts_at_once=started, ready_at_once=False)
