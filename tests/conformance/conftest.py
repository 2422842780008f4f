"""The implementations that every test of this folder runs over."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from runpod_flash.plane.store.memory import MemoryStore
from runpod_flash.testing import ManualClock

if TYPE_CHECKING:
    from collections.abc import Callable

    from runpod_flash.plane.store.base import Store

MAKERS: dict[str, Callable[[ManualClock], Store]] = {"memory": MemoryStore}


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture(params=sorted(MAKERS))
def make_store(request: pytest.FixtureRequest) -> Callable[[ManualClock], Store]:
    return MAKERS[request.param]


@pytest.fixture
def store(make_store: Callable[[ManualClock], Store], clock: ManualClock) -> Store:
    return make_store(clock)
