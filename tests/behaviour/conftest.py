"""What users rely on holds wherever their programs run: embedded, and at a server."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from behaviour.programs import Programs
from behaviour.servers import server

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from behaviour.servers import Target


@pytest.fixture(scope="package")  # (Other packages look for processes that were left over.)
def target(tmp_path_factory: pytest.TempPathFactory, shared_cache: Path) -> Iterator[Target]:
    with server(tmp_path_factory.mktemp("server"), shared_cache) as running:
        yield running


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "programs" in metafunc.fixturenames:
        only = metafunc.definition.get_closest_marker("embedded") is not None
        targets = ["embedded"] if only else ["embedded", "server"]
        metafunc.parametrize("programs", targets, indirect=True)


@pytest.fixture
def programs(request: pytest.FixtureRequest, tmp_path: Path, shared_cache: Path) -> Programs:
    if request.param == "embedded":
        return Programs(tmp_path, shared_cache)
    return Programs(tmp_path, shared_cache, target=request.getfixturevalue("target"))
