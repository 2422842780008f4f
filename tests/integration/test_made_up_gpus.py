"""GPUs that a program made up, with real workers: who gets which, who waits, and who shares."""

from __future__ import annotations

import json
import textwrap
import time
from typing import TYPE_CHECKING

import pytest

from behaviour.programs import PRELUDE
from runpod_flash.engines.local.variables import no_gpu_note

if TYPE_CHECKING:
    from behaviour.programs import Finished, Programs

L4 = "NVIDIA L4 with CUDA 12.8 or later"
FREED_SECONDS = 3.0  # what may pass until a device of something killed can be had again

NODE = """
from runpod_flash import GpuGroup, GpuType
from runpod_flash.testing import Gpu, use_node

L4 = GpuType.NVIDIA_L4

def seen():
    names = ("CUDA_VISIBLE_DEVICES", "NVIDIA_VISIBLE_DEVICES", "RUNPOD_GPU_COUNT")
    return [os.environ[name] for name in names]
"""
ONE = NODE + "use_node([L4])\n"
EIGHT = """
use_node([
    GpuType.NVIDIA_GEFORCE_RTX_4090, GpuType.NVIDIA_GEFORCE_RTX_4090, GpuType.NVIDIA_A40,
    GpuType.NVIDIA_A100_80GB_PCIe, GpuType.NVIDIA_A100_80GB_PCIe, GpuType.NVIDIA_A100_SXM4_80GB,
    GpuType.NVIDIA_H100_80GB_HBM3, GpuType.NVIDIA_H100_80GB_HBM3,
])
"""
MAIN = """
if __name__ == "__main__":
    print(json.dumps(asyncio.run(main())))
"""


def program(head: str, body: str) -> str:
    return head + textwrap.dedent(body) + MAIN


def lines_with(done: Finished, text: str) -> int:
    return sum(text in line for line in done.stderr.splitlines())


# One device


@pytest.mark.parametrize("rounds", [10, pytest.param(100, marks=pytest.mark.slow)])
def test_a_pipeline_of_three_stages_passes_one_device_from_stage_to_stage(
    programs: Programs, rounds: int
) -> None:
    body = """
        @Endpoint(name="first", gpu=L4, idle_timeout=3600)
        async def first(x):
            return x + 1

        @Endpoint(name="second", gpu=L4, idle_timeout=3600)
        async def second(x):
            return 2 * x

        @Endpoint(name="third", gpu=L4, idle_timeout=3600)
        def third(x):
            return [x, *seen()]

        async def through(x):
            return await third(await second(await first(x)))

        async def main():
            one_by_one = [await through(x) for x in range(ROUNDS)]
            return one_by_one, await asyncio.gather(*map(through, range(100)))
    """.replace("ROUNDS", str(rounds))
    done = programs.run(program(ONE, body), timeout=100)
    one_by_one, together = done.result
    device = ["0", "GPU-made-up-0", "1"]
    assert one_by_one == [[2 * (x + 1), *device] for x in range(rounds)]
    assert together == [[2 * (x + 1), *device] for x in range(100)]
    # Each of the three stages starts a worker a round; on an idle machine that takes 0.12 s.
    assert done.seconds < 10 + rounds, done
    assert not lines_with(done, "shares"), done


def test_a_nested_call_shares_its_callers_device_and_says_so_once(programs: Programs) -> None:
    body = """
        @Endpoint(name="outer", gpu=L4)
        async def outer(x):
            return [*seen(), *await inner(x)]

        @Endpoint(name="inner", gpu=L4)
        def inner(x):
            return [*seen(), x]

        async def main():
            found = [await outer(x) for x in range(100)]
            return found + await asyncio.gather(*map(outer, range(100)))
    """
    done = programs.run(program(ONE, body), timeout=60)
    device = ["0", "GPU-made-up-0", "1"]
    assert done.result == 2 * [[*device, *device, x] for x in range(100)]
    assert done.seconds < 15, done
    assert lines_with(done, "inner shares the GPU of outer, which waits for it") == 1, done


def test_an_idle_worker_gives_its_device_up_as_soon_as_another_endpoint_waits(
    programs: Programs,
) -> None:
    body = """
        @Endpoint(name="idle", gpu=L4, idle_timeout=3600)
        def idle():
            return os.getpid()

        @Endpoint(name="waits", gpu=L4)
        def waits():
            return seen()

        async def main():
            worker = await idle()
            began = time.monotonic()
            found = await waits()
            return found, time.monotonic() - began, os.path.exists(f"/proc/{worker}")
    """
    done = programs.run(program(ONE, body))
    found, seconds, still_there = done.result
    assert found[0] == "0"
    assert seconds < 5
    assert not still_there


def test_a_waiting_job_says_what_it_waits_for_and_which_worker_holds_it(
    programs: Programs,
) -> None:
    body = """
        @Endpoint(name="busy", gpu=L4)
        async def busy(seconds):
            await asyncio.sleep(seconds)

        @Endpoint(name="waits", gpu=L4)
        def waits():
            return seen()

        async def main():
            holder = busy.run(3600)
            while await holder.status() != "IN_PROGRESS":
                await asyncio.sleep(0.01)
            job = waits.run()
            while await job.status() == "IN_QUEUE" and not job.waits_for:
                await asyncio.sleep(0.01)
            waiting = [await job.status(), job.waits_for, holder._data["workerId"]]
            await holder.cancel()
            await job.wait()
            return waiting, await job.status(), job.waits_for, job.output
    """
    done = programs.run(program(ONE, body))
    (state, waits_for, worker), end, waits_for_at_end, output = done.result
    assert (state, waits_for) == ("IN_QUEUE", f"{L4}, held by {worker}")
    assert (end, waits_for_at_end, output[0]) == ("COMPLETED", "", "0")


def test_a_device_is_free_again_after_a_kill_of_its_busy_worker(programs: Programs) -> None:
    body = """
        @Endpoint(name="victim", gpu=L4, max_attempts=1)
        async def victim():
            print("ready to die")
            await asyncio.sleep(3600)

        @Endpoint(name="next", gpu=L4)
        def following():
            return seen()

        async def main():
            job = victim.run()
            following_job = following.run()
            await job.wait()
            began = time.monotonic()
            await following_job.wait()
            return job.error, following_job.output, time.monotonic() - began
    """
    with programs.start(program(ONE, body)) as running:
        running.until_shown("ready to die")
        (worker,) = running.workers()
        worker.kill()
        error, found, seconds = running.finish().result
    assert "was killed by SIGKILL" in error
    assert found[0] == "0"
    assert seconds < FREED_SECONDS


# Several programs


SHARED = (
    NODE
    + """
from pathlib import Path
use_node([Gpu(0, "GPU-0", "NVIDIA L4", 24 * 10**9, 0, "12.8")], Path(sys.argv[1]))
"""
)


def test_a_device_is_free_again_after_a_kill_of_its_program(programs: Programs) -> None:
    body = """
        @Endpoint(name="holder", gpu=L4)
        def holder():
            print("has it")
            time.sleep(3600)

        @Endpoint(name="quick", gpu=L4)
        def quick():
            return seen()

        async def main():
            return await (holder if sys.argv[2] == "hold" else quick)()
    """
    programs.write({"app.py": PRELUDE + program(SHARED, body)})
    locks = str(programs.folder / "locks")
    with programs.start(arguments=["app.py", locks, "hold"]) as first:
        first.until_shown("has it")
        with programs.start(arguments=["app.py", locks, "quick"]) as second:
            time.sleep(1)
            assert not second.lines, "the device is taken"
            first.kill()
            began = time.monotonic()
            assert second.finish().result == ["0", "GPU-0", "1"]
            assert time.monotonic() - began < FREED_SECONDS


def test_two_programs_at_once_never_share_a_device_and_name_each_other(
    programs: Programs,
) -> None:
    body = """
        @Endpoint(name="worker", gpu=L4, idle_timeout=1)
        def work():
            # Whoever had the device at the same time would meet this file.
            mark = os.open("in-use", os.O_CREAT | os.O_EXCL)
            time.sleep(0.05)
            os.close(mark)
            os.unlink("in-use")

        async def main():
            jobs = [work.run() for _ in range(20)]
            said = set()
            while not jobs[0].done:
                await jobs[0].status()
                said.add(jobs[0].waits_for)
                await asyncio.sleep(0.01)
            ended = [await job.wait() for job in jobs]
            return [job.error for job in ended], sorted(said)
    """
    programs.write({"app.py": PRELUDE + program(SHARED, body)})
    arguments = ["app.py", str(programs.folder / "locks")]
    with programs.start(arguments=arguments) as one, programs.start(arguments=arguments) as two:
        pids = {one.pid, two.pid}
        found = [one.finish().result, two.finish().result]
    assert [errors for errors, _ in found] == [[None] * 20] * 2
    said = {text for _, texts in found for text in texts if "held by" in text}
    assert said, "one of them had to wait"
    assert any(f"{L4}, held by process {pid} (python app.py)" in said for pid in pids), said


# Eight mixed devices


def test_types_groups_lists_and_counts_take_the_first_compatible_devices(
    programs: Programs,
) -> None:
    body = """
        kinds = {
            "type": dict(gpu=GpuType.NVIDIA_A40),
            "group": dict(gpu=GpuGroup.AMPERE_80),
            "list": dict(gpu=[GpuType.NVIDIA_A100_SXM4_80GB, GpuType.NVIDIA_A100_80GB_PCIe]),
            "list, second choice": dict(
                gpu=[GpuType.NVIDIA_A100_SXM4_80GB, GpuType.NVIDIA_A100_80GB_PCIe]
            ),
            "two": dict(gpu=[GpuType.NVIDIA_A40, GpuType.NVIDIA_H100_80GB_HBM3], gpu_count=2),
            "any": dict(gpu=GpuGroup.ANY),
            "default": dict(),
        }

        @Endpoint(name="type", **kinds["type"])
        def one(): return seen()
        @Endpoint(name="group", **kinds["group"])
        def two(): return seen()
        @Endpoint(name="list", **kinds["list"])
        def three(): return seen()
        @Endpoint(name="list, second choice", **kinds["list, second choice"])
        def four(): return seen()
        @Endpoint(name="two", **kinds["two"])
        def five(): return seen()
        @Endpoint(name="any", **kinds["any"])
        def six(): return seen()
        @Endpoint(name="default", **kinds["default"])
        def seven(): return seen()

        async def main():
            return [(await f())[0] for f in (one, two, three, four, five, six, seven)]
    """
    done = programs.run(program(NODE + EIGHT, body))
    assert done.result == ["2", "3", "5", "4", "6,7", "0", "1"], done


def test_a_worker_of_two_devices_sees_both_and_no_other(programs: Programs) -> None:
    body = """
        @Endpoint(name="pair", gpu=GpuType.NVIDIA_H100_80GB_HBM3, gpu_count=2)
        def pair():
            return seen()

        async def main():
            return await pair()
    """
    done = programs.run(program(NODE + EIGHT, body))
    assert done.result == ["6,7", "GPU-made-up-6,GPU-made-up-7", "2"]


def test_workers_of_one_endpoint_have_a_device_each_and_not_more_than_there_are(
    programs: Programs,
) -> None:
    body = """
        @Endpoint(name="many", gpu=GpuGroup.AMPERE_80, workers=(0, 10),
                  scaler_type="REQUEST_COUNT", scaler_value=1)
        def many():
            time.sleep(0.5)
            return seen()[0]

        async def main():
            return await asyncio.gather(*(many() for _ in range(12)))
    """
    done = programs.run(program(NODE + EIGHT, body))
    assert set(done.result) == {"3", "4", "5"}
    assert lines_with(done, "at most 3 of 10 workers: 3 matching GPUs") == 1, done


def test_memory_that_others_use_is_reported_once(programs: Programs) -> None:
    body = """
        use_node([Gpu(0, "GPU-0", "NVIDIA L4", 24 * 10**9, 20 * 10**9, "12.8")])

        @Endpoint(name="one", gpu=L4)
        def one():
            return seen()[0]

        @Endpoint(name="two", gpu=L4)
        def two():
            return seen()[0]

        async def main():
            return [await f() for f in (one, two, one, two)]
    """
    done = programs.run(program(NODE, body))
    assert done.result == ["0"] * 4
    text = "other programs already use 20 GB of 24 GB on GPU 0 (NVIDIA L4)"
    assert lines_with(done, f"one: {text}") == lines_with(done, f"two: {text}") == 1, done


# No device


def test_without_a_matching_device_the_function_runs_on_the_cpu_and_its_errors_say_so(
    programs: Programs,
) -> None:
    body = """
        use_node([GpuType.NVIDIA_A40])

        @Endpoint(name="wants", gpu=L4, gpu_count=2)
        def wants(fail):
            if fail:
                raise RuntimeError("no CUDA")
            return seen()

        async def main():
            found = [await wants(False), await wants(False)]
            try:
                await wants(True)
            except RuntimeError as error:
                notes = getattr(error, "__notes__", [])
                return found, notes, error.remote_traceback, str(error)
    """
    done = programs.run(program(NODE, body))
    found, notes, text, message = done.result
    assert found == [["", "void", "0"]] * 2
    note = (
        "flash: 'wants' asks for 2 x NVIDIA L4 with CUDA 12.8 or later, and this machine has none,"
        " so its worker ran on the CPU; to run it on a GPU, set FLASH_TARGET to a server that has"
        " one"
    )
    assert (notes, message) == ([note], "no CUDA")
    assert note in text, "tracebacks of Python 3.10 show no notes"
    said = "wants runs on the CPU: no 2 x NVIDIA L4 with CUDA 12.8 or later on this machine"
    assert lines_with(done, said) == 1, done


def test_the_callers_traceback_shows_the_note(programs: Programs) -> None:
    body = """
        use_node([])

        @Endpoint(name="fails", gpu=L4)
        def fails():
            raise RuntimeError("no CUDA")

        async def main():
            await fails()
    """
    done = programs.run(program(NODE, body))
    assert done.code == 1
    assert "'fails' asks for NVIDIA L4" in done.stderr


def test_on_apple_silicon_the_note_mentions_mps() -> None:
    assert "mps" in no_gpu_note("NVIDIA L4", "x", "darwin")
    assert "mps" not in no_gpu_note("NVIDIA L4", "x", "linux")


def test_without_any_gpu_its_cuda_version_is_not_what_is_amiss(programs: Programs) -> None:
    body = """
        use_node([])

        @Endpoint(name="any")
        def any_gpu():
            raise RuntimeError("no CUDA")

        async def main():
            await any_gpu()
    """
    done = programs.run(program(NODE, body))
    assert "flash: any runs on the CPU: no GPU on this machine\n" in done.stderr, done
    assert "flash: 'any' asks for a GPU, and this machine has none" in done.stderr, done


# The node itself


def test_a_node_can_only_be_made_up_before_the_first_call(programs: Programs) -> None:
    body = """
        @Endpoint(name="first", cpu=CPU)
        def first():
            use_node([L4])  # in a worker, as when its module is imported: nothing happens

        async def main():
            await first()
            try:
                use_node([L4])
            except ValueError as error:
                return str(error)
    """
    text = programs.run(program(NODE, body)).result
    assert "before that call" in text


def test_made_up_devices_leave_no_lock_behind(programs: Programs) -> None:
    body = """
        @Endpoint(name="one", gpu=L4)
        def one():
            return seen()[0]

        async def main():
            return await one(), os.listdir(os.environ["TMPDIR"])
    """
    folder = programs.folder / "tmp"
    folder.mkdir()
    done = programs.run(program(ONE, body), env={"TMPDIR": str(folder)})
    device, there = done.result
    assert device == "0"
    assert any(name.startswith("flash-node-") for name in there)
    assert [p.name for p in folder.iterdir()] == [], json.dumps(there)
