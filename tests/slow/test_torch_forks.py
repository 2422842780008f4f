"""torch in workers that are forks: it computes in parallel, and each has its own random numbers."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import pytest

from integration.test_snapshots import program

if TYPE_CHECKING:
    from behaviour.programs import Programs

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(600),
    pytest.mark.skipif(sys.platform != "linux", reason="only Linux has zygotes"),
]
SEEN = """
def seen():
    import torch
    return {
        "pid": os.getpid(), "by": made_by(), "random": torch.rand(1).item(),
        "sum": (torch.ones(600, 600) @ torch.ones(600, 600)).sum().item(),
        "threads": torch.get_num_threads(), "cuda": torch.cuda.is_initialized(),
    }
"""
ENDPOINT = """
@Endpoint(name="e", cpu="cpu3c-2-4", dependencies=["torch==2.13.0"], python_version="3.11")
"""


def run(programs: Programs, body: str) -> Any:
    done = programs.run(program(SEEN + body), timeout=400)
    if "EnvironmentBuildError" in done.stderr:
        pytest.skip(f"torch 2.13 for Python 3.11 cannot be had here: {done.stderr[-300:]}")
    return done.result


def test_forks_compute_in_parallel_with_their_own_random_numbers_and_are_there_at_once(
    programs: Programs,
) -> None:
    body = f"""
{ENDPOINT}
async def look():
    return seen()

async def main():
    found = [await look()]
    await asyncio.sleep(10)
    for _ in range(4):
        os.kill(found[-1]["pid"], 9)
        await asyncio.sleep(0.5)
        began = time.perf_counter()
        found.append({{**await look(), "seconds": time.perf_counter() - began}})
    return found
"""
    first, *forks = run(programs, body)
    assert first["by"] not in ("flash-zygote", "flash-snapshot")
    assert {each["by"] for each in forks} <= {"flash-zygote", "flash-snapshot"}
    assert {each["sum"] for each in (first, *forks)} == {600.0**3}
    assert {each["threads"] for each in forks} == {first["threads"]}
    assert len({each["random"] for each in (first, *forks)}) == 5
    assert not any(each["cuda"] for each in forks)
    # An import of torch takes two seconds and more; a fork that computes, less than a fifth of one.
    assert sorted(each["seconds"] for each in forks)[1] < 0.4


def test_weights_and_a_model_that_ran_at_import_are_shared_by_all_workers(
    programs: Programs,
) -> None:
    body = f"""
if __name__ != "__main__":
    import torch
    MODEL = torch.nn.Linear(3000, 3000)
    FIRST = MODEL(torch.ones(1, 3000)).sum().item()  # in parallel, if it may

{ENDPOINT}
async def look():
    import torch
    with torch.no_grad():
        again = MODEL(torch.ones(64, 3000))[0].sum().item()
    with open("/proc/self/smaps_rollup") as lines:
        sizes = dict(line.split()[:2] for line in lines if line.startswith("Private_Dirty"))
    private = int(sizes["Private_Dirty:"]) * 1024
    return {{**seen(), "same": abs(again - FIRST) < 1e-2, "private": private}}

async def main():
    first = await look()
    await asyncio.sleep(10)
    return first, await again(look, 30)
"""
    first, forked = run(programs, body)
    assert forked["by"] == "flash-snapshot"
    assert first["same"]
    assert forked["same"]
    assert forked["threads"] == first["threads"]
    assert forked["private"] < first["private"] / 2
