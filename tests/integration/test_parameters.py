"""Every parameter of `Endpoint` has an effect in a running worker, or is refused by a sentence."""

from __future__ import annotations

import inspect
import os
import shutil
import sys
import textwrap
import time
from typing import TYPE_CHECKING, Any, TypeVar

import pytest

from behaviour.programs import interpreters_once
from integration.wheels import LOCAL_ONLY, make_wheel
from runpod_flash import Endpoint, PodTemplate
from runpod_flash.errors import ConfigurationError, NotAvailableError

if TYPE_CHECKING:
    from collections.abc import Callable

    from behaviour.programs import Programs

    F = TypeVar("F", bound=Callable[..., Any])

HEAD = """
from runpod_flash import DataCenter, GpuType, NetworkVolume, PodTemplate, ServerlessScalerType
from runpod_flash.testing import Gpu, use_node

L4 = GpuType.NVIDIA_L4

def variables(*names):
    return [os.environ.get(name) for name in names]

async def error_of(call):
    try:
        return await call
    except Exception as error:
        return f"{type(error).__name__}: {error}"
"""
MAIN = """
if __name__ == "__main__":
    print(json.dumps(asyncio.run(main())))
"""
_tested: set[str] = set()


def effect_of(*parameters: str) -> Callable[[F], F]:
    """Marks the test that observes what these parameters do."""
    _tested.update(parameters)
    return lambda test: test


def program(body: str) -> str:
    return HEAD + textwrap.dedent(body) + MAIN


def test_every_parameter_has_a_test_that_observes_its_effect() -> None:
    given = inspect.signature(Endpoint.__init__).parameters.values()
    named = {p.name for p in given if p.kind is not inspect.Parameter.VAR_KEYWORD} - {"self"}
    assert named == _tested


# What it is


@effect_of("name")
def test_name_is_what_the_worker_and_its_lines_are_called(programs: Programs) -> None:
    body = """
        @Endpoint(name="given-name", cpu=CPU)
        def named():
            print("hello")
            return variables("FLASH_ENDPOINT_NAME")

        @Endpoint(cpu=CPU)
        def own_name():
            return variables("FLASH_ENDPOINT_NAME")

        async def main():
            return await named() + await own_name()
    """
    done = programs.run(program(body))
    assert done.result == ["given-name", "own_name"]
    assert "[given-name] hello" in done.stderr


@effect_of("id")
def test_id_is_refused_in_one_sentence_where_it_would_be_used() -> None:
    client = Endpoint(id="abc")
    with pytest.raises(NotAvailableError, match="needs a Flash server: start one"):
        client.run({"x": 1})
    with pytest.raises(ValueError, match="cannot decorate"):
        client(len)


@effect_of("image")
def test_image_names_where_workers_run(programs: Programs) -> None:
    body = """
        import os

        os.environ["DOCKER_HOST"] = "unix:///nowhere.sock"
        vllm = Endpoint(name="v", image="vllm/vllm-openai:latest", cpu=CPU)

        async def main():
            job = await vllm.runsync({"prompt": "x"})
            return job.error
    """
    done = programs.run(program(body))
    assert "no container engine answers at unix:///nowhere.sock: start Docker, or" in done.result


# Hardware


@effect_of("gpu", "gpu_count", "min_cuda_version")
def test_gpu_gpu_count_and_min_cuda_version_choose_the_devices(programs: Programs) -> None:
    body = """
        use_node([
            Gpu(0, "GPU-0", "NVIDIA L4", 24 * 10**9, 0, "12.4"),
            Gpu(1, "GPU-1", "NVIDIA L4", 24 * 10**9, 0, "12.8"),
            Gpu(2, "GPU-2", "NVIDIA A40", 48 * 10**9, 0, "12.8"),
            Gpu(3, "GPU-3", "NVIDIA A40", 48 * 10**9, 0, "12.8"),
        ])

        @Endpoint(name="usual", gpu=L4)
        def usual():
            return variables("CUDA_VISIBLE_DEVICES", "RUNPOD_GPU_COUNT")

        @Endpoint(name="older", gpu=L4, min_cuda_version="12.4")
        def older():
            return variables("CUDA_VISIBLE_DEVICES", "RUNPOD_GPU_COUNT")

        @Endpoint(name="newer", gpu=L4, min_cuda_version="12.9")
        def newer():
            return variables("CUDA_VISIBLE_DEVICES", "RUNPOD_GPU_COUNT")

        @Endpoint(name="two", gpu=GpuType.NVIDIA_A40, gpu_count=2)
        def two():
            return variables("CUDA_VISIBLE_DEVICES", "RUNPOD_GPU_COUNT")

        async def main():
            return [await usual(), await older(), await newer(), await two()]
    """
    done = programs.run(program(body))
    assert done.result == [["1", "1"], ["0", "1"], ["", "0"], ["2,3", "2"]], done
    assert "newer runs on the CPU: no NVIDIA L4 with CUDA 12.9 or later on" in done.stderr


@effect_of("cpu")
@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="no affinity on this system")
def test_cpu_bounds_cores_and_threads_and_spreads_the_workers(programs: Programs) -> None:
    body = """
        @Endpoint(name="one-core", cpu="cpu3c-1-2", workers=(2, 2))
        def one_core():
            time.sleep(0.3)
            return [
                sorted(os.sched_getaffinity(0)),
                *variables("OMP_NUM_THREADS", "RUNPOD_CPU_COUNT", "RUNPOD_MEM_GB"),
                *variables("CUDA_VISIBLE_DEVICES"),
            ]

        async def main():
            return await asyncio.gather(*(one_core() for _ in range(6)))
    """
    found = programs.run(program(body)).result
    assert [rest for _, *rest in found] == [["1", "1", "2", ""]] * 6
    cores = {core for affinity, *_ in found for core in affinity}
    assert all(len(affinity) == 1 for affinity, *_ in found)
    assert len(cores) == min(2, len(os.sched_getaffinity(0)))


# Scaling


@effect_of("workers", "idle_timeout")
def test_workers_and_idle_timeout_bound_the_processes(programs: Programs) -> None:
    body = """
        use_node([], cores=8)

        @Endpoint(name="kept", cpu=CPU, workers=(1, 2), idle_timeout=1,
                  scaler_type="REQUEST_COUNT", scaler_value=1)
        def kept():
            time.sleep(0.2)
            return os.getpid()

        async def main():
            pids = await asyncio.gather(*(kept() for _ in range(9)))
            print("called", flush=True)
            await asyncio.sleep(3600)
    """
    most = 0
    with programs.start(program(body)) as running:
        while not running.lines:
            most = max(most, len(running.workers()))
            time.sleep(0.01)
        called = time.monotonic()
        running.until(lambda: len(running.workers()) == 1, timeout=5)
        assert 0.5 < time.monotonic() - called < 4
        time.sleep(1.5)
        assert len(running.workers()) == 1, "the minimum stays"
    assert most == 2


@effect_of("idle_timeout")
def test_a_worker_is_kept_as_long_as_the_idle_times_before_say(programs: Programs) -> None:
    body = """
        @Endpoint(name="often", cpu=CPU, idle_timeout="learned")
        def often():
            return os.getpid()

        async def main():
            pids = set()
            for _ in range(8):
                pids.add(await often())
                await asyncio.sleep(1.05)
            pids.add(await often())
            print(len(pids), flush=True)
            await asyncio.sleep(3600)
    """
    with programs.start(program(body)) as running:
        running.until(lambda: bool(running.lines), timeout=30)
        called = time.monotonic()
        assert running.workers()
        running.until(lambda: not running.workers(), timeout=10)
        assert 0.5 < time.monotonic() - called < 8, "and not for the 300 s before it has learned"
    assert running.lines == ["1\n"], "it was kept for each call that came soon"


@effect_of("scaler_type", "scaler_value")
def test_the_scaler_decides_how_many_workers_a_burst_gets(programs: Programs) -> None:
    body = """
        use_node([], cores=8)
        COUNT = ServerlessScalerType.REQUEST_COUNT

        @Endpoint(name="a", cpu=CPU, workers=(0, 8), scaler_type=COUNT, scaler_value=2)
        def two_each():
            time.sleep(1)
            return os.getpid()

        @Endpoint(name="b", cpu=CPU, workers=(0, 8), scaler_value=60)
        def patient():
            time.sleep(0.1)
            return os.getpid()

        @Endpoint(name="c", cpu=CPU, workers=(0, 8), scaler_value=0.1)
        def impatient():
            time.sleep(0.5)
            return os.getpid()

        async def main():
            found = [await asyncio.gather(*(f() for _ in range(6)))
                     for f in (two_each, patient, impatient)]
            return [len(set(pids)) for pids in found]
    """
    by_count, patient, impatient = programs.run(program(body)).result
    assert (by_count, patient) == (3, 1)
    assert 2 <= impatient <= 4, "one more each second"


@effect_of("max_concurrency")
def test_max_concurrency_jobs_run_at_once_in_one_worker(programs: Programs) -> None:
    body = """
        use_node([], cores=1)
        inside, most = 0, 0

        @Endpoint(name="e", cpu=CPU, max_concurrency=3)
        async def counted():
            global inside, most
            inside += 1
            most = max(most, inside)
            await asyncio.sleep(0.1)
            inside -= 1
            return os.getpid(), most

        async def main():
            return await asyncio.gather(*(counted() for _ in range(9)))
    """
    found = programs.run(program(body)).result
    assert len({pid for pid, _ in found}) == 1
    assert max(most for _, most in found) == 3


# Environment


@effect_of("dependencies", "flashboot")
def test_dependencies_are_installed_and_flashboot_keeps_what_was_compiled(
    programs: Programs,
) -> None:
    body = """
        def look(name):
            import importlib
            module = importlib.import_module(name)
            return module.VERSION, os.path.exists(module.__cached__)

        @Endpoint(name="kept", cpu=CPU, dependencies=["tiny==1.0"])
        def kept():
            return look("tiny")

        @Endpoint(name="not-kept", cpu=CPU, dependencies=["tiny==2.0"], flashboot=False)
        def not_kept():
            return look("tiny")

        async def main():
            return await kept(), await not_kept()
    """
    for version in ("1.0", "2.0"):
        make_wheel(programs.folder / "wheels", "tiny", version)
    programs.write({"requirements.txt": LOCAL_ONLY})
    assert programs.run(program(body)).result == [["1.0", True], ["2.0", False]]


@effect_of("system_dependencies")
def test_system_dependencies_must_be_installed(programs: Programs) -> None:
    body = """
        @Endpoint(name="there", cpu=CPU, system_dependencies=["dpkg"])
        def there():
            return "ran"

        @Endpoint(name="absent", cpu=CPU, system_dependencies=["dpkg", "no-such-package"])
        def absent():
            return "ran"

        async def main():
            return [await error_of(there()), await error_of(absent())]
    """
    done = programs.run(program(body))
    if shutil.which("dpkg-query") is None:
        assert done.result == ["ran", "ran"]
        assert "system_dependencies (dpkg) are installed cannot be told here" in done.stderr
    else:
        assert done.result == [
            "ran",
            "EnvironmentBuildError: endpoint 'absent' needs system packages that are not "
            "installed here: sudo apt-get install no-such-package; or name an image that has them "
            "by image=",
        ]


@effect_of("accelerate_downloads", "datacenter", "env")
def test_downloads_data_centers_and_env_reach_the_worker_as_variables(
    programs: Programs,
) -> None:
    body = """
        NAMES = ("HF_XET_HIGH_PERFORMANCE", "RUNPOD_DC_ID", "LEVEL")

        @Endpoint(name="plain", cpu=CPU)
        def plain():
            return variables(*NAMES)

        @Endpoint(name="told", cpu=CPU, accelerate_downloads=False, env={"LEVEL": "debug"},
                  datacenter=[DataCenter.EU_RO_1])
        def told():
            return variables(*NAMES)

        async def main():
            return [await plain(), await told(), await told()]
    """
    done = programs.run(program(body))
    told = [None, "EU-RO-1", "debug"]
    assert done.result == [["1", None, None], told, told]
    assert done.stderr.count("EU-RO-1: every data center is this machine") == 1


@effect_of("volume")
def test_a_volume_is_a_directory_that_the_worker_can_write_to(programs: Programs) -> None:
    body = """
        @Endpoint(name="e", cpu=CPU, volume=NetworkVolume(name="parameter"))
        def write():
            with open(os.environ["FLASH_VOLUME_PATH"] + "/file", "w") as file:
                return file.write("kept")

        async def main():
            return await write()
    """
    assert programs.run(program(body)).result == 4


@effect_of("template")
def test_a_template_gives_variables_and_says_when_the_disk_is_short(programs: Programs) -> None:
    body = """
        template = PodTemplate(
            env=[{"key": "BOTH", "value": "template"}, {"key": "ONE", "value": "template"}],
            containerDiskInGb=10**9,
        )

        @Endpoint(name="e", gpu=L4, template=template, env={"BOTH": "endpoint"})
        def told():
            return variables("BOTH", "ONE")

        async def main():
            return await told()
    """
    done = programs.run(program(body))
    assert done.result == ["endpoint", "template"]
    assert "template asks for 1000000000 GB of disk, and " in done.stderr
    with pytest.raises(ConfigurationError, match=r"PodTemplate\(startScript=...\) is about a cont"):
        Endpoint(name="x", template=PodTemplate(startScript="run.sh"))


@effect_of("python_version")
def test_python_version_chooses_the_workers_python(programs: Programs) -> None:
    own = f"{sys.version_info.major}.{sys.version_info.minor}"
    others = [minor for minor in interpreters_once() if minor != own]
    if not others:
        pytest.skip("no other Python on this machine")
    body = """
        @Endpoint(name="other", cpu=CPU, python_version="OTHER")
        def other():
            return sys.version_info[:2]

        @Endpoint(name="own", cpu=CPU)
        def own():
            return sys.version_info[:2]

        async def main():
            return [await other(), await own()]
    """.replace("OTHER", others[0])
    found = programs.run(program(body)).result
    assert [".".join(map(str, version)) for version in found] == [others[0], own]


# Jobs


@effect_of("execution_timeout_ms")
def test_execution_timeout_ms_ends_a_job_and_not_the_next(programs: Programs) -> None:
    body = """
        @Endpoint(name="e", cpu=CPU, execution_timeout_ms=300)
        async def sleep(seconds):
            await asyncio.sleep(seconds)
            return "slept"

        async def main():
            return [await error_of(sleep(60)), await sleep(0.01)]
    """
    timed_out, after = programs.run(program(body)).result
    assert timed_out.startswith("JobTimeoutError: job ")
    assert timed_out.endswith("ran longer than its execution_timeout_ms=300")
    assert after == "slept"


@effect_of("max_attempts", "restartable")
def test_max_attempts_and_restartable_decide_what_a_lost_worker_costs(
    programs: Programs,
) -> None:
    body = """
        import signal

        def die():
            os.kill(os.getpid(), signal.SIGKILL)

        def attempt(name):
            with open(name, "a") as file:
                file.write("x")
            with open(name) as file:
                return len(file.read())

        @Endpoint(name="once", cpu=CPU, max_attempts=1)
        def once():
            attempt("once")
            die()

        @Endpoint(name="thrice", cpu=CPU, max_attempts=3)
        def thrice():
            number = attempt("thrice")
            return number if number == 3 else die()

        def stream(name):
            number = attempt(name)
            for k in range(3):
                yield k
                time.sleep(0.2)
                if number == 1:
                    die()

        @Endpoint(name="again", cpu=CPU, restartable=True)
        def again():
            yield from stream("again")

        @Endpoint(name="not-again", cpu=CPU)
        def not_again():
            yield from stream("not-again")

        async def collected(function):
            return [chunk async for chunk in function()]

        async def main():
            calls = [once(), thrice(), collected(again), collected(not_again)]
            return [await error_of(call) for call in calls] + [attempt("once") - 1]
    """
    once, thrice, again, not_again, attempts = programs.run(program(body)).result
    assert once.startswith("WorkerLostError: ")
    assert attempts == 1
    assert (thrice, again) == (3, [0, 1, 2])
    assert not_again.startswith("WorkerLostError: ")
