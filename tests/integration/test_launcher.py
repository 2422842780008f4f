"""Worker processes: started exactly as ordered, heard of in order, and never left over."""

# ruff: noqa: PTH208
from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import pytest

import runpod_flash
from runpod_flash.engines.local.processes import namespaces
from runpod_flash.engines.local.processes.fresh import FreshProcessLauncher
from runpod_flash.engines.local.processes.launcher import (
    LaunchOrder,
    Mount,
    Process,
    ProcessExit,
    describe,
)
from runpod_flash.engines.local.processes.lines import LINE_LIMIT

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine, Iterator

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")

SOURCE = str(Path(runpod_flash.__file__).parents[1])
PYTHON = (sys.executable, "-I", "-S", "-c")
SLEEP = "import time; time.sleep(1000)"
# Signals 32 and 33 are its own: what it spawns ignores them, and nothing can change that.
GLIBC_SIGNALS = 0b11 << 31

# A worker with a child in a session of its own and a daemon that left its tree.
TREE = """
import os, time
def sleep():
    os.write(1, b"up\\n")
    time.sleep(1000)
if os.fork() == 0:
    os.setsid()
    sleep()
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        sleep()
    os._exit(0)
os.wait()
"""

# A program that uses the launcher, to be killed from outside.
PLANE = """
import asyncio, os, socket, sys
from pathlib import Path
from runpod_flash.engines.local.processes.fresh import FreshProcessLauncher
from runpod_flash.engines.local.processes.launcher import LaunchOrder, Mount

class Events:
    def exited(self, exit):
        print("exited", exit.returncode, flush=True)
        done.set()
    def output(self, worker_id, line):
        print("output", line, flush=True)

async def launch(code, mounts=()):
    ours, theirs = socket.socketpair()
    links.append(ours)
    argv = (sys.executable, "-I", "-S", "-c", code)
    order = LaunchOrder("w", argv, {}, Path("/"), theirs, mounts=mounts)
    return await launcher.launch(order, Events())

async def main():
    global launcher, links, done
    launcher, links, done = FreshProcessLauncher(apart=apart), [], asyncio.Event()
    await body()

apart, code, extra = sys.argv[1] == "True", sys.argv[2], sys.argv[3:]
"""


class Watcher:
    """Takes down what is heard of one process."""

    def __init__(self, link: socket.socket) -> None:
        self.link = link
        self.lines: list[str] = []
        self.exit: ProcessExit | None = None
        self.lines_at_exit = 0

    def exited(self, exit: ProcessExit) -> None:
        assert self.exit is None
        self.exit = exit
        self.lines_at_exit = len(self.lines)

    def output(self, worker_id: str, line: str) -> None:
        assert worker_id == "w"
        self.lines.append(line)

    async def ended(self) -> int:
        await until(lambda: self.exit is not None)
        assert self.exit is not None
        assert self.exit.worker_id == "w"
        return self.exit.returncode


class Bench:
    """A launcher with what tests ask of it."""

    apart = False

    def __init__(self) -> None:
        self.launcher = FreshProcessLauncher(apart=self.apart)
        self._links: list[socket.socket] = []

    async def start(
        self, code: str | tuple[str, ...], env: dict[str, str] | None = None, **rest: Any
    ) -> tuple[Process, Watcher]:
        ours, theirs = socket.socketpair()
        self._links.append(ours)
        watcher = Watcher(ours)
        argv = (*PYTHON, code, "{link}") if isinstance(code, str) else code
        order = LaunchOrder("w", argv, env or {}, rest.pop("cwd", Path("/")), theirs, **rest)
        try:
            process = await self.launcher.launch(order, watcher)
        finally:
            assert theirs.fileno() == -1
        assert not watcher.lines
        assert watcher.exit is None
        return process, watcher

    async def output(self, code: str | tuple[str, ...], **rest: Any) -> list[str]:
        _, watcher = await self.start(code, **rest)
        assert await watcher.ended() == 0, watcher.lines
        return watcher.lines

    async def close(self) -> None:
        await self.launcher.close()
        for link in self._links:
            link.close()


@contextlib.asynccontextmanager
async def bench() -> AsyncIterator[Bench]:
    made = Bench()
    try:
        yield made
    finally:
        await made.close()


def run(test: Coroutine[Any, Any, None]) -> None:
    before = set(os.listdir("/proc/self/fd"))
    asyncio.run(test)
    assert not family(psutil.Process())
    assert set(os.listdir("/proc/self/fd")) == before


async def until(condition: Callable[[], bool], limit: float = 5.0) -> None:
    end = time.monotonic() + limit
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        await asyncio.sleep(0.005)


def living(processes: list[psutil.Process]) -> list[psutil.Process]:
    def lives(process: psutil.Process) -> bool:
        try:
            return bool(process.status() != psutil.STATUS_ZOMBIE)
        except psutil.NoSuchProcess:
            return False

    return [process for process in processes if process.is_running() and lives(process)]


def family(process: psutil.Process) -> list[psutil.Process]:
    return living(process.children(recursive=True))


def named(name: str) -> list[psutil.Process]:
    return [process for process in family(psutil.Process()) if process.name() == name]


def supervisor() -> psutil.Process:
    (found,) = [child for child in psutil.Process().children() if "supervise.py" in str(cmd(child))]
    return found


def cmd(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []


@contextlib.contextmanager
def plane(
    body: str, code: str = SLEEP, *extra: str, **options: Any
) -> Iterator[subprocess.Popen[str]]:
    """A running program that uses the launcher; killed at the end, with all below it."""
    program = PLANE + body + "\nasyncio.run(main())\n"
    process = subprocess.Popen(
        [options.pop("executable", sys.executable), "-c", program, str(Bench.apart), code, *extra],
        stdout=subprocess.PIPE,
        text=True,
        env={"PYTHONPATH": SOURCE, "PYTHONDONTWRITEBYTECODE": "1"},
        **options,
    )
    try:
        yield process
    finally:
        with contextlib.suppress(psutil.NoSuchProcess):
            for left in family(psutil.Process(process.pid)):
                left.kill()
        process.kill()
        process.communicate()


def expect(process: subprocess.Popen[str], *lines: str) -> None:
    assert process.stdout is not None
    assert [process.stdout.readline().strip() for _ in lines] == list(lines)


@pytest.fixture(autouse=True)
def apart(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether workers are in namespaces of their own."""
    wanted = bool(getattr(request, "param", False))
    if wanted and (refusal := namespaces.apart_refusal()):
        pytest.skip(refusal)
    monkeypatch.setattr(Bench, "apart", wanted)


either = pytest.mark.parametrize("apart", [False, True], indirect=True, ids=["", "apart"])

# --- as ordered ----------------------------------------------------------------------------------


def test_environment_and_directory_are_exactly_as_ordered(tmp_path: Path) -> None:
    async def body() -> None:
        env = {"A": "1", "UMLAUT": "ä=ö", "RAW": "\udcff", "EMPTY": "", "MULTI": "x\ny"}
        code = "import os; print(open('/proc/self/environ', 'rb').read()); print(os.getcwd())"
        async with bench() as b:
            environ, cwd = await b.output(code, env=env, cwd=tmp_path)
        expected = b"".join(os.fsencode(f"{k}={v}") + b"\0" for k, v in env.items())
        assert environ == repr(expected)
        assert cwd == str(tmp_path)

    run(body())


def test_an_environment_larger_than_any_socket_buffer_arrives() -> None:
    async def body() -> None:
        env = {f"V{n}": "x" * 100_000 for n in range(10)}
        async with bench() as b:
            lines = await b.output("import os; print(sum(map(len, os.environ.values())))", env=env)
        assert int(lines[0]) >= 1_000_000

    run(body())


@either
def test_a_worker_holds_its_link_and_standard_streams_and_no_other_descriptor() -> None:
    async def body() -> None:
        code = """
import os, socket, sys
for fd in range(64):
    try: os.fstat(fd)
    except OSError: continue
    print(fd, os.readlink(f"/proc/self/fd/{fd}").split(":")[0])
socket.socket(fileno=int(sys.argv[1])).sendall(b"hello")
"""
        with tempfile.TemporaryFile() as lock:
            async with bench() as b:
                await b.start(SLEEP, held=(lock.fileno(),))
                _, watcher = await b.start(code, held=(lock.fileno(),))
                assert await watcher.ended() == 0
                assert watcher.link.recv(10) == b"hello"
        assert watcher.lines == ["0 /dev/null", "1 pipe", "2 pipe", "3 socket"]

    run(body())


@either
def test_a_worker_starts_with_default_signals_in_its_own_session() -> None:
    async def body() -> None:
        code = "import os; print(os.getsid(0) == os.getpid())"
        cat = ("/bin/grep", "-E", "^Sig(Blk|Ign)", "/proc/self/status")
        # What the plane's thread blocks must not reach workers, nor deafen the supervisor.
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGCHLD, signal.SIGTERM])
        try:
            async with bench() as b:
                status = await b.output(cat)
                assert await b.output(code) == ["True"]
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGCHLD, signal.SIGTERM])
        held = [int(line.split()[1], 16) & ~GLIBC_SIGNALS for line in status]
        assert held == [0, 0], status

    run(body())


def test_a_worker_runs_on_the_cpus_it_was_given() -> None:
    async def body() -> None:
        cpu = max(os.sched_getaffinity(0))
        code = "import os; print(os.sched_getaffinity(0))"
        async with bench() as b:
            assert await b.output(code, cpus=frozenset({cpu})) == [str({cpu})]
            assert await b.output(code) == [str(os.sched_getaffinity(0))]

    run(body())


@pytest.mark.parametrize(
    ("change", "number", "text"),
    [
        ({"code": ("/no/such/program",)}, errno.ENOENT, "the program /no/such/program"),
        ({"code": ("/etc",)}, errno.EACCES, "the program /etc"),
        ({"cwd": Path("/no/such")}, errno.ENOENT, "the working directory /no/such"),
        ({"cpus": frozenset({1000})}, errno.EINVAL, "the affinity to CPUs [1000]"),
        ({"env": {"A": "\0"}}, errno.EINVAL, "embedded null"),
    ],
)
def test_a_launch_that_fails_says_why(change: dict[str, Any], number: int, text: str) -> None:
    async def body() -> None:
        async with bench() as b:
            with pytest.raises(OSError, match="worker w could not be started") as caught:
                await b.start(**{"code": SLEEP, **change})
            assert caught.value.errno == number
            assert text in str(caught.value)
            assert await b.output("print('fine')") == ["fine"]

    run(body())


@either
def test_a_hundred_workers_start_at_once() -> None:
    async def body() -> None:
        async with bench() as b:
            results = await asyncio.gather(*(b.output(("/bin/echo", str(n))) for n in range(100)))
            assert results == [[str(n)] for n in range(100)]

    run(body())


# --- output and exits ----------------------------------------------------------------------------


def test_output_arrives_in_order_and_complete_before_the_exit() -> None:
    async def body() -> None:
        code = """
import os
for n in range(20000): os.write(1 + n % 2, b"line %d\\n" % n)
os.write(2, b"bad \\xff byte\\n\\n")
os.write(1, b"no newline")
"""
        async with bench() as b:
            _, watcher = await b.start(code)
            await watcher.ended()
        expected = [f"line {n}" for n in range(20000)]
        assert watcher.lines == [*expected, "bad \ufffd byte", "", "no newline"]
        assert watcher.lines_at_exit == len(watcher.lines)

    run(body())


def test_lines_without_end_come_in_parts() -> None:
    async def body() -> None:
        code = f"import sys; sys.stdout.write('x' * {LINE_LIMIT * 3} + '\\n' + 'y' * 5)"
        async with bench() as b:
            lines = await b.output(code)
        assert [len(line) for line in lines] == [LINE_LIMIT, LINE_LIMIT, LINE_LIMIT, 5]

    run(body())


@either
@pytest.mark.parametrize(
    ("code", "returncode", "phrase"),
    [
        ("pass", 0, "exited with code 0"),
        ("raise SystemExit(3)", 3, "exited with code 3"),
        ("import os; os.kill(os.getpid(), 11)", -11, "crashed with SIGSEGV"),
        ("import os; os.kill(os.getpid(), 15)", -15, "was killed by SIGTERM"),
        ("import os; os.kill(os.getpid(), 9)", -9, "was killed by SIGKILL (out of memory?)"),
        ("import os; os.kill(os.getpid(), 40)", -40, "was killed by signal 40"),
    ],
)
def test_how_a_worker_ended_is_told(code: str, returncode: int, phrase: str) -> None:
    async def body() -> None:
        async with bench() as b:
            _, watcher = await b.start(code)
            assert await watcher.ended() == returncode
            assert describe(returncode) == phrase

    run(body())


# --- nothing is left over ------------------------------------------------------------------------


@either
def test_kill_ends_a_worker_and_all_its_descendants() -> None:
    async def body() -> None:
        async with bench() as b:
            process, watcher = await b.start(TREE + SLEEP)
            await until(lambda: len(watcher.lines) == 2)
            processes = family(psutil.Process(process.pid).parent() or psutil.Process())
            assert len(processes) == 3
            process.kill()
            assert await watcher.ended() == -9
            assert not living(processes)
            process.kill()  # harmless

    run(body())


@either
def test_a_workers_exit_ends_its_orphans_before_it_is_reported() -> None:
    async def body() -> None:
        async with bench() as b:
            process, watcher = await b.start(TREE + "import sys; sys.stdin.read(); os.read(3, 1)")
            await until(lambda: len(watcher.lines) == 2)
            processes = family(psutil.Process(process.pid).parent() or psutil.Process())
            watcher.link.sendall(b"x")
            assert await watcher.ended() == 0
            assert len(processes) == 3
            assert not living(processes)

    run(body())


@either
def test_a_living_workers_daemon_is_left_alone() -> None:
    async def body() -> None:
        async with bench() as b:
            process, watcher = await b.start(TREE + SLEEP)
            await until(lambda: len(watcher.lines) == 2)
            minder = psutil.Process(process.pid).parent()
            assert minder is not None
            daemons = [child for child in minder.children() if child.pid != process.pid]
            # A worker that ends elsewhere, and is cleared away, concerns nobody here.
            assert await b.output("print('other')") == ["other"]
            await asyncio.sleep(0.1)
            assert len(daemons) == 1
            assert living(daemons)

    run(body())


@pytest.mark.parametrize("children", ["none", "that let go", "that hold on"])
def test_after_kill_9_of_the_plane_nothing_is_left(children: str) -> None:
    body = f"""
async def body():
    await launch(code)
    if "{children}" == "that let go":
        os.register_at_fork(after_in_child=launcher.close_in_child)
    if "{children}" != "none" and os.fork() == 0:
        signal.pause()
    await asyncio.sleep(1000)
"""
    with plane("import signal\n" + body, TREE + SLEEP) as process:
        expect(process, "output up", "output up")
        forked = [] if children == "none" else [1]
        top = psutil.Process(process.pid)
        deadline = time.monotonic() + 5
        while len(family(top)) != 5 + len(forked) and time.monotonic() < deadline:
            time.sleep(0.005)
        ours = [each for each in family(top) if cmd(each) != cmd(top)]
        theirs = [each for each in family(top) if cmd(each) == cmd(top)]
        assert len(ours) == 5, [cmd(each) for each in ours]  # supervisor, minder, worker, 2 below
        assert len(theirs) == len(forked)
        try:
            start = time.monotonic()
            process.kill()
            while living(ours) and time.monotonic() < start + 2:
                time.sleep(0.005)
            assert not living(ours)
            assert len(living(theirs)) == len(forked)
        finally:
            for each in theirs:
                each.kill()


def test_a_forked_child_that_let_go_does_not_touch_the_parents_workers() -> None:
    body = """
async def body():
    await launch(code)
    pid = os.fork()
    if pid == 0:
        launcher.close_in_child()
        links[0].close()
        try:
            await launch(code)
        except OSError as error:
            os._exit(0 if "is closed" in str(error) else 1)
        os._exit(2)
    print(os.waitpid(pid, 0)[1], flush=True)
    links[0].sendall(b"x")
    await done.wait()
    await launcher.close()
"""
    with plane(body, "import os; os.read(3, 1); print('still here')") as process:
        expect(process, "0", "output still here", "exited 0")
        assert process.wait(5) == 0


@either
def test_workers_outlive_a_killed_supervisor_and_are_still_heard_of() -> None:
    async def body() -> None:
        async with bench() as b:
            _, watcher = await b.start(TREE + "import os; os.read(3, 1); os._exit(7)")
            await until(lambda: len(watcher.lines) == 2)
            (minder,) = named("flash-minder")
            processes = minder.children(recursive=True)
            first = supervisor()
            first.kill()
            assert await b.output("print('next')") == ["next"]
            assert supervisor() != first
            assert len(living(processes)) == 3
            watcher.link.sendall(b"x")
            assert await watcher.ended() == 7
            assert not living(processes)

    run(body())


@either
def test_after_kill_9_of_supervisor_and_plane_nothing_is_left() -> None:
    with plane(
        "async def body():\n await launch(code)\n await asyncio.sleep(1000)", TREE + SLEEP
    ) as p:
        expect(p, "output up", "output up")
        deadline = time.monotonic() + 2  # the daemon's parent may still be ending
        while len(processes := family(psutil.Process(p.pid))) != 5:
            assert time.monotonic() < deadline, processes
            time.sleep(0.005)
        (top,) = psutil.Process(p.pid).children()
        top.kill()
        p.kill()
        deadline = time.monotonic() + 2
        while living(processes) and time.monotonic() < deadline:
            time.sleep(0.005)
        assert not living(processes)


@either
def test_a_killed_minders_worker_dies_even_where_the_supervisor_was_killed_before() -> None:
    async def body() -> None:
        async with bench() as b:
            process, watcher = await b.start(SLEEP)
            worker = psutil.Process(process.pid)
            (minder,) = named("flash-minder")
            supervisor().kill()
            minder.kill()
            assert await watcher.ended() == -9
            await until(lambda: not living([worker]))

    run(body())


@either
def test_a_worker_that_forks_without_pause_is_ended() -> None:
    async def body() -> None:
        # Each process forks the next and ends: what is listed is gone when it is killed.
        code = "import os\nos.write(1, b'up\\n')\nwhile True:\n if os.fork(): os._exit(0)\n"
        async with bench() as b:
            process, watcher = await b.start(
                f"import os\nif os.fork() == 0:\n exec({code!r})\n{SLEEP}"
            )
            await until(lambda: watcher.lines == ["up"])
            start = time.monotonic()
            process.kill()
            assert await watcher.ended() == -9
            assert time.monotonic() - start < 2

    run(body())


@either
def test_a_killed_minders_worker_and_its_orphans_die_and_are_reported() -> None:
    async def body() -> None:
        async with bench() as b:
            _, other = await b.start(SLEEP)
            (others_minder,) = named("flash-minder")
            with tempfile.NamedTemporaryFile() as file:
                lock = locked(file.name)
                _, watcher = await b.start(TREE + SLEEP, held=(lock,))
                os.close(lock)
                await until(lambda: len(watcher.lines) == 2)
                (minder,) = [m for m in named("flash-minder") if m != others_minder]
                processes = minder.children(recursive=True)
                assert len(processes) == 3
                minder.kill()
                assert await watcher.ended() == -9
                assert not living(processes)
                os.close(locked(file.name))
            assert other.exit is None
            assert living([others_minder])

    run(body())


def locked(path: str) -> int:
    """A new descriptor with an exclusive lock; raises BlockingIOError when another has it."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(fd)
        raise
    return fd


@either
def test_a_held_lock_is_free_exactly_when_all_of_the_worker_is_gone(tmp_path: Path) -> None:
    async def body() -> None:
        path = str(tmp_path / "gpu0.lock")
        async with bench() as b:
            for _ in range(20):
                lock = locked(path)
                process, watcher = await b.start(TREE + SLEEP, held=(lock,))
                os.close(lock)
                # Started while the lock is held, and outliving it: it must not keep it.
                await b.start(SLEEP)
                await until(lambda w=watcher: len(w.lines) == 2)  # type: ignore[misc]
                with pytest.raises(BlockingIOError):
                    locked(path)
                process.kill()
                await watcher.ended()
                os.close(locked(path))

    run(body())


@either
def test_a_lock_outlives_its_plane_until_the_worker_is_gone(tmp_path: Path) -> None:
    path = str(tmp_path / "lock")
    body = """
async def body():
    lock = os.open(extra[0], os.O_RDWR | os.O_CREAT)
    fcntl.flock(lock, fcntl.LOCK_EX)
    _, theirs = socket.socketpair()
    links.append(_)
    argv = (sys.executable, "-c", code)
    await launcher.launch(LaunchOrder("w", argv, {}, Path("/"), theirs, held=(lock,)), Events())
    await asyncio.sleep(1000)
"""
    with plane("import fcntl\n" + body, "print('up', flush=True);" + SLEEP, path) as process:
        expect(process, "output up")
        workers = family(psutil.Process(process.pid))[-1:]
        process.kill()
        while True:
            held = bool(living(workers))
            try:
                os.close(locked(path))
                break
            except BlockingIOError:
                assert held or not living(workers)
                time.sleep(0.001)
        assert not living(workers)


def test_closing_the_launcher_ends_and_reports_every_worker() -> None:
    async def body() -> None:
        async with bench() as b:
            watchers = [(await b.start(TREE + SLEEP))[1] for _ in range(5)]
            await b.launcher.close()
            assert [watcher.exit for watcher in watchers] == [ProcessExit("w", -9)] * 5
            with pytest.raises(OSError, match="closed"):
                await b.start(SLEEP)

    run(body())


@either
def test_a_cancelled_launch_leaves_nothing_and_says_nothing() -> None:
    async def body() -> None:
        async with bench() as b:
            await b.output("pass")
            for delay in (0, 0.0005, 0.001, 0.002, 0.004):
                with contextlib.suppress(asyncio.TimeoutError, TimeoutError):
                    process, _ = await asyncio.wait_for(b.start(SLEEP), delay)
                    process.kill()
                await until(lambda: len(family(supervisor())) == 0)

    run(body())


# --- the mount view ------------------------------------------------------------------------------

LOOK = """
import os
print(sorted(os.listdir("/")), os.getcwd(), os.getuid(), sep="\\n")
open("/runpod-volume/result", "w").write("kept")
print(open("/runpod-volume/weights").read(), os.path.exists("/usr/bin"))
print([line.split()[4] for line in open("/proc/self/mountinfo")].count("/"))
"""


@pytest.fixture
def volume() -> Iterator[Path]:
    # Not below pytest's own folder, which only its owner may enter.
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o777)
        (folder / "weights").write_text("heavy")
        yield folder


def open_to_all(python: str) -> bool:
    """Whether an ordinary user may run this interpreter, and it can load this package."""
    with contextlib.suppress(OSError):
        load = "import runpod_flash.engines.local.processes.fresh"
        command = [python, "-I", "-B", "-c", f"import sys; sys.path.insert(0, {SOURCE!r}); {load}"]
        return subprocess.run(command, user=65534, group=65534, check=False).returncode == 0
    return False


def check_view(lines: list[str], before: list[str], uid: int, volume: Path) -> None:
    entries = sorted({*before, "runpod-volume"})
    assert lines[:3] == [str(entries), lines[1], str(uid)]
    assert lines[3] == "heavy True"
    assert lines[4] == "1"  # the old root is not below the new one
    assert (volume / "result").read_text() == "kept"
    assert sorted(os.listdir("/")) == before
    assert str(volume) not in Path("/proc/self/mountinfo").read_text()


@pytest.mark.skipif(not namespaces.supported(), reason="no mount namespaces here")
def test_a_worker_sees_its_volume_and_the_machine_stays_as_it_was(volume: Path) -> None:
    async def body() -> None:
        before = sorted(os.listdir("/"))
        async with bench() as b:
            mounts = (Mount(volume, "/runpod-volume"),)
            process, watcher = await b.start(LOOK, mounts=mounts, cwd=volume)
            assert process.mounts_error == ""
            assert await watcher.ended() == 0, watcher.lines
        assert watcher.lines[1] == str(volume)
        check_view(watcher.lines, before, os.getuid(), volume)

    run(body())


@either
@pytest.mark.skipif(os.getuid() != 0, reason="only root may become another user")
def test_an_ordinary_user_gets_a_mount_view_as_well(volume: Path) -> None:
    before = sorted(os.listdir("/"))
    body = """
async def body():
    process = await launch(code, (Mount(Path(extra[0]), "/runpod-volume"),))
    print(process.mounts_error, flush=True)
    await done.wait()
    await launcher.close()
"""
    user = {"user": 65534, "group": 65534, "extra_groups": []}
    python = next(filter(open_to_all, (sys.executable, "/usr/bin/python3")), None)
    if python is None:
        pytest.skip("no Python here that every user may run and that is recent enough")
    with plane(body, LOOK, str(volume), executable=python, **user) as process:
        assert process.stdout is not None
        refusal, *lines = process.stdout.read().splitlines()
    if "unshare" in refusal or "uid_map" in refusal:
        pytest.skip(refusal)
    assert refusal == ""
    assert lines[-1] == "exited 0", lines
    check_view([line.removeprefix("output ") for line in lines], before, 65534, volume)


def test_a_worker_starts_without_mounts_where_they_fail_and_says_so(tmp_path: Path) -> None:
    async def body() -> None:
        async with bench() as b:
            for target, reason in (("/usr/none/x", "no directory"), ("relative", "no place")):
                process, watcher = await b.start("pass", mounts=(Mount(tmp_path, target),))
                assert process.mounts_error.startswith("the mount view")
                assert reason in process.mounts_error
                assert await watcher.ended() == 0

    run(body())


def test_starting_a_worker_takes_milliseconds(capsys: pytest.CaptureFixture[str]) -> None:
    async def body() -> None:
        launched, answered = [], []
        async with bench() as b:
            await b.output("pass")
            for _ in range(20):
                start = time.perf_counter()
                _, watcher = await b.start("import os; os.write(3, b'x')")
                launched.append(time.perf_counter() - start)
                watcher.link.setblocking(False)
                await asyncio.get_running_loop().sock_recv(watcher.link, 1)
                answered.append(time.perf_counter() - start)
                await watcher.ended()
        with capsys.disabled():
            figures = [f"{1000 * statistics.median(each):.1f}" for each in (launched, answered)]
            print(f"\nlaunch: {figures[0]} ms, first byte: {figures[1]} ms")
        assert statistics.median(answered) < 0.5

    run(body())
