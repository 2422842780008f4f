"""What of an app's code the user that workers are may not read, by files' modes."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from runpod_flash.engines.local.isolation import Isolation, User
from runpod_flash.spec import Entry

STRANGER = User("stranger", os.getuid() + 1, os.getgid() + 1)


@pytest.fixture
def app(tmp_path: Path) -> Path:
    root = tmp_path / "app"
    (root / "jobs").mkdir(parents=True)
    (root / "jobs" / "work.py").touch()
    (root / "other.py").touch()
    for path in (root, *root.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)
    return root


def said(app: Path, user: User | None = STRANGER) -> str:
    entry = Entry("jobs.work", "run", file="jobs/work.py", root=str(app), others=("other.py",))
    return Isolation(app.parent / "homes", Path("/root"), user=user).unreadable(entry)


def test_code_that_all_may_read_is_none_to_speak_of(app: Path) -> None:
    assert said(app) == ""


@pytest.mark.parametrize(
    ("place", "mode", "kind", "remedy"),
    [
        (".", 0o700, "folder", "chmod a+rx"),
        (".", 0o711, "folder", "chmod a+rx"),
        ("jobs", 0o750, "folder", "chmod a+rx"),
        ("jobs/work.py", 0o600, "file", "chmod a+r"),
        ("other.py", 0o640, "file", "chmod a+r"),
    ],
)
def test_what_may_not_be_read_is_named_with_its_mode_and_a_remedy(
    app: Path, place: str, mode: int, kind: str, remedy: str
) -> None:
    path = app / place
    path.chmod(mode)
    assert said(app) == (
        f"workers are the user stranger, who may not read the {kind} {path} (mode {mode:04o}): "
        f"run `{remedy} {path}`, or start the server with a --worker-user who may"
    )


def test_the_remedy_is_one(app: Path) -> None:
    app.chmod(0o700)
    app.chmod(app.stat().st_mode | 0o555)
    assert said(app) == ""


def test_a_folder_of_the_user_or_of_its_group_is_read_by_their_bits(app: Path) -> None:
    app.chmod(0o750)
    for user in (User("owner", os.getuid(), 0), User("member", os.getuid() + 1, os.getgid())):
        assert said(app, user) == ""
    app.chmod(0o705)
    assert "may not read" in said(app, User("member", os.getuid() + 1, os.getgid()))


def test_where_workers_are_this_user_they_may_read_what_this_may(app: Path) -> None:
    app.chmod(0o700)
    assert said(app, None) == ""
