"""Workers that are forks of a zygote: like fresh processes, and none is lost with one."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import itertools
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import textwrap
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import pytest

import runpod_flash
from behaviour.programs import MINORS, interpreters_once
from integration.test_launcher import Watcher, cmd, family, living, open_to_all, run, until
from runpod_flash.engines.local.processes import namespaces
from runpod_flash.engines.local.processes.launcher import Ahead, LaunchOrder, Mount
from runpod_flash.engines.local.processes.zygotes import ZygoteLauncher

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from runpod_flash.engines.local.processes.launcher import Process
    from runpod_flash.engines.local.processes.zygote_handle import Zygote

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux has zygotes")

HOME = Path(runpod_flash.__file__).parents[1]
SLEEP = "import time; time.sleep(1000)"
# All that a program can see of how it was started, but for what is each process's own.
REPORT = """
import gc, json, multiprocessing, os, signal, socket, sys, threading, traceback
def status(name):
    return [line for line in open("/proc/self/status") if line.startswith(name)]
main = sys.modules["__main__"]
print(json.dumps({
    "argv": sys.argv, "orig_argv": sys.orig_argv, "path": sys.path, "flags": str(sys.flags),
    "executable": sys.executable, "prefix": sys.prefix,
    "main": [main.__name__, main.__file__, main.__spec__ is None, type(main.__loader__).__name__],
    "own": vars(main) is globals(),
    "env": dict(os.environ), "cwd": os.getcwd(),
    "signals": [str(signal.getsignal(n)) for n in sorted(signal.valid_signals())],
    # (Without SigQ, which counts for all processes of the user.)
    "masks": [line for line in status("Sig") if not line.startswith("SigQ")],
    "capabilities": status("Cap"), "name": status("Name"),
    "files": [os.readlink(f"/proc/self/fd/{n}").split(":")[0] for n in range(4)],
    "others": [n for n in range(4, 200) if os.path.exists(f"/proc/self/fd/{n}")],
    "inheritable": os.get_inheritable(3), "blocking": os.get_blocking(3),
    "command": [word for word in open("/proc/self/cmdline").read().split(chr(0)) if word],
    "session": os.getsid(0) == os.getpid(), "affinity": sorted(os.sched_getaffinity(0)),
    "thread": threading.current_thread() is threading.main_thread(),
    "native": threading.main_thread().native_id == os.getpid(),
    "ident": multiprocessing.current_process().ident == os.getpid(),
    "collects": gc.isenabled(), "encoding": [sys.stdout.encoding, sys.stderr.errors],
    "own_files": open("/proc/self/environ", "rb").read(0).decode(),
    "process": multiprocessing.current_process().name,
}), flush=True)
"""


class Bench:
    """A launcher of Python scripts that import `modules` ahead."""

    def __init__(self, folder: Path, modules: tuple[str, ...], **options: Any) -> None:
        self.folder = folder
        self.launcher = ZygoteLauncher(**{"delay": 0, "idle": 300, **options})
        self.modules = modules
        self._links: list[socket.socket] = []

    async def start(self, code: str, **rest: Any) -> tuple[Process, Watcher]:
        order, watcher = self._order(code, **rest)
        return await self.launcher.launch(order, watcher), watcher

    async def expect(self, **rest: Any) -> None:
        order, _ = self._order("pass", **rest)
        order.link.close()
        await self.launcher.expect(order)

    def _order(
        self, code: str, env: dict[str, str] | None = None, **rest: Any
    ) -> tuple[LaunchOrder, Watcher]:
        # One file for each: a fork may read its own only after the next one was started.
        script = self.folder / f"script_{hashlib.sha256(code.encode()).hexdigest()[:8]}.py"
        script.write_text(code)
        ours, theirs = socket.socketpair()
        self._links.append(ours)
        watcher = Watcher(ours)
        ahead = Ahead(
            HOME,
            "runpod_flash.context",
            self.modules,
            rest.pop("folders", ()),
            rest.pop("learned", ()),
        )
        env = {"PYTHONPATH": str(self.folder), **(env or {})}
        argv = (rest.pop("python", sys.executable), str(script), "{link}", "word")
        cwd = rest.pop("cwd", self.folder)
        return LaunchOrder("w", argv, env, cwd, theirs, ahead=ahead, **rest), watcher

    async def lines(self, code: str, **rest: Any) -> list[str]:
        _, watcher = await self.start(code, **rest)
        assert await watcher.ended() == 0, watcher.lines
        return watcher.lines

    async def warm(self, **rest: Any) -> None:
        """Returns when the next worker will be a fork."""
        await self.lines("pass", **rest)
        (zygote,) = self.launcher._zygotes.values()
        await until(lambda: is_there(zygote) and zygote._coming is None)

    async def close(self) -> None:
        await self.launcher.close()
        for link in self._links:
            link.close()


@contextlib.asynccontextmanager
async def bench(folder: Path, *modules: str, **options: Any) -> AsyncIterator[Bench]:
    made = Bench(folder, modules, **options)
    try:
        yield made
    finally:
        await made.close()


def zygotes() -> list[psutil.Process]:
    children = living(psutil.Process().children())
    return [each for each in children if each.name() == "flash-zygote"]


def spares() -> list[psutil.Process]:
    """The processes below zygotes, where no worker is running."""
    return [child for zygote in zygotes() for child in zygote.children(recursive=True)]


def is_fork(process: Process) -> bool:
    """Whether the worker's minder is a zygote's."""
    minder = psutil.Process(process.pid).parent()
    assert minder is not None
    above = minder.parent()
    return above is not None and above.name() == "flash-zygote"


def module(folder: Path, name: str, source: str) -> str:
    (folder / f"{name}.py").write_text(textwrap.dedent(source))
    return name


# --- like a fresh process ------------------------------------------------------------------------


@pytest.mark.parametrize("minor", MINORS)
def test_a_fork_finds_itself_as_a_fresh_process_does(minor: str, tmp_path: Path) -> None:
    python = interpreters_once().get(minor)
    if python is None:
        pytest.skip(f"no Python {minor} here")

    async def body() -> None:
        env = {"A": "ä=ö", "RAW": "\udcff", "MULTI": "x\ny", "PYTHONASYNCIODEBUG": "1"}
        cpus = frozenset({max(os.sched_getaffinity(0))})
        async with bench(tmp_path) as b:
            fresh = await b.lines(REPORT, env=env, cpus=cpus, python=python)
            (zygote,) = b.launcher._zygotes.values()
            await until(lambda: is_there(zygote))
            forked = await b.lines(REPORT, env=env, cpus=cpus, python=python)
        assert json.loads(forked[0]) == json.loads(fresh[0])
        assert json.loads(forked[0])["env"]["A"] == "ä=ö"

    run(body())


def test_forks_have_their_own_variables_directory_and_random_numbers(tmp_path: Path) -> None:
    code = """
import os, random, tempfile, time, uuid
print(os.environ["MINE"], os.environ.get("OTHER"), os.getenv("TZ"), time.tzname[0])
print(random.random(), uuid.uuid4(), uuid.uuid1(), next(tempfile._get_candidate_names()))
"""

    async def body() -> None:
        async with bench(tmp_path, "random", "uuid", "tempfile") as b:
            await b.warm()
            first = await b.lines(code, env={"MINE": "1", "OTHER": "x", "TZ": "Asia/Tokyo"})
            second = await b.lines(code, env={"MINE": "2"})
        assert first[0] == "1 x Asia/Tokyo JST"
        assert second[0] == "2 None None UTC"
        assert not set(first[1].split()) & set(second[1].split())

    run(body())


def test_a_fork_ends_as_programs_do(tmp_path: Path) -> None:
    code = """
import atexit, sys, threading, time
atexit.register(print, "at exit")
def late():
    time.sleep(0.1)
    print("thread", end=" ")
threading.Thread(target=late).start()
sys.exit("bye")
"""

    async def body() -> None:
        async with bench(tmp_path) as b:
            await b.warm()
            _, watcher = await b.start(code)
            assert await watcher.ended() == 1
            assert sorted(watcher.lines) == ["bye", "thread at exit"]
            _, watcher = await b.start("def f():\n    1 / 0\nf()")
            assert await watcher.ended() == 1
            assert watcher.lines[-1] == "ZeroDivisionError: division by zero"
            assert "raise" not in "".join(watcher.lines)
            assert not [line for line in watcher.lines if "During handling" in line]

    run(body())


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_multiprocessing_works_in_a_fork(method: str, tmp_path: Path) -> None:
    code = f"""
import multiprocessing
def double(n):
    return 2 * n
if __name__ == "__main__":
    with multiprocessing.get_context({method!r}).Pool(2) as pool:
        print(pool.map(double, range(3)))
"""

    async def body() -> None:
        async with bench(tmp_path) as b:
            await b.warm()
            assert (await b.lines(code))[0] == "[0, 2, 4]"

    run(body())


def test_the_link_of_a_fork_works(tmp_path: Path) -> None:
    code = "import socket, sys; socket.socket(fileno=int(sys.argv[1])).sendall(b'hello')"

    async def body() -> None:
        async with bench(tmp_path) as b:
            await b.warm()
            for _ in range(20):
                _, watcher = await b.start(code)
                assert await watcher.ended() == 0, watcher.lines
                assert watcher.link.recv(10) == b"hello"

    run(body())


def test_what_was_imported_ahead_is_there(tmp_path: Path) -> None:
    module(tmp_path, "heavy", "import os\nBY = os.getpid()")

    async def body() -> None:
        async with bench(tmp_path, "heavy") as b:
            code = "import heavy, os; print(heavy.BY == os.getpid())"
            assert await b.lines(code) == ["True"]
            await b.warm()
            assert await b.lines(code) == ["False"]

    run(body())


def test_a_module_of_the_users_own_goes_before_what_was_imported_ahead(tmp_path: Path) -> None:
    async def body() -> None:
        project = tmp_path / "project"
        project.mkdir()
        async with bench(tmp_path, "colorsys", "html") as b:
            await b.warm()
            (project / "html").mkdir()  # of no effect: what has no __init__ is no rival
            process, _ = await b.start(SLEEP, folders=(project,))
            assert is_fork(process)
            module(project, "colorsys", "")
            process, _ = await b.start(SLEEP, folders=(project,))
            assert not is_fork(process)
            assert process.slow_start == ""

    run(body())


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"cwd": Path("/no/such")}, "the working directory /no/such"),
        ({"cpus": frozenset({1000})}, "the affinity to CPUs"),
        ({"env": {"A": "\0"}}, "embedded null"),
    ],
)
def test_an_order_that_cannot_be_done_is_no_fault_of_the_zygote(
    change: dict[str, Any], text: str, tmp_path: Path
) -> None:
    async def body() -> None:
        async with bench(tmp_path) as b:
            await b.warm()
            with pytest.raises(OSError, match=text):
                await b.start(SLEEP, **change)
            process, _ = await b.start(SLEEP)
            assert is_fork(process)

    run(body())


@pytest.mark.skipif(not namespaces.supported(), reason="no mount namespaces here")
def test_a_fork_sees_its_volume(tmp_path: Path) -> None:
    async def body() -> None:
        volume = tmp_path / "volume"
        volume.mkdir()
        async with bench(tmp_path) as b:
            await b.warm()
            code = (
                "import os; print(os.listdir('/runpod-volume'), os.getcwd(), flush=True)\n" + REPORT
            )
            mounts = (Mount(volume, "/runpod-volume"),)
            (volume / "weights").write_text("heavy")
            process, watcher = await b.start(f"{code}\n{SLEEP}", mounts=mounts)
            await until(lambda: len(watcher.lines) == 2)
            assert is_fork(process)
            assert watcher.lines[0] == f"['weights'] {tmp_path}"
            process, _ = await b.start(SLEEP, mounts=(Mount(volume, "relative"),))
            assert is_fork(process)
            assert "no place" in process.mounts_error

    run(body())


# --- what it has learned -------------------------------------------------------------------------


def test_learned_modules_are_there_and_one_that_is_absent_or_fails_does_no_harm(
    tmp_path: Path,
) -> None:
    module(tmp_path, "heavy", "import os\nBY = os.getpid()")
    module(tmp_path, "broken", "raise ValueError('no GPU')")

    async def body() -> None:
        async with bench(tmp_path) as b:
            learned = ("broken", "no_such_module", "heavy")
            await b.warm(learned=learned)
            code = "import heavy, os, sys; print(heavy.BY == os.getpid(), 'broken' in sys.modules)"
            assert await b.lines(code, learned=learned) == ["False False"]

    run(body())


def test_what_is_learned_later_is_there_from_then_on_and_no_worker_waits_for_it(
    tmp_path: Path,
) -> None:
    for name in ("first", "second"):
        module(tmp_path, name, "")
    code = "import sys; print([n for n in ('first', 'second') if n in sys.modules])"

    async def body() -> None:
        async with bench(tmp_path) as b:
            await b.warm(learned=("first",))
            learned = ("first", "second")
            assert await b.lines(code, learned=learned) == ["['first']"]
            (zygote,) = b.launcher._zygotes.values()
            await until(lambda: is_there(zygote) and zygote._coming is None)
            assert await b.lines(code, learned=learned) == ["['first', 'second']"]
            await until(lambda: len(zygotes()) == 1)

    run(body())


def test_a_learned_module_after_which_no_fork_is_safe_is_left_out(tmp_path: Path) -> None:
    module(tmp_path, "busy", "import _thread, time; _thread.start_new_thread(time.sleep, (99,))")
    module(tmp_path, "good", "")
    module(tmp_path, "uses", "import busy")

    async def body() -> None:
        async with bench(tmp_path) as b:
            learned = ("good", "uses", "busy", "busy.part")
            await b.warm(learned=learned)
            process, watcher = await b.start(
                "import sys; print('good' in sys.modules, 'busy' in sys.modules)", learned=learned
            )
            assert await watcher.ended() == 0
            assert watcher.lines == ["True False"]
            assert process.slow_start == ""
            assert sorted(process.left_out) == ["busy", "uses"]
            assert "2 threads run in the process to fork" in process.left_out["uses"]

    run(body())


def test_packages_see_the_variables_of_their_endpoint_when_they_are_imported(
    tmp_path: Path,
) -> None:
    module(tmp_path, "reads", "import os\nAT_IMPORT = os.environ.get('HOME_OF_IT')")
    code = "import reads; print(reads.AT_IMPORT)"

    async def body() -> None:
        async with bench(tmp_path) as b:
            for place in ("one", "two"):
                env = {"HOME_OF_IT": place}
                await b.lines("pass", env=env, learned=("reads",))
                await until(lambda: all(is_there(z) for z in b.launcher._zygotes.values()))
                own = {**env, "FLASH_WORKER_ID": "w-1"}
                assert await b.lines(code, env=own, learned=("reads",)) == [place]
            assert len(zygotes()) == 2

    run(body())


def test_forks_have_their_own_numpy_random_numbers_and_its_threads_are_no_obstacle(
    tmp_path: Path,
) -> None:
    pytest.importorskip("numpy")
    code = (
        "import sys; numpy = sys.modules['numpy']\n"
        "a = numpy.ones((300, 300))\n"
        "print(numpy.random.random(), (a @ a).sum() == 300**3)"
    )

    async def body() -> None:
        async with bench(tmp_path) as b:
            learned = ("numpy", "numpy.random")
            await b.warm(learned=learned)
            lines = [(await b.lines(code, learned=learned))[0].split() for _ in range(3)]
            assert len({number for number, _ in lines}) == 3
            assert {sum_is_right for _, sum_is_right in lines} == {"True"}

    run(body())


# --- when there is one ---------------------------------------------------------------------------


def test_no_worker_waits_for_a_zygote(tmp_path: Path) -> None:
    module(tmp_path, "slow", "import time; time.sleep(30)")

    async def body() -> None:
        async with bench(tmp_path, "slow") as b:
            await b.lines("pass")
            await until(lambda: bool(zygotes()))
            start = time.monotonic()
            process, _ = await b.start(SLEEP)
            assert not is_fork(process)
            assert time.monotonic() - start < 1
            closing = time.monotonic()
        assert time.monotonic() - closing < 1

    run(body())


def test_a_program_of_one_short_worker_has_no_zygote(tmp_path: Path) -> None:
    async def body() -> None:
        async with bench(tmp_path, delay=0.5) as b:
            await b.lines("pass")
            assert not zygotes()

    run(body())


def test_workers_with_other_conditions_have_another_zygote(tmp_path: Path) -> None:
    async def body() -> None:
        async with bench(tmp_path) as b:
            await b.warm()
            process, _ = await b.start(SLEEP, env={"ANY": "thing"})
            assert is_fork(process)
            process, watcher = await b.start(
                "import sys; print(sys.flags.optimize, flush=True)\n" + SLEEP,
                env={"PYTHONOPTIMIZE": "1"},
            )
            await until(lambda: watcher.lines == ["1"])
            assert not is_fork(process)
            await until(lambda: len(zygotes()) == 2)

    run(body())


def test_workers_in_other_folders_are_forks_of_the_same_zygote(tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    where = "import os; print(os.getcwd(), flush=True)\n" + SLEEP

    async def body() -> None:
        async with bench(tmp_path) as b:
            await b.warm()
            process, watcher = await b.start(where, cwd=other)
            await until(lambda: watcher.lines == [str(other)])
            assert is_fork(process)
            # Python starts there, and looks for modules in a folder below.
            process, watcher = await b.start(where, cwd=other, env={"PYTHONPATH": "below"})
            await until(lambda: watcher.lines == [str(other)])
            assert not is_fork(process)

    run(body())


def test_an_idle_zygote_ends_and_its_workers_do_not(tmp_path: Path) -> None:
    async def body() -> None:
        async with bench(tmp_path, idle=0.3) as b:
            await b.warm()
            process, watcher = await b.start("import os; os.read(3, 1); print('alive')")
            assert is_fork(process)
            (zygote,) = zygotes()
            await asyncio.sleep(0.5)
            assert not is_ready(b)
            watcher.link.sendall(b"x")
            assert await watcher.ended() == 0
            assert watcher.lines == ["alive"]
            await until(lambda: not living([zygote]))
            await b.warm()
            process, _ = await b.start(SLEEP)
            assert is_fork(process)

    run(body())


def tokens(b: Bench) -> list[str]:
    """The values of a variable that the launcher still knows."""
    return [dict(needed.env)["TOKEN"] for needed in b.launcher._zygotes]


def test_replaced_variables_are_forgotten_once_nothing_is_left_that_has_them(
    tmp_path: Path,
) -> None:
    module(tmp_path, "package", "")

    async def body() -> None:
        async with bench(tmp_path, idle=0.5) as b:
            rest: dict[str, Any] = {"env": {"TOKEN": "0"}, "learned": ("package",)}
            await b.lines("pass", **rest)
            await until(lambda: is_ready(b))
            process, watcher = await b.start("import os; os.read(3, 1)", **rest)
            assert is_fork(process)
            await until(lambda: not is_ready(b))
            await b.lines("pass", **{**rest, "env": {"TOKEN": "1"}})
            assert tokens(b) == ["0", "1"]  # a worker is there that has it
            watcher.link.sendall(b"x")
            assert await watcher.ended() == 0
            await until(lambda: is_ready(b))
            await until(lambda: not zygotes())
            await b.lines("pass", **{**rest, "env": {"TOKEN": "2"}})
            assert tokens(b) == ["2"]

    run(body())


def test_what_failed_with_some_variables_is_known_when_they_come_again(tmp_path: Path) -> None:
    module(tmp_path, "unfit", "raise ValueError('no GPU')")
    module(tmp_path, "package", "")

    async def body() -> None:
        async with bench(tmp_path, "unfit") as b:
            for token in "0", "1", "2":
                await b.lines("pass", env={"TOKEN": token}, learned=("package",))
                newest = list(b.launcher._zygotes.values())[-1]
                await until(lambda newest=newest: newest.unfit)  # type: ignore[misc]
            assert tokens(b) == ["0", "1", "2"]
            process, _ = await b.start("pass", env={"TOKEN": "0"}, learned=("package",))
            assert process.slow_start == "ValueError: no GPU"

    run(body())


def test_workers_with_other_variables_that_start_together_all_have_a_zygote(
    tmp_path: Path,
) -> None:
    module(tmp_path, "package", "")

    async def body() -> None:
        async with bench(tmp_path) as b:
            each = [{"env": {"TOKEN": str(n)}, "learned": ("package",)} for n in range(3)]
            await asyncio.gather(*(b.start("pass", **rest) for rest in each))
            await until(lambda: len(zygotes()) == 3)
            assert sorted(tokens(b)) == ["0", "1", "2"]
            await until(lambda: all(is_there(z) for z in b.launcher._zygotes.values()))

    run(body())


def test_only_as_many_stay_as_memory_is_given_those_used_last(tmp_path: Path) -> None:
    module(tmp_path, "large", "HELD = bytearray(60_000_000)")

    async def body() -> None:
        async with bench(tmp_path, max_bytes=100_000_000) as b:
            for n in range(2):
                await b.lines("pass", env={"N": str(n)}, learned=("large",))
                newest = list(b.launcher._zygotes.values())[-1]
                await until(lambda newest=newest: is_there(newest))  # type: ignore[misc]
            oldest = next(iter(b.launcher._zygotes.values()))
            assert not is_there(oldest)
            assert is_there(newest)
            await until(lambda: len(zygotes()) == 1)
        async with bench(tmp_path, max_bytes=50_000_000) as b:
            await b.lines("pass", learned=("large",))
            await until(lambda: any(z.unfit for z in b.launcher._zygotes.values()))
            process, watcher = await b.start("pass", learned=("large",))
            assert await watcher.ended() == 0
            assert "of memory to keep it ready" in process.slow_start

    run(body())


def test_where_workers_are_expected_the_first_one_is_a_fork(tmp_path: Path) -> None:
    module(tmp_path, "heavy", "")

    async def body() -> None:
        async with bench(tmp_path, delay=0.2) as b:
            await b.expect(learned=("heavy",))
            assert len(zygotes()) == 1
            process, _ = await b.start(SLEEP, learned=("heavy",))
            assert is_fork(process)

    run(body())


def test_one_that_is_only_expected_is_in_the_place_of_none_that_was_used(tmp_path: Path) -> None:
    module(tmp_path, "large", "HELD = bytearray(60_000_000)")

    async def body() -> None:
        async with bench(tmp_path, max_bytes=100_000_000) as b:
            await b.expect(env={"N": "0"}, learned=("large",))
            (first,) = b.launcher._zygotes.values()
            await b.lines("pass", env={"N": "1"}, learned=("large",))
            used = list(b.launcher._zygotes.values())[-1]
            await until(lambda: is_there(used))
            await b.expect(env={"N": "0"}, learned=("large",))
            await b.expect(env={"N": "2"}, learned=("large",))
            assert is_there(used)
            assert not is_there(first)
            await until(lambda: len(zygotes()) == 1)

    run(body())


def is_there(zygote: Zygote) -> bool:
    return zygote._current is not None


def is_ready(b: Bench) -> bool:
    return any(is_there(zygote) for zygote in b.launcher._zygotes.values())


# --- when it fails -------------------------------------------------------------------------------


def test_a_killed_zygote_is_replaced_and_no_worker_is_lost(tmp_path: Path) -> None:
    async def body() -> None:
        async with bench(tmp_path) as b:
            for _ in range(4):  # as often as one is of use, it may be lost
                await b.warm()
                process, watcher = await b.start("import os; os.read(3, 1); os._exit(7)")
                assert is_fork(process)
                for zygote in zygotes():
                    zygote.kill()
                assert await b.lines("print('next')") == ["next"]
                watcher.link.sendall(b"x")
                assert await watcher.ended() == 7
                assert process.slow_start == ""

    run(body())


@pytest.mark.parametrize("killed", ["minder", "zygote"])
def test_a_worker_whose_parent_is_killed_while_it_is_born_is_started_otherwise(
    killed: str, tmp_path: Path
) -> None:
    async def body() -> None:
        async with bench(tmp_path) as b:
            await b.warm()
            await until(lambda: len(spares()) == 2)
            (zygote,) = zygotes()
            victim = zygote.children()[0] if killed == "minder" else zygote
            victim.suspend()
            starting = asyncio.ensure_future(b.start(SLEEP))
            await asyncio.sleep(0.2)
            assert not starting.done()
            victim.kill()
            process, _ = await starting
            assert process.slow_start == ""
            await b.warm()
            process, _ = await b.start(SLEEP)
            assert is_fork(process)

    run(body())


def test_a_zygote_that_never_gets_ready_is_given_up(tmp_path: Path) -> None:
    module(tmp_path, "crash", "import os; os.kill(os.getpid(), 11)")

    async def body() -> None:
        async with bench(tmp_path, "crash") as b:
            for _ in range(20):
                process, watcher = await b.start("pass")
                assert await watcher.ended() == 0
                if process.slow_start:
                    break
                await asyncio.sleep(0.2)
            assert process.slow_start == "the process to fork ended 3 times by itself"

    run(body())


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        (
            "import _thread, time; _thread.start_new_thread(time.sleep, (99,))",
            "2 threads run in the process to fork",
        ),
        ("raise ValueError('no GPU')", "ValueError: no GPU"),
    ],
)
def test_what_cannot_be_imported_ahead_is_said_and_workers_start_afresh(
    source: str, reason: str, tmp_path: Path
) -> None:
    module(tmp_path, "unfit", source)
    module(tmp_path, "innocent", "")

    async def body() -> None:
        async with bench(tmp_path, "unfit") as b:
            await b.lines("pass", learned=("innocent",))
            (zygote,) = b.launcher._zygotes.values()
            await until(lambda: is_there(zygote) or bool(zygote.unfit))
            for _ in range(2):
                process, watcher = await b.start("print('fine')", learned=("innocent",))
                assert await watcher.ended() == 0
                assert watcher.lines == ["fine"]
                assert reason in process.slow_start
                assert not process.left_out
            await until(lambda: not zygotes())

    run(body())


def test_workers_that_start_together_and_after_their_spare_was_killed_are_all_there(
    tmp_path: Path,
) -> None:
    async def body() -> None:
        async with bench(tmp_path) as b:
            await b.warm()
            for _ in range(2):
                await until(lambda: len(spares()) == 2)
                started = await asyncio.gather(*(b.start(f"print({n})") for n in range(5)))
                for n, (process, watcher) in enumerate(started):
                    assert await watcher.ended() == 0
                    assert watcher.lines == [str(n)]
                    assert process.slow_start == ""
                await until(lambda: len(spares()) == 2)
                for spare in spares():
                    with contextlib.suppress(psutil.NoSuchProcess):  # it ends with its minder
                        spare.kill()

    run(body())


# --- nothing is left over ------------------------------------------------------------------------

PLANE = """
import asyncio, socket, sys
from pathlib import Path
from runpod_flash.engines.local.processes.launcher import Ahead, LaunchOrder, Mount
from runpod_flash.engines.local.processes.zygotes import ZygoteLauncher

class Events:
    def exited(self, exit): pass
    def output(self, worker_id, line): print("output", line, flush=True)

async def main():
    launcher = ZygoteLauncher(delay=0, idle=300)
    script, module, home, *volumes = sys.argv[1:]
    mounts = [Mount(Path(volume), "/runpod-volume") for volume in volumes]
    links = []
    for _ in range(2):
        ours, theirs = socket.socketpair()
        links.append(ours)
        env = {"PYTHONPATH": str(Path(script).parent)}
        ahead = Ahead(Path(home), "runpod_flash.context", (module,))
        argv = (sys.executable, script, "{link}")
        order = LaunchOrder("w", argv, env, Path("/"), theirs, mounts=mounts, ahead=ahead)
        process = await launcher.launch(order, Events())
        print("mounts", process.mounts_error, flush=True)
        await asyncio.sleep(1)
    print("ready", flush=True)
    await asyncio.sleep(1000)

asyncio.run(main())
"""


@pytest.mark.parametrize("source", ["", "import time; time.sleep(1000)"])
@pytest.mark.parametrize("killed", ["plane", "plane and zygote"])
def test_after_kill_9_of_the_plane_nothing_is_left(
    source: str, killed: str, tmp_path: Path
) -> None:
    module(tmp_path, "ahead", source)
    script = tmp_path / "script.py"
    script.write_text(f"import os\nif os.fork() == 0: os.setsid()\n{SLEEP}")
    env = {"PYTHONPATH": str(HOME), "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, "-c", PLANE, str(script), "ahead", str(HOME)]
    with subprocess.Popen(command, env=env, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert "ready\n" in process.stdout
        all_of_it = family(psutil.Process(process.pid))
        (zygote,) = [
            each for each in psutil.Process(process.pid).children() if "zygote.py" in str(cmd(each))
        ]
        # A worker, its child and its minder; a spare for the next worker, and its minder.
        forks = 0 if source else 5
        assert len(zygote.children(recursive=True)) == forks
        if killed != "plane":
            zygote.kill()
        process.send_signal(signal.SIGKILL)
        end = time.monotonic() + 3
        while living(all_of_it) and time.monotonic() < end:
            time.sleep(0.01)
        assert not living(all_of_it)


PRIVILEGES = """
import os, sys
forked = "runpod_flash" in sys.modules
capabilities = [line.split()[1] for line in open("/proc/self/status") if line.startswith("CapE")]
print(forked, capabilities, os.stat("/proc/self/environ").st_uid, os.listdir("/runpod-volume"))
"""


@pytest.mark.skipif(os.getuid() != 0, reason="only root may become another user")
def test_an_ordinary_users_fork_has_no_privileges_from_its_mount_view(tmp_path: Path) -> None:
    python = next(filter(open_to_all, (sys.executable, "/usr/bin/python3")), None)
    if python is None:
        pytest.skip("no Python here that every user may run and that is recent enough")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o777)
        (folder / "script.py").write_text(PRIVILEGES)
        command = [python, "-c", PLANE, str(folder / "script.py"), "json", str(HOME), name]
        env = {"PYTHONPATH": str(HOME), "PYTHONDONTWRITEBYTECODE": "1"}
        user: dict[str, Any] = {"user": 65534, "group": 65534, "extra_groups": []}
        with subprocess.Popen(
            command, env=env, stdout=subprocess.PIPE, text=True, **user
        ) as process:
            assert process.stdout is not None
            said = list(itertools.takewhile("ready\n".__ne__, process.stdout))
            process.kill()
    if "unshare" in said[0] or "uid_map" in said[0]:
        pytest.skip(said[0])
    fresh, forked = [line for line in said if line.startswith("output")]
    assert "True" in forked
    assert forked == fresh.replace("False", "True")
