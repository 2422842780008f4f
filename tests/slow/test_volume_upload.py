"""An upload whose server is killed with -9 again and again goes on, and ends well."""

from __future__ import annotations

import filecmp
import json
import os
import subprocess
import sys
import time
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest

from behaviour.servers import server
from unit.command_line import MAIN, flash

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]
SIZE = 800 << 20


def test_an_upload_waits_for_a_server_that_is_killed(tmp_path: Path, shared_cache: Path) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    with (folder / "large.bin").open("wb") as file:
        for _ in range(SIZE >> 20):
            file.write(os.urandom(1 << 10) * (1 << 10))
    with server(tmp_path / "server", shared_cache) as target:
        env = {"HOME": str(folder), **target.variables}
        made = flash("volume", "create", "models", "--json", cwd=folder, env=env)
        place = target.data / "volumes" / json.loads(made.stdout)["id"]
        with subprocess.Popen(
            [sys.executable, "-c", MAIN, "volume", "put", "models", "large.bin", "--json"],
            cwd=folder,
            env={**os.environ, **env},
            stdout=subprocess.PIPE,
            text=True,
        ) as process:
            kills = 0
            for wanted in (3, 12, 25):
                while process.poll() is None and parts(place) < wanted:
                    time.sleep(0.001)
                if process.poll() is None:
                    assert list((place / "files").iterdir()) == []
                    target.kill()
                    target.start_again()
                    kills += 1
            told = json.loads(process.communicate()[0])
        assert process.returncode == 0
        assert kills >= 2
        assert told["movedBytes"] == SIZE
        assert filecmp.cmp(folder / "large.bin", place / "files" / "large.bin", shallow=False)


def parts(place: Path) -> int:
    """How many have come whole."""
    with suppress(FileNotFoundError):  # all have, and it is in its place
        return sum(len(path.read_text().split()) for path in (place / "uploads").glob("*.parts"))
    return 0
