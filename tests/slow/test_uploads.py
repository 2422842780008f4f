"""Large uploads: what is too much, and one that is broken off."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING, TypeVar

import pytest

from behaviour.servers import server
from e2e.projects import Project, call
from integration.served import write
from integration.wheels import make_wheel
from unit.command_line import MAIN

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from behaviour.servers import Target

pytestmark = pytest.mark.slow
T = TypeVar("T")


@pytest.fixture
def target(tmp_path: Path, shared_cache: Path) -> Iterator[Target]:
    with server(tmp_path / "server", shared_cache) as running:
        yield running


@pytest.fixture
def project(tmp_path: Path, target: Target) -> Project:
    made = Project(tmp_path / "shop", tmp_path / "cache")
    made.env |= target.variables
    return made


def fill(path: Path, size: int) -> None:
    """A real file of that size, of which no other is the same."""
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(os.urandom(32) + bytes(size - 32))


def test_501_mb_are_refused_and_499_mb_are_taken(project: Project, target: Target) -> None:
    make_wheel(project.folder / "wheels", "alpha", filler=100_000_000)
    write(project.folder, {".flashignore": "wheels\n"})
    project.app("alpha", modules="alpha")
    for number in range(12):
        fill(project.folder / f"data/part-{number:02}.bin", 33_200_000)
    assert "uploaded 498." in project.deploy().stderr
    assert call(target) == {"alpha": "1.0"}
    fill(project.folder / "data/more.bin", 2_500_000)
    refused = project.flash("deploy")
    assert refused.returncode == 1
    assert "has 501 MB of files, and 500 MB may go to a server" in refused.stderr
    assert "alpha-1.0-py3-none-any.whl (100 MB), data/part-" in refused.stderr
    assert "NetworkVolume" in refused.stderr
    assert "image" in refused.stderr
    assert refused.stderr.count(" MB)") == 10
    assert "uploaded" not in refused.stderr


def test_an_upload_that_was_broken_off_goes_on_where_it_was(
    project: Project, target: Target
) -> None:
    project.app(modules="sys")
    write(
        project.folder,
        {"app.py": project.folder.joinpath("app.py").read_text().replace("m.VERSION", "m.version")},
    )
    fill(project.folder / "weights.bin", 480_000_000)
    environ = {**os.environ, **project.env}
    with subprocess.Popen(
        [sys.executable, "-c", MAIN, "deploy"], cwd=project.folder, env=environ
    ) as process:
        (part,) = _until(lambda: [*target.data.glob("blobs/*/*.part")])
        _until(lambda: part.stat().st_size >= 64_000_000)
        process.send_signal(signal.SIGKILL)
    there, number = part.stat().st_size, part.stat().st_ino
    assert there < 480_000_000
    target.kill()
    target.start_again()
    project.deploy()
    assert list(call(target)) == ["sys"]
    assert part.with_suffix("").stat().st_ino == number
    assert part.with_suffix("").stat().st_size == 480_000_000


def _until(condition: Callable[[], T]) -> T:
    deadline = time.monotonic() + 60
    while not (found := condition()):
        assert time.monotonic() < deadline
        time.sleep(0.002)
    return found
