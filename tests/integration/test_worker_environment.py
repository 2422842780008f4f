"""What a worker finds around it: variables, packages, its folder, its share of the machine."""

from __future__ import annotations

import asyncio
import re
import sys
import textwrap
from typing import TYPE_CHECKING

import pytest

import runpod_flash
from behaviour.programs import FORKS
from integration.wheels import LOCAL_ONLY, make_wheel
from runpod_flash.engines.local.preparation import check_machine, environment_request
from runpod_flash.errors import EnvironmentBuildError
from runpod_flash.spec import Build, EndpointSpec, Entry, Placement

if TYPE_CHECKING:
    from pathlib import Path

    from behaviour.programs import Programs

HEAD = """
from pathlib import Path
from runpod_flash.testing import use_node
"""
MAIN = """
if __name__ == "__main__":
    print(json.dumps(asyncio.run(main())))
"""
forks = pytest.mark.skipif(sys.platform != "linux", reason="only Linux has zygotes")
# What a CPU endpoint's worker has beyond what it was passed (docs/workers.md).
SET = {
    "CUDA_VISIBLE_DEVICES",
    "FLASH_ENDPOINT_NAME",
    "FLASH_WORKER_ID",
    "HF_XET_HIGH_PERFORMANCE",
    "MKL_NUM_THREADS",
    "NVIDIA_VISIBLE_DEVICES",
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "RUNPOD_CPU_COUNT",
    "RUNPOD_GPU_COUNT",
    "RUNPOD_MEM_GB",
    "VIRTUAL_ENV",
}


def program(body: str) -> str:
    return HEAD + textwrap.dedent(body) + MAIN


# Variables


def test_of_the_callers_variables_only_the_documented_ones_reach_a_function(
    programs: Programs,
) -> None:
    body = """
        @Endpoint(name="e", cpu=CPU, env={"GIVEN": "endpoint's", "TZ": "Asia/Tokyo"})
        def look():
            started_with = Path("/proc/self/environ")
            raw = started_with.read_text() if started_with.exists() else ""
            return dict(os.environ), raw, "SECRET" in os.environ, os.environ.get("SECRET")

        async def main():
            return await look(), sorted(os.environ)
    """
    secret = "s3cret-value"
    own = {"SECRET": secret, "TZ": "UTC", "LC_TIME": "C.UTF-8", "PYTHONPATH": "", "RUNPOD_POD": "1"}
    (seen, raw, contained, got), caller = programs.run(program(body), env=own).result
    assert secret not in f"{seen}{raw}"
    assert (contained, got) == (False, None)
    assert (seen["GIVEN"], seen["TZ"], seen["LC_TIME"]) == ("endpoint's", "Asia/Tokyo", "C.UTF-8")
    assert seen.keys() - set(caller) == SET | {"GIVEN"}
    kept_back = {"SECRET", "PYTHONPATH", "RUNPOD_POD", "XDG_DATA_HOME"}
    assert not seen.keys() & kept_back
    assert kept_back <= set(caller)


def test_a_module_reads_the_callers_variables_and_a_function_is_told_how_to_get_them(
    programs: Programs,
) -> None:
    body = """
        AT_IMPORT = os.environ["SECRET"]

        @Endpoint(name="e", cpu=CPU, env={"PASSED": os.environ["SECRET"]})
        def look():
            try:
                os.environ["SECRET"]
            except KeyError as error:
                remedy = str(error)
            try:
                os.environ["NOWHERE"]
            except KeyError as error:
                return AT_IMPORT, os.environ["PASSED"], remedy, str(error)

        async def main():
            return await look()
    """
    at_import, passed, remedy, nowhere = programs.run(program(body), env={"SECRET": "x"}).result
    assert (at_import, passed) == ("x", "x")
    assert "'SECRET' is set where you call from" in remedy
    assert "list it in env={'SECRET': os.environ['SECRET']}" in remedy
    assert nowhere == "'NOWHERE'"


# Its start

STARTS = """
    ENV = ENVIRONMENT

    @Endpoint(name="e", cpu=CPU, env=ENV)
    def look():
        minder = Path(f"/proc/{os.getppid()}/stat").read_text().rpartition(")")[2].split()
        return os.getpid(), Path(f"/proc/{minder[1]}/comm").read_text().strip()

    async def main():
        seen = []
        for _ in range(3):
            pid, above = await look()
            seen.append(above)
            time.sleep(2)
            os.kill(pid, 9)
        return seen
"""


@pytest.mark.skipif(not FORKS, reason="there are no zygotes")
def test_all_workers_but_the_first_are_forks_of_a_zygote(programs: Programs) -> None:
    done = programs.run(program(STARTS.replace("ENVIRONMENT", "{}")))
    assert set(done.result[1:]) <= {"flash-zygote", "flash-snapshot"}
    assert "imported ahead" not in done.stderr


@pytest.mark.skipif(not FORKS, reason="there are no zygotes")
def test_where_workers_cannot_be_forks_a_line_says_why_once(
    programs: Programs, tmp_path: Path
) -> None:
    thread = "import _thread, time\n_thread.start_new_thread(time.sleep, (1000,))\n"
    (tmp_path / "sitecustomize.py").write_text(thread)
    env = repr({"PYTHONPATH": str(tmp_path)})
    done = programs.run(program(STARTS.replace("ENVIRONMENT", env)))
    assert "flash-zygote" not in done.result
    assert done.stderr.count("starts its workers without modules imported ahead") == 1
    assert "2 threads run in the process to fork" in done.stderr


LOOKS = """
    OPTIONS = {"cpu": CPU, "flashboot": FLASHBOOT, "dependencies": ["numpy"]}

    def look():
        ahead = "numpy" in sys.modules
        import numpy
        import random
        found = {
            "ahead": ahead, "random": random.random(), "numpy": numpy.random.random(),
            "worker": os.environ["FLASH_WORKER_ID"], "mine": os.environ.get("MINE"),
            "left": os.environ.get("LEFT"), "cwd": os.getcwd(), "pid": os.getpid(),
        }
        os.environ["LEFT"] = "behind"
        os.chdir("/")
        return found

    one = Endpoint(name="one", env={"MINE": "1"}, **OPTIONS)(look)
    two = Endpoint(name="two", env={"MINE": "2"}, **OPTIONS)(look)

    async def main():
        seen = []

        async def turn():
            seen.extend([await one(), await two()])
            await asyncio.sleep(0.5)
            for found in seen[-2:]:
                os.kill(found["pid"], 9)
            await asyncio.sleep(0.2)

        await turn()
        end = time.monotonic() + 40
        while sum(found["ahead"] for found in seen) < ENOUGH and time.monotonic() < end:
            await turn()
        await turn()
        await turn()
        return seen
"""


@pytest.mark.network
@pytest.mark.parametrize(
    ("zygotes", "flashboot"),
    [
        pytest.param("1", True, marks=forks),
        pytest.param("1", False, marks=forks),
        ("0", True),
    ],
)
def test_each_worker_has_its_own_random_numbers_variables_and_directory(
    zygotes: str, flashboot: bool, programs: Programs
) -> None:
    enough = 6 if zygotes == "1" else 0
    body = LOOKS.replace("FLASHBOOT", str(flashboot)).replace("ENOUGH", str(enough))
    done = programs.run(program(body), env={"FLASH_ZYGOTES": zygotes})
    seen = done.result
    assert sum(found["ahead"] for found in seen) >= enough, done
    assert any(found["ahead"] for found in seen) == (zygotes == "1")
    for own in ("random", "numpy", "worker", "pid"):
        assert len({found[own] for found in seen}) == len(seen)
    assert [found["mine"] for found in seen] == ["1", "2"] * (len(seen) // 2)
    assert {found["left"] for found in seen} == {None}
    assert {found["cwd"] for found in seen} == {str(programs.folder)}


# Packages and folders


def test_the_projects_requirements_are_installed_and_runpod_flash_is_this_very_source(
    programs: Programs,
) -> None:
    body = """
        @Endpoint(name="e", cpu=CPU, dependencies=["declared", "runpod-flash>=99"])
        def look():
            import declared
            import listed
            import runpod_flash
            return declared.VERSION, listed.VERSION, os.path.realpath(runpod_flash.__file__)

        async def main():
            return await look()
    """
    wheels = programs.folder / "wheels"
    make_wheel(wheels, "declared", "1.5")
    make_wheel(wheels, "listed", "2.5")
    lines = f"# of this project\n{LOCAL_ONLY}listed>=2 # two\nrunpod-flash==99.0\n"
    programs.write({"requirements.txt": lines})
    done = programs.run(program(body))
    assert done.result == ["1.5", "2.5", runpod_flash.__file__], done


def test_the_working_directory_is_the_projects_root(programs: Programs) -> None:
    body = """
        @Endpoint(name="e", cpu=CPU)
        def look():
            return os.getcwd()

        async def main():
            return await look()
    """
    (programs.folder / "project" / "scripts").mkdir(parents=True)
    programs.write({"project/pyproject.toml": ""})
    elsewhere = programs.folder / "elsewhere"
    elsewhere.mkdir()
    for name, root in (("project/scripts/app.py", "project"), ("alone.py", ".")):
        script = programs.folder / name
        found = programs.run(program(body), name=name, arguments=[str(script)], cwd=elsewhere)
        assert found.result == str((programs.folder / root).resolve())


def test_undeclared_torch_of_a_gpu_function_is_added_and_said(tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(
        "def f():\n    import torch, torchvision\ndef g():\n    import json\n"
    )
    (tmp_path / "requirements.txt").write_text("numpy\n")
    said: list[str] = []

    def requirements(name: str, gpus: tuple[str, ...], *dependencies: str) -> tuple[str, ...]:
        entry = Entry("app", name, file="app.py", root=str(tmp_path))
        build = Build(code="0", dependencies=dependencies)
        spec = EndpointSpec("e", entry, build, Placement(gpus=gpus))
        return environment_request(spec, (), said.append).requirements

    assert requirements("f", ("any",)) == ("numpy", "torch", "torchvision")
    assert said == ["adds torch, torchvision, which it imports and does not declare"]
    assert requirements("f", ("any",), "torch>=2.4", "torchvision") == (
        "torch>=2.4",
        "torchvision",
        "numpy",
    )
    assert requirements("g", ("any",)) == requirements("f", ()) == ("numpy",)
    assert len(said) == 1


# Its share of the machine


def test_no_more_workers_than_cores_whatever_is_declared(programs: Programs) -> None:
    body = """
        use_node([], cores=2)

        @Endpoint(name="e", cpu=CPU, workers=(0, 10), scaler_type="REQUEST_COUNT", scaler_value=1)
        def work():
            time.sleep(0.2)
            return os.getpid()

        async def main():
            found = await asyncio.gather(*(work() for _ in range(12)))
            return len(set(found)), len(found)
    """
    done = programs.run(program(body))
    assert done.result == [2, 12]
    assert done.stderr.count("at most 2 of 10 workers: this machine has 2 cores") == 1, done


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a process's highest use")
def test_no_more_workers_than_fit_into_memory_by_the_most_that_one_has_taken(
    programs: Programs,
) -> None:
    body = """
        use_node([], cores=64, memory=500_000_000)

        @Endpoint(name="e", cpu=CPU, workers=(0, 10), scaler_type="REQUEST_COUNT", scaler_value=1)
        def work(megabytes):
            bytearray(b"x") * (megabytes * 10**6)  # taken and given back
            time.sleep(0.3)
            return os.getpid()

        async def main():
            await work(170)
            return len(set(await asyncio.gather(*(work(1) for _ in range(12)))))
    """
    done = programs.run(program(body))
    said = re.findall(r"at most (\d+) of 10 workers: (\d+) MB of memory is free and a worker of "
                      r"'e' takes (\d+) MB", done.stderr)  # fmt: skip
    assert said, done
    limit, free, takes = map(int, said[0])
    assert (limit, done.result) == (2, 2), done
    assert 170 < takes < 240
    # Said when one worker ran, or when a second one did already.
    assert min(abs(free - (500 - running * takes)) for running in (1, 2)) <= 2, done


# Old environments


def test_environments_beyond_the_bound_go_after_a_build_while_nobody_waits(
    tmp_path: Path,
) -> None:
    from behaviour.programs import Programs

    programs = Programs(tmp_path, tmp_path / "cache")
    body = """
        @Endpoint(name="e", cpu=CPU, dependencies=[sys.argv[1]] if sys.argv[1:] else [])
        def look():
            return sys.prefix

        async def main():
            print(await look(), flush=True)
            await asyncio.sleep(3600)
    """
    for name in ("first", "second"):
        make_wheel(tmp_path / "wheels", name, filler=2_000_000)
    programs.write({"requirements.txt": LOCAL_ONLY, "app.py": ""})
    built = tmp_path / "cache" / "flash" / "built"
    roomy, tight = {"FLASH_CACHE_MAX_GB": "1"}, {"FLASH_CACHE_MAX_GB": "0.003"}
    with programs.start(program(body), env=roomy) as nothing_installed:
        nothing_installed.until_printed(str(built))
    with programs.start(arguments=["app.py", "first"], env=roomy) as first:
        first.until_printed(str(built))
        with programs.start(arguments=["app.py", "second"], env=tight) as second:
            second.until_printed(str(built))
            used = {first.lines[0].strip(), second.lines[0].strip()}
            # What is in use stays, though it is more than the bound.
            second.until(lambda: {str(p) for p in built.iterdir() if p.is_dir()} == used)


def test_a_bound_that_is_no_number_is_refused_in_one_sentence(programs: Programs) -> None:
    body = """
        @Endpoint(name="e", cpu=CPU)
        def look():
            return 1

        async def main():
            for _ in range(2):
                try:
                    await look()
                except ValueError as error:
                    said = str(error)
            return said
    """
    done = programs.run(program(body), env={"FLASH_CACHE_MAX_GB": "a lot"})
    assert done.result == (
        "FLASH_CACHE_MAX_GB='a lot': give the gigabytes that environments may take, such as 20"
    )


@forks
def test_without_zygotes_each_worker_is_a_fresh_process(programs: Programs) -> None:
    starts = program(STARTS.replace("ENVIRONMENT", "{}"))
    done = programs.run(starts, env={"FLASH_ZYGOTES": "0"})
    assert not {*done.result} & {"flash-zygote", "flash-snapshot"}
    refused = programs.run(starts, env={"FLASH_ZYGOTES": "no"})
    assert "FLASH_ZYGOTES='no': give 0 to start each worker as a fresh process, or 1" in (
        refused.stderr
    )


def test_a_cache_that_cannot_be_written_is_named_with_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    spec = EndpointSpec("one", Entry("app", "f", file="app.py"), Build(code="0"))
    checking = check_machine(spec, tmp_path / "file" / "flash", "", print)
    with pytest.raises(EnvironmentBuildError, match=r"file/flash \(Not a directory\): .+XDG_CACHE"):
        asyncio.run(checking)
