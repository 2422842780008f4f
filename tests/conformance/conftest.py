"""The implementations that every test of this folder runs over."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

from runpod_flash.plane.store.memory import MemoryStore
from runpod_flash.plane.store.sqlite import SqliteStore
from runpod_flash.testing import ManualClock

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from runpod_flash.plane.store.base import Chunk, Job, Store

Maker = Callable[[ManualClock], "Store"]


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


def _memory(tmp_path: Path) -> Maker:
    return MemoryStore


def _sqlite(tmp_path: Path) -> Maker:
    # A file for each store, as hypothesis makes many in one test.
    numbers = itertools.count()
    return lambda clock: SqliteStore(tmp_path / f"{next(numbers)}.db", clock)


def _sqlite_from_the_file(tmp_path: Path) -> Maker:
    """Every value is read from the file, as large ones are."""
    numbers = itertools.count()
    return lambda clock: _Forgetful(tmp_path / f"{next(numbers)}.db", clock)


class _Forgetful(SqliteStore):
    LARGE = -1

    async def claim(self, *given: Any, **named: Any) -> Sequence[Job]:
        await self.durable()
        return await super().claim(*given, **named)

    async def get(self, job_id: str) -> Job | None:
        await self.durable()
        return await super().get(job_id)

    async def chunks(self, *given: Any, **named: Any) -> Sequence[Chunk]:
        await self.durable()
        return await super().chunks(*given, **named)


MAKERS = {"memory": _memory, "sqlite": _sqlite, "sqlite from the file": _sqlite_from_the_file}


@pytest.fixture(params=sorted(MAKERS))
def make_store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Maker]:
    make = MAKERS[request.param](tmp_path)
    made: list[Store] = []

    def make_and_note(clock: ManualClock) -> Store:
        made.append(make(clock))
        return made[-1]

    yield make_and_note
    for store in made:
        asyncio.run(store.close())


@pytest.fixture
def store(make_store: Maker, clock: ManualClock) -> Store:
    return make_store(clock)
