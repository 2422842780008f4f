"""Workers that go on from a process which has imported their endpoint's module."""

from __future__ import annotations

import socket
import textwrap
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from behaviour.programs import FORKS
from runpod_flash.engines.local.processes.conditions import snapshot_key
from runpod_flash.engines.local.processes.launcher import Ahead, LaunchOrder, Mount, Snapshot

if TYPE_CHECKING:
    from behaviour.programs import Programs

linux = pytest.mark.skipif(not FORKS, reason="there are no snapshots")

# `again` ends a worker and waits until one goes on from a snapshot (or `by`), or for a while.
HEAD = """
import random, signal
from pathlib import Path
from runpod_flash import on_start

def made_by():
    minder = Path(f"/proc/{os.getppid()}/stat").read_text().rpartition(")")[2].split()
    return Path(f"/proc/{minder[1]}/comm").read_text().strip()

async def again(look, seconds=20.0, by="flash-snapshot"):
    end = time.monotonic() + seconds
    while True:
        seen = await look()
        if seen["by"] == by or time.monotonic() > end:
            return seen
        await asyncio.sleep(0.7)
        os.kill(seen["pid"], 9)
        await asyncio.sleep(0.2)
"""
MAIN = """
if __name__ == "__main__":
    print(json.dumps(asyncio.run(main())))
"""


def program(body: str) -> str:
    return HEAD + textwrap.dedent(body) + MAIN


@linux
def test_workers_go_on_from_what_their_module_has_made(programs: Programs) -> None:
    body = """
        LOADED_BY, STARTED = os.getpid(), []
        os.environ["SET_BY_MODULE"] = "kept"
        signal.signal(signal.SIGUSR1, lambda *_: STARTED.append("signal"))
        print("module runs")

        @on_start
        def begin():
            STARTED.append(os.getpid())

        @on_start
        async def then():
            await asyncio.sleep(0)
            STARTED.append("async")

        @Endpoint(name="e", cpu=CPU, env={"GIVEN": "value"})
        def look():
            os.kill(os.getpid(), signal.SIGUSR1)
            print("function runs")
            return {
                "pid": os.getpid(), "by": made_by(), "loaded_by": LOADED_BY, "started": STARTED,
                "env": [os.environ["SET_BY_MODULE"], os.environ["GIVEN"]],
                "worker": os.environ["FLASH_WORKER_ID"], "random": random.random(),
                "cwd": os.getcwd(), "path": sys.path[0],
                "main": sys.modules["__main__"].__file__.endswith("boot.py"),
            }

        async def main():
            first = await look()
            third, seen = None, await again(look)
            os.kill(seen["pid"], 9)
            await asyncio.sleep(0.2)
            return first, seen, await again(look)
    """
    done = programs.run(program(body))
    first, second, third = done.result
    assert first["loaded_by"] == first["pid"]
    for forked in (second, third):
        assert forked["by"] == "flash-snapshot"
        assert forked["loaded_by"] not in (first["pid"], forked["pid"])
    assert second["loaded_by"] == third["loaded_by"]
    for seen in (first, second, third):
        assert seen["started"][:2] == [seen["pid"], "async"]
        assert seen["env"] == ["kept", "value"]
        assert seen["main"]
        assert (seen["cwd"], seen["path"]) == (first["cwd"], first["path"])
    for unique in ("pid", "worker", "random"):
        assert len({seen[unique] for seen in (first, second, third)}) == 3
    # (Once by the program itself.) What it prints in a snapshot, no job has caused.
    assert "[e] function runs" in done.stderr


@linux
def test_what_a_job_raises_there_has_no_cause_in_flash(programs: Programs) -> None:
    body = """
        @Endpoint(name="e", cpu=CPU, env={"SECRET": "of-the-endpoint"})
        async def look(raises=False):
            if raises:
                raise LookupError("no such thing")
            return {"pid": os.getpid(), "by": made_by()}

        async def main():
            seen = await again(look)
            try:
                await look(raises=True)
            except LookupError as error:
                import traceback
                return seen, "".join(traceback.format_exception(error))
    """
    seen, text = programs.run(program(body)).result
    assert seen["by"] == "flash-snapshot"
    assert "no such thing" in text
    assert "During handling" not in text
    assert "of-the-endpoint" not in text


@linux
def test_a_killed_snapshot_is_replaced_and_no_job_fails(programs: Programs) -> None:
    body = """
        LOADED_BY = os.getpid()

        @Endpoint(name="e", cpu=CPU)
        def look():
            return {"pid": os.getpid(), "by": made_by(), "loaded_by": LOADED_BY}

        async def main():
            seen = await again(look)
            os.kill(seen["loaded_by"], 9)
            kept = await look()
            os.kill(kept["pid"], 9)
            await asyncio.sleep(0.2)
            fresh = await look()
            return seen, kept, fresh, await again(look)
    """
    seen, kept, fresh, new = programs.run(program(body)).result
    assert kept["pid"] == seen["pid"]
    assert fresh["by"] == "flash-zygote"
    assert new["by"] == "flash-snapshot"
    assert new["loaded_by"] != seen["loaded_by"]


@linux
@pytest.mark.parametrize(
    ("statement", "reason"),
    [
        ("import socket; HELD = socket.socket()", "it has socket:["),
        ("HELD = open('data.txt')", "data.txt open"),
        ("import _thread; _thread.start_new_thread(time.sleep, (999,))", "2 threads run"),
        ("import subprocess; HELD = subprocess.Popen(['sleep', '9'])", "it has started a process"),
    ],
)
def test_a_module_that_holds_what_cannot_be_shared_is_imported_by_each_worker(
    statement: str, reason: str, programs: Programs
) -> None:
    programs.write({"data.txt": "x"})
    body = f"""
        if __name__ != "__main__":
            {statement}

        @Endpoint(name="e", cpu=CPU)
        def look():
            return {{"pid": os.getpid(), "by": made_by()}}

        async def main():
            await again(look, by="flash-zygote")
            return await again(look, 3)
    """
    done = programs.run(program(body))
    assert done.result["by"] == "flash-zygote"
    assert done.stderr.count("e imports app.py anew in each worker") == 1
    assert reason in done.stderr


@linux
def test_without_flashboot_each_worker_imports_the_module_and_starts_as_well(
    programs: Programs,
) -> None:
    body = """
        LOADED_BY, STARTED = os.getpid(), []
        on_start(lambda: STARTED.append(1))

        @Endpoint(name="e", cpu=CPU, flashboot=False)
        def look():
            return {"pid": os.getpid(), "by": made_by(), "own": LOADED_BY == os.getpid(),
                    "started": STARTED}

        async def main():
            return await again(look, 4)
    """
    done = programs.run(program(body))
    assert done.result["own"]
    assert done.result["started"] == [1]
    assert "anew in each worker" not in done.stderr


@linux
def test_a_changed_file_is_imported_anew(programs: Programs) -> None:
    programs.write({"helper.py": "VALUE = 'old'"})
    body = """
        import helper

        @Endpoint(name="e", cpu=CPU)
        def look():
            return {"pid": os.getpid(), "by": made_by(), "value": helper.VALUE}

        async def main():
            old = await again(look)
            Path("helper.py").write_text("VALUE = 'new'")
            os.kill(old["pid"], 9)
            await asyncio.sleep(0.2)
            return old, await look(), await again(look)
    """
    old, new, later = programs.run(program(body)).result
    assert (old["value"], old["by"]) == ("old", "flash-snapshot")
    assert (new["value"], new["by"]) == ("new", "flash-zygote")
    assert (later["value"], later["by"]) == ("new", "flash-snapshot")


def test_a_worker_in_which_a_start_function_raises_does_not_start(programs: Programs) -> None:
    body = """
        @on_start
        def connect():
            raise ConnectionError("no database")

        @Endpoint(name="e", cpu=CPU)
        def look():
            return 1

        async def main():
            try:
                await look()
            except Exception as error:
                return str(error)
    """
    message = programs.run(program(body)).result
    assert "no worker of 'e' can start: app.py fails with ConnectionError: no database" in message


def order(**changes: Any) -> LaunchOrder:
    ours, theirs = socket.socketpair()
    ours.close()
    theirs.close()
    made = LaunchOrder(
        "w-1",
        ("/env/bin/python", "boot.py"),
        {"A": "1", "FLASH_WORKER_ID": "w-1", "CUDA_VISIBLE_DEVICES": "0"},
        Path("/project"),
        theirs,
        ahead=Ahead(Path("/home"), "program"),
        snapshot=Snapshot("e", {"code": "1"}),
    )
    return replace(made, **changes)


@linux
def test_only_workers_that_would_load_the_same_share_a_snapshot() -> None:
    key = snapshot_key(order())
    leased = {"CUDA_VISIBLE_DEVICES": "1", "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}
    own = {"A": "1", "FLASH_WORKER_ID": "w-2", **leased}
    assert snapshot_key(order(worker_id="w-2", env=own, cpus=frozenset({1}))) == key
    others = (
        {"env": {"A": "2"}},
        {"snapshot": Snapshot("e", {"code": "2"})},
        {"mounts": (Mount(Path("/v"), "/runpod-volume"),)},
        {"cwd": Path("/elsewhere")},
        {"user": (1, 1)},
    )
    assert len({key, *(snapshot_key(order(**other)) for other in others)}) == 6
    assert snapshot_key(order(snapshot=None)) == ""
