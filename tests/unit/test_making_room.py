"""Which worker ends for an endpoint that waits for what workers of others hold."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from runpod_flash.plane.making_room import TURN_SECONDS, who_makes_room
from runpod_flash.plane.pool import Pool, Worker, WorkerState
from runpod_flash.plane.store.base import Lease
from unit.rig import spec

if TYPE_CHECKING:
    from collections.abc import Mapping

NOW = 1000.0


def pool(name: str) -> Pool:
    return Pool(spec(name), {}, Lease(name, 1, 30.0))


def worker(of: Pool, *, idle_since: float = 0.0, busy_since: float | None = None) -> Worker:
    made = Worker(f"{of.spec.name}-{idle_since}", of, WorkerState.READY, idle_since=idle_since)
    if busy_since is not None:
        made.exchanges["one"] = None
        made.ready_at = busy_since
    return made


def chosen(waiting: Pool, holders: list[Worker], since: Mapping[Pool, float]) -> Worker | None:
    return who_makes_room(waiting, holders, lambda each: since.get(each, math.inf), NOW)


def test_the_worker_that_has_been_idle_for_longest_makes_room() -> None:
    waits, other = pool("waits"), pool("other")
    holders = [worker(other, idle_since=20), worker(other, idle_since=10)]
    assert chosen(waits, holders, {waits: 900}) is holders[1]


def test_nobody_makes_room_for_an_endpoint_that_nobody_waits_for() -> None:
    waits, other = pool("waits"), pool("other")
    assert chosen(waits, [worker(other)], {}) is None


def test_an_endpoint_s_own_workers_make_no_room_for_it() -> None:
    waits = pool("waits")
    assert chosen(waits, [worker(waits)], {waits: 900}) is None


def test_while_one_ends_no_other_has_to() -> None:
    waits, other = pool("waits"), pool("other")
    ends = worker(other)
    ends.state = WorkerState.DRAINING
    assert chosen(waits, [ends, worker(other)], {waits: 900}) is None


def test_a_worker_whose_own_endpoint_has_waited_as_long_keeps_what_it_holds() -> None:
    waits, other = pool("waits"), pool("other")
    assert chosen(waits, [worker(other)], {waits: 900, other: 900}) is None
    idle = worker(other)
    assert chosen(waits, [idle], {waits: 900, other: 901}) is idle


def test_a_busy_worker_makes_room_once_it_had_its_turn() -> None:
    waits, other = pool("waits"), pool("other")
    early = worker(other, busy_since=NOW - TURN_SECONDS + 1)
    late = worker(other, busy_since=NOW - TURN_SECONDS)
    assert chosen(waits, [early], {waits: 900}) is None
    assert chosen(waits, [early, late], {waits: 900}) is late


def test_an_idle_worker_is_taken_before_a_busy_one() -> None:
    waits, other = pool("waits"), pool("other")
    busy = worker(other, idle_since=1, busy_since=0)
    idle = worker(other, idle_since=2)
    assert chosen(waits, [busy, idle], {waits: 900}) is idle
