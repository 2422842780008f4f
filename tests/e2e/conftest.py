"""Fixtures of several files here."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from behaviour.servers import server

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from behaviour.servers import Target


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory, shared_cache: Path) -> Iterator[Target]:
    """A server that keeps its apps apart."""
    folder = tmp_path_factory.mktemp("server")
    with server(folder, shared_cache, "--isolation", "apps") as running:
        yield running
