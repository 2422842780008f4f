"""The files of a project that go to a server."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from runpod_flash.errors import ConfigurationError
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


@pytest.mark.parametrize(
    ("link", "needed"), [("shared.py", "shared.py"), ("pk", "pk/m.py"), ("sub/pk", "sub/pk/m.py")]
)
def test_a_needed_file_behind_a_link_out_of_the_project_is_refused(
    project: Path, link: str, needed: str
) -> None:
    common = project.parent / "common"
    (common / "pk").mkdir(parents=True)
    for name in ("shared.py", "pk/m.py"):
        (common / name).touch()
    (project / "sub").mkdir()
    (project / link).symlink_to(common / link.removeprefix("sub/"))
    assert [file.path for file in Tree(project).files()] == ["pyproject.toml"]
    with pytest.raises(ConfigurationError, match=f"^{link} is a link .* without {needed}, which"):
        Tree(project).files([needed])


def test_links_within_a_project_are_followed(project: Path) -> None:
    (project / "real").mkdir()
    (project / "real" / "m.py").write_text("x = 1")
    (project / "pk").symlink_to("real")
    (project / "link.py").symlink_to("real/m.py")
    (project / "old.py").symlink_to("nowhere.py")
    (project / "loop.py").symlink_to("loop.py")
    found = Tree(project).files(["pk/m.py", "gone.py", "old.py", "loop.py"])
    assert [file.path for file in found] == ["link.py", "pk/m.py", "pyproject.toml", "real/m.py"]
    (project.parent / "elsewhere").symlink_to(project)
    assert Tree(project.parent / "elsewhere").files(["pk/m.py"]) == found
