"""The files of a project that go to a server."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from runpod_flash.project.tree import Tree

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def project(tmp_path: Path) -> Path:
    root = tmp_path / "project"
    root.mkdir()
    (root / "pyproject.toml").touch()
    return root


def test_a_file_that_becomes_executable_is_seen_to_have_changed(project: Path) -> None:
    (project / "run.sh").touch(0o644)
    tree = Tree(project)
    (before,) = (file for file in tree.files() if file.path == "run.sh")
    (project / "run.sh").chmod(0o755)
    (after,) = (file for file in tree.files() if file.path == "run.sh")
    assert (before.executable, after.executable) == (False, True)
