"""Workers that die at random: each job still ends once, with its own result or a named cause."""

from __future__ import annotations

import random
import threading
import time
from contextlib import suppress
from typing import TYPE_CHECKING

import psutil
import pytest

from behaviour.programs import Programs

if TYPE_CHECKING:
    from pathlib import Path

    from behaviour.programs import Program

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

JOBS = """
        @Endpoint(name="work", cpu=CPU, workers=(0, 3), scaler_value=0.1, max_attempts=1000)
        def work(x):
            time.sleep(0.02)
            return x * x

        ends = []

        async def one(x):
            found = await work(x)
            ends.append(x)
            return found

        async def main():
            found = await asyncio.gather(*map(one, range(300)))
            return [found == [x * x for x in range(300)], sorted(ends) == list(range(300))]

        if __name__ == "__main__":
            print(json.dumps(asyncio.run(main())))
"""

PIPELINE = """
        @Endpoint(name="first", cpu=CPU, workers=(0, 2), max_attempts=1000)
        async def first(x):
            return await second(x) + 1

        @Endpoint(name="second", cpu=CPU, workers=(0, 2), max_attempts=1000)
        def second(x):
            return 10 * third.call(x)

        @Endpoint(name="third", cpu=CPU, workers=(0, 2), max_attempts=1000)
        def third(x):
            time.sleep(0.02)
            return x + 1

        async def main():
            found = await asyncio.gather(*map(first, range(60)))
            return found == [10 * (x + 1) + 1 for x in range(60)]

        if __name__ == "__main__":
            print(json.dumps(asyncio.run(main())))
"""


@pytest.fixture
def programs(tmp_path: Path) -> Programs:
    return Programs(tmp_path, tmp_path / "cache")


def _kill_some(program: Program, ended: threading.Event, killed: list[int]) -> None:
    """Kill a worker that works now and then; less and less often, so that all comes to its end.

    (One that has just been started is spared: Flash gives up where none comes to start.)
    """
    pause = 0.15
    while not ended.wait(pause):
        with suppress(psutil.NoSuchProcess):
            grown = [w for w in program.workers() if time.time() - w.create_time() > 0.8]
            if grown:
                victim = random.choice(grown)
                victim.kill()
                killed.append(victim.pid)
        pause *= 1.1


def _under_fire(programs: Programs, source: str) -> tuple[object, int]:
    ended, killed = threading.Event(), list[int]()
    with programs.start(source) as program:
        killer = threading.Thread(target=_kill_some, args=(program, ended, killed))
        killer.start()
        began = time.monotonic()
        try:
            done = program.finish(200)
        finally:
            ended.set()
            killer.join()
        print(f"{len(killed)} workers killed in {time.monotonic() - began:.1f} s")
        return done.result, len(killed)


def test_three_hundred_jobs_end_once_and_right_while_workers_are_killed(
    programs: Programs,
) -> None:
    result, killed = _under_fire(programs, JOBS)
    assert result == [True, True]
    assert killed > 5


def test_nested_calls_come_to_their_end_while_workers_are_killed(programs: Programs) -> None:
    result, killed = _under_fire(programs, PIPELINE)
    assert result is True
    assert killed > 5
