"""Which files of a project are looked at: what Git would take, and none of other people's."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
from typing import TYPE_CHECKING

import pytest

from runpod_flash.project.scan import folders, python_files

if TYPE_CHECKING:
    from pathlib import Path


def write(root: Path, *names: str, **texts: str) -> None:
    for name in (*names, *texts):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(texts.get(name, ""))


def test_python_files_are_found_in_sorted_order(tmp_path: Path) -> None:
    write(tmp_path, "b.py", "a/z.py", "a/y-1.py", "01_x/a.py", "notes.md", "a/data.json")
    assert python_files(tmp_path) == ["01_x/a.py", "a/y-1.py", "a/z.py", "b.py"]


@pytest.mark.parametrize(
    "name",
    [
        "pkg/__init__.py",
        "test_app.py",
        "app_test.py",
        "sub/test_app.py",
        "conftest.py",
        "tests/app.py",
        "sub/tests/app.py",
        "docs/conf.py",
        "dist/app.py",
        "build/lib/app.py",
        "venv/app.py",
        "env/app.py",
        ".venv/lib/app.py",
        ".flash/server.py",
        ".git/hooks/app.py",
        "sub/.hidden/app.py",
        "._app.py",
        "node_modules/x/setup.py",
        "__pycache__/app.py",
        "flash.egg-info/app.py",
    ],
)
def test_what_is_no_part_of_the_program_is_left_out(tmp_path: Path, name: str) -> None:
    write(tmp_path, name, "app.py")
    assert python_files(tmp_path) == ["app.py"]


def test_an_environment_is_known_by_its_mark_whatever_its_name(tmp_path: Path) -> None:
    write(tmp_path, "my-env/pyvenv.cfg", "my-env/lib/app.py", "app.py")
    assert python_files(tmp_path) == ["app.py"]
    assert python_files(tmp_path / "my-env") == ["lib/app.py"]  # somebody means it


def test_ignore_files_of_every_folder_count(tmp_path: Path) -> None:
    write(tmp_path, "a.py", "b.py", "sub/a.py", "sub/b.py", "sub/deep/c.py", "old/x.py")
    (tmp_path / ".gitignore").write_text("/a.py\n# b.py\nold/\n")
    (tmp_path / ".flashignore").write_text("c.py\n")
    (tmp_path / "sub/.gitignore").write_bytes(b"\xef\xbb\xbfb.py\r\n!\n[\n")
    assert python_files(tmp_path) == ["b.py", "sub/a.py"]


def test_an_inner_rule_overrules_an_outer_one(tmp_path: Path) -> None:
    write(tmp_path, "x.py", "sub/x.py")
    (tmp_path / ".gitignore").write_text("x.py\n")
    (tmp_path / "sub/.gitignore").write_text("!x.py\n")
    assert python_files(tmp_path) == ["sub/x.py"]


def test_a_list_of_what_is_kept_brings_no_built_in_folder_back(tmp_path: Path) -> None:
    write(tmp_path, "app.py", "sub/app.py", ".git/hook.py", "node_modules/a.py", "tests/b.py")
    (tmp_path / ".gitignore").write_text("*\n!*/\n!*.py\n")
    assert python_files(tmp_path) == ["app.py", "sub/app.py"]


def test_ignored_folders_are_not_even_listed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, "app.py", ".venv/a/b.py", "node_modules/a/b.py", "mine/a/b.py", "sub/app.py")
    (tmp_path / ".gitignore").write_text("mine\n")
    listed = []
    scandir = os.scandir

    def watched(path: Path) -> object:
        listed.append(path.relative_to(tmp_path).as_posix())
        return scandir(path)

    monkeypatch.setattr(os, "scandir", watched)
    assert python_files(tmp_path) == ["app.py", "sub/app.py"]
    assert sorted(listed) == [".", "sub"]


def test_links_lead_to_files_and_never_in_a_circle(tmp_path: Path) -> None:
    write(tmp_path, "sub/app.py")
    (tmp_path / "sub/again").symlink_to(tmp_path)
    (tmp_path / "loop.py").symlink_to("loop.py")
    (tmp_path / "gone.py").symlink_to("nowhere.py")
    (tmp_path / "link.py").symlink_to("sub/app.py")
    assert python_files(tmp_path) == ["link.py", "sub/app.py"]


def test_what_cannot_be_read_is_passed_over(tmp_path: Path) -> None:
    assert python_files(tmp_path / "nowhere") == []
    write(tmp_path, "app.py")
    (tmp_path / ".gitignore").mkdir()
    assert python_files(tmp_path) == ["app.py"]


def test_the_folders_are_those_that_files_are_looked_for_in(tmp_path: Path) -> None:
    write(tmp_path, "a/b/app.py", ".venv/app.py", "old/app.py")
    (tmp_path / ".gitignore").write_text("old/\n")
    found = folders(tmp_path)
    assert found[0] == tmp_path
    assert set(found) == {tmp_path, tmp_path / "a", tmp_path / "a/b"}


FILES = (
    "a/x.py", "a/b/y.py", "a/b/c/z.py", "foo/x.py", "foo/bar/y.py", "foo/keep/k.py", "lib/q.py",
    "a/lib/r.py", "top.py", "b/foo/t.py", "a/foo/bar/u.py", "b/c.py",
)  # fmt: skip
RULES = (
    "*", "!*/", "!*.py", "/*", "!/foo", "!/foo/", "foo", "foo/", "!foo/", "lib/", "!a/lib/",
    "foo/*", "!foo/keep/", "!foo/keep", "a/**", "!a/b/", "**/bar", "a/b/", "/a/b", "!x.py", "x.py",
    "*.py", "!/top.py", "b/*.py", "a/*/", "a/**/r.py", "foo/**", "!foo/bar", "!foo/bar/", "!",
    "# x", "", " ", "[a-c].py", "?op.py",
)  # fmt: skip


@pytest.mark.skipif(shutil.which("git") is None, reason="needs Git")
@pytest.mark.parametrize("seed", range(20))
def test_git_takes_the_same_files(tmp_path: Path, seed: int) -> None:
    rng = random.Random(seed)
    write(tmp_path, *FILES)
    (tmp_path / ".gitignore").write_text("\n".join(rng.choices(RULES, k=rng.randint(1, 5))))
    (tmp_path / "a/.gitignore").write_text("\n".join(rng.choices(RULES, k=rng.randint(0, 2))))
    subprocess.run(["git", "init", "-q"], cwd=tmp_path, check=True)
    command = ["git", "-c", "core.excludesFile=", "ls-files", "-o", "--exclude-standard", "*.py"]
    told = subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, text=True)
    assert python_files(tmp_path) == sorted(told.stdout.split())
