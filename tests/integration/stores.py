"""Server's stores for tests: opened, closed and opened again on one file."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from runpod_flash.plane.store.base import Call, Lease, NewJob, Policy
from runpod_flash.plane.store.sqlite import Bounds, SqliteStore
from runpod_flash.testing import ManualClock
from runpod_flash.wire.codec import Payload

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from pathlib import Path

    from runpod_flash.plane.store.base import Job

    Scenario = Callable[[SqliteStore], Awaitable[None]]

BOUNDS = Bounds()


def value(size: int, letter: str = "x") -> Payload:
    """A JSON text of about so many bytes."""
    return Payload(b'"' + letter.encode() * size + b'"')


def new(
    job_id: str, size: int = 10, *, parent: str = "", extras: str = "", **policy: Any
) -> NewJob:
    """A job of the endpoint `e`, with its id in its arguments."""
    payload = Payload(f'["{job_id}","{"x" * size}"]'.encode())
    return NewJob(job_id, "e", Call(payload), Policy(**policy), parent, extras=extras)


@asynccontextmanager
async def opened(
    path: Path, clock: Callable[[], float] | None = None, bounds: Bounds = BOUNDS
) -> AsyncIterator[SqliteStore]:
    store = SqliteStore(path / "flash.db", clock or ManualClock(), bounds)
    try:
        yield store
    finally:
        await store.close()


def lives(
    path: Path, *scenarios: Scenario, clock: ManualClock | None = None, bounds: Bounds = BOUNDS
) -> None:
    """Each scenario has a store of its own, all on one file and one clock."""
    clock = clock or ManualClock()

    async def one(scenario: Scenario) -> None:
        async with opened(path, clock, bounds) as store:
            await scenario(store)

    for scenario in scenarios:
        asyncio.run(one(scenario))


async def claim(store: SqliteStore, limit: int = 1) -> list[Job]:
    epoch = await store.own("e", "plane", 60)
    assert epoch is not None
    return list(await store.claim("e", limit, Lease("plane", epoch, 60), "worker-1"))


async def job(store: SqliteStore, job_id: str) -> Job:
    found = await store.get(job_id)
    assert found is not None, f"{job_id} is not there"
    return found
