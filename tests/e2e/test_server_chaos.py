"""A server that is killed with -9 has lost nothing that it has promised. (tests/slow has more.)"""

from __future__ import annotations

from typing import TYPE_CHECKING

from e2e.chaos import Chaos

if TYPE_CHECKING:
    from pathlib import Path


def test_no_accepted_job_and_no_result_is_lost_when_the_server_is_killed(tmp_path: Path) -> None:
    chaos = Chaos(tmp_path, 300)
    try:
        chaos.submit_all(2, chaos.kill_server)
        print(f"{chaos.check()} of 300 jobs ran again")
    finally:
        chaos.server.kill()


def test_no_accepted_job_is_lost_when_workers_are_killed(tmp_path: Path) -> None:
    chaos = Chaos(tmp_path, 200, seconds=0.05)
    try:
        chaos.submit_all(3, chaos.kill_worker)
        print(f"{chaos.check()} of 200 jobs ran again")
        assert chaos.killed == 3
    finally:
        chaos.server.kill()
