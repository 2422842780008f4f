"""Ten thousand jobs at a server that is killed with -9, and workers that are."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from e2e.chaos import Chaos

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
JOBS = 10_000


def test_ten_thousand_jobs_survive_five_kills_of_the_server(tmp_path: Path) -> None:
    chaos = Chaos(tmp_path, JOBS)
    try:
        chaos.submit_all(5, chaos.kill_server)
        print(f"{chaos.check()} of {JOBS} jobs ran again")
    finally:
        chaos.server.kill()


def test_ten_thousand_jobs_survive_kills_of_their_workers(tmp_path: Path) -> None:
    chaos = Chaos(tmp_path, JOBS, seconds=0.02)
    try:
        chaos.submit_all(10, chaos.kill_worker)
        again = chaos.check()
        print(f"{again} of {JOBS} jobs ran again")
        assert chaos.killed == 10
        assert again > 0  # else none of them had a job
    finally:
        chaos.server.kill()
