"""What tests share: real programs with an empty home, and one cache of environments."""

from __future__ import annotations

import functools
import os
from typing import TYPE_CHECKING

import httpx
import pytest

from behaviour.programs import Programs

if TYPE_CHECKING:
    from pathlib import Path


# httpx reads all certificates of the system for each client, also for plain http: 30 ms each time.
httpx._transports.default.create_ssl_context = functools.cache(  # type: ignore[attr-defined]
    httpx.create_ssl_context
)


@pytest.fixture(scope="session")
def shared_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Environments are built once a run, whichever of its processes needs them first."""
    own = tmp_path_factory.getbasetemp()
    cache = (own.parent if "PYTEST_XDIST_WORKER" in os.environ else own) / "cache"
    cache.mkdir(exist_ok=True)
    return cache


@pytest.fixture
def programs(tmp_path: Path, shared_cache: Path) -> Programs:
    return Programs(tmp_path, shared_cache)
