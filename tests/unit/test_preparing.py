"""What workers start from is prepared before there is work: a few at a time, and none fatal."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from runpod_flash.errors import EnvironmentBuildError
from runpod_flash.plane.preparing import prepare_all
from unit.rig import play, spec

if TYPE_CHECKING:
    from unit.rig import Rig


def names(rig: Rig) -> list[str]:
    return [order.spec.name for order in rig.engine.prepared]


def test_two_are_prepared_at_a_time_and_no_worker_starts() -> None:
    async def scenario(rig: Rig) -> None:
        pools = [rig.declare(spec(name), {"GIVEN": name}) for name in "abcde"]
        preparing = asyncio.ensure_future(prepare_all(rig.plane, pools))
        await rig.settle()
        assert names(rig) == ["a", "b"]
        rig.engine.let_start()
        await preparing
        assert names(rig) == ["a", "b", "c", "d", "e"]
        assert [order.env for order in rig.engine.prepared] == [{"GIVEN": n} for n in "abcde"]
        assert {order.caller_env["CALLER"] for order in rig.engine.prepared} == {"1"}  # type: ignore[index]
        assert not rig.engine.orders

    play(scenario, starts_at_once=False)


def test_what_cannot_be_prepared_is_said_and_the_others_are() -> None:
    async def scenario(rig: Rig) -> None:
        rig.engine.refusals = [EnvironmentBuildError("there is no numpi"), OSError("disk full")]
        await prepare_all(rig.plane, [rig.declare(spec(name)) for name in "abc"])
        assert names(rig) == ["a", "b", "c"]
        assert rig.notices == [
            "cannot be prepared: there is no numpi",
            "cannot be prepared: disk full",
        ]
        pool = rig.declare(spec("a"))
        assert rig.value(await started(rig, pool)) == "ran"

    async def started(rig: Rig, pool: object) -> str:
        id_ = rig.submit(pool)  # type: ignore[arg-type]
        await rig.settle()
        return id_

    play(scenario, handler=lambda endpoint, args, kwargs: "ran")


def test_what_has_workers_or_never_has_any_here_is_not_prepared() -> None:
    async def scenario(rig: Rig) -> None:
        kept = rig.declare(spec("kept", (1, 1)))
        none = rig.declare(spec("none", (0, 0)))
        gone = rig.declare(spec("gone"))
        await rig.settle()
        rig.plane.withdraw(gone)
        await prepare_all(rig.plane, [kept, none, gone, rig.declare(spec("due"))])
        assert names(rig) == ["due"]

    play(scenario)
