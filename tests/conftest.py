"""What tests share: real programs with an empty home, and one cache of environments."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from behaviour.programs import Programs

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(scope="session")
def shared_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Environments are built once a session."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def programs(tmp_path: Path, shared_cache: Path) -> Programs:
    return Programs(tmp_path, shared_cache)
