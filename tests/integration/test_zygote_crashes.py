"""Killed zygotes and snapshots: no job is lost with one, and another one comes."""

from __future__ import annotations

import itertools
import textwrap
from typing import TYPE_CHECKING

import pytest

from behaviour.programs import FORKS

if TYPE_CHECKING:
    from behaviour.programs import Programs

pytestmark = pytest.mark.skipif(not FORKS, reason="there are no zygotes")

# Endpoints of one environment, whose jobs note each of their runs.
PROGRAM = """
import signal
from pathlib import Path
from runpod_flash import ServerlessScalerType

AT_ONCE = {{"scaler_type": ServerlessScalerType.REQUEST_COUNT, "scaler_value": 1}}
SOURCE = {source!r}

def made_by():
    minder = Path(f"/proc/{{os.getppid()}}/stat").read_text().rpartition(")")[2].split()
    above = Path(f"/proc/{{minder[1]}}/comm")
    return above.read_text().strip() if above.exists() else "killed meanwhile"

def endpoint(name):
    return Endpoint(name=name, cpu=CPU, workers=(0, 2), flashboot={flashboot}, **AT_ONCE)

async def work(number, seconds=0.0):
    with open(f"{{HERE}}runs-{{number}}", "a") as file:
        file.write("x")
    by = made_by()
    await asyncio.sleep(seconds)
    return {{"number": number, "by": by}}

one, two, three = (endpoint(name)(work) for name in ("one", "two", "three"))
numbers = iter(range(1000))

def burst(seconds=0.0):
    works = (one, two, three, one, two, three)
    return [asyncio.ensure_future(work(next(numbers), seconds)) for work in works]

def there(word):
    # By their home: those of a killed zygote are no descendants of this process any more.
    import psutil
    found = []
    for process in psutil.process_iter():
        try:
            words = [process.name(), *process.cmdline()]
            if any(each.endswith(word) for each in words):
                if process.environ().get("HOME") == os.environ["HOME"]:
                    found.append(process.pid)
        except psutil.Error:
            pass
    return found

def kill(word):
    pids = there(word)
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    return pids

async def no_workers():
    while kill("boot.py"):
        await asyncio.sleep(0.05)
    await asyncio.sleep(0.1)

async def from_source():
    # A cold start that is a fork; the processes that there are to fork.
    end = time.monotonic() + 20
    while (await one(next(numbers)))["by"] != SOURCE:
        assert time.monotonic() < end, "none comes"
        await asyncio.sleep(0.7)
        await no_workers()
    return there(SOURCE)

{body}

if __name__ == "__main__":
    print(json.dumps(asyncio.run(main())))
"""

KINDS = pytest.mark.parametrize("source", ["flash-zygote", "flash-snapshot"])


def run(programs: Programs, source: str, body: str) -> list[list[int]]:
    """What the program's `main` gives: the processes to fork, from one time to the next.

    Every job of it must have run once.
    """
    snapshots = source == "flash-snapshot"
    made = PROGRAM.format(source=source, flashboot=snapshots, body=textwrap.dedent(body))
    found: list[list[int]] = programs.run(made, timeout=100).result
    runs = list(programs.folder.glob("runs-*"))
    assert runs
    assert {file.name: file.read_text() for file in runs} == dict.fromkeys(
        (file.name for file in runs), "x"
    )
    return found


def assert_replaced(seen: list[list[int]]) -> None:
    assert all(seen)
    for before, after in itertools.pairwise(seen):
        assert not set(before) & set(after)


@KINDS
def test_one_that_is_killed_while_nothing_runs_is_replaced(source: str, programs: Programs) -> None:
    body = """
        async def main():
            seen = [await from_source()]
            await no_workers()
            kill("flash-zygote")
            kill("flash-snapshot")
            assert [done["number"] for done in await asyncio.gather(*burst())]
            await no_workers()
            return [*seen, await from_source()]
    """
    assert_replaced(run(programs, source, body))


@KINDS
def test_jobs_of_its_forks_finish_when_it_is_killed(source: str, programs: Programs) -> None:
    body = """
        async def main():
            seen = [await from_source()]
            jobs = burst(1.0)
            await asyncio.sleep(0.7)
            assert kill(SOURCE)
            by = [done["by"] for done in await asyncio.gather(*jobs)]
            assert SOURCE in by, by
            await no_workers()
            return [*seen, await from_source()]
    """
    assert_replaced(run(programs, source, body))


@KINDS
def test_no_job_fails_when_it_is_killed_while_it_forks(source: str, programs: Programs) -> None:
    body = """
        async def main():
            seen = []
            for milliseconds in (0, 1, 3, 6, 12, 25):
                seen.append(await from_source())
                await no_workers()
                jobs = burst()
                await asyncio.sleep(milliseconds / 1000)
                assert kill(SOURCE)
                numbers = [done["number"] for done in await asyncio.gather(*jobs)]
                assert len(set(numbers)) == 6
                await no_workers()
            return [*seen, await from_source()]
    """
    assert_replaced(run(programs, source, body))


def test_a_snapshot_comes_although_the_zygote_was_killed_that_it_was_to_be_a_fork_of(
    programs: Programs,
) -> None:
    body = """
        async def main():
            first = asyncio.ensure_future(one(next(numbers)))
            while not (killed := kill("zygote.py")):
                await asyncio.sleep(0.01)
            await first
            await no_workers()
            return [killed, await from_source()]
    """
    assert_replaced(run(programs, "flash-snapshot", body))
