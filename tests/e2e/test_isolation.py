"""Apps on one server: what a worker of one finds when it looks for the other's data."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from tempfile import NamedTemporaryFile, TemporaryDirectory
from typing import TYPE_CHECKING, Any

import httpx
import psutil
import pytest

from behaviour.programs import FORKS, Programs
from behaviour.servers import server
from integration.wheels import make_wheel
from runpod_flash.engines.local.processes import namespaces
from unit.command_line import MAIN

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from behaviour.programs import Program
    from behaviour.servers import Target

pytestmark = pytest.mark.skipif(
    bool(namespaces.apart_refusal()), reason="this system does not permit it"
)

# Leaves something at every place where its worker can, then stays until it is told to end.
VICTIM = """
import asyncio
from runpod_flash import NetworkVolume

async def stay():
    with open("/runpod-volume/weights", "w") as file:
        file.write("secret weights")
    for place in ("~/mine", "/tmp/mine", "/dev/shm/mine"):
        with open(os.path.expanduser(place), "w") as file:
            file.write("secret notes")
    print("a secret line", flush=True)
    yield {"volume": os.environ["FLASH_VOLUME_PATH"], "code": os.getcwd(), "uid": os.getuid()}
    await asyncio.sleep(600)

victim = Endpoint(
    name="victim", cpu=CPU, workers=(0, 1), env={"TOKEN": "a-secret-value"},
    volume=NetworkVolume(name="weights", size=10),
)(stay)

async def main():
    job = await victim.run()
    async for chunk in job.stream():
        print(json.dumps(chunk), flush=True)

if __name__ == "__main__":
    asyncio.run(main())
"""
# Does what it is told, with a worker's rights, and says how that ended.
ROGUE = """
import pathlib, subprocess, urllib.request

def attempt(what):
    try:
        return eval(what)
    except Exception as error:
        return f"{type(error).__name__}: {error}"

@Endpoint(name="rogue", cpu=CPU)
def rogue(attempts):
    return {name: attempt(what) for name, what in attempts.items()}

if __name__ == "__main__":
    print(json.dumps(rogue.call(json.loads(pathlib.Path("attempts.json").read_text()))))
"""


@pytest.fixture
def victim(tmp_path: Path, shared_cache: Path, target: Target) -> Iterator[dict[str, Any]]:
    """What a program's worker that runs now says of itself, and its process."""
    programs = Programs(tmp_path / "victim", shared_cache, target=target)
    with programs.start(VICTIM) as program:
        said = json.loads(_first_line(program))
        yield {**said, "pid": _worker("victim", target).pid}
        program.interrupt()
        program.finish()


def test_a_rogue_worker_finds_nothing_of_another_app(
    tmp_path: Path, shared_cache: Path, target: Target, victim: dict[str, Any]
) -> None:
    data, pid, home = target.data, victim["pid"], target.home
    attempts = {
        "data": f"os.listdir({str(data)!r})",
        "apps": f"len(os.listdir({str(data / 'apps')!r}))",
        "store": f"open({str(data / 'flash.db')!r}, 'rb').read()",
        "logs": f"os.listdir({str(data / 'logs')!r})",
        "code": f"os.listdir({victim['code']!r})",
        "homes": f"os.listdir({str(data / 'homes')!r})",
        "keys": f"os.listdir({str(home / '.local/state/flash/keys')!r})",
        "volume": f"os.listdir({victim['volume']!r})",
        "mounted": "os.listdir('/runpod-volume')",
        "environment": f"open('/proc/{pid}/environ', 'rb').read()",
        "signal": f"os.kill({pid}, 0)",
        "processes": "len([name for name in os.listdir('/proc') if name.isdigit()])",
        "home": "os.path.exists(os.path.expanduser('~/mine'))",
        "temporary": "os.path.exists('/tmp/mine')",
        "shared": "os.path.exists('/dev/shm/mine')",
        "uncover": "subprocess.run(['umount', '/tmp'], capture_output=True).returncode != 0",
        "minder": "open('/proc/1/environ', 'rb').read()",
        "http_logs": f"urllib.request.urlopen('{target.address}/v2/flash/logs').read()",
        "http_worker": f"urllib.request.urlopen('{target.address}/v2/serverless/victim/logs')",
    }
    programs = Programs(tmp_path / "rogue", shared_cache, target=target, residents=True)
    programs.write({"attempts.json": json.dumps(attempts)})
    found = programs.run(ROGUE).result
    gone = "FileNotFoundError"
    assert found.pop("data") == ["apps"], "its own code is there"
    assert found.pop("apps") == 1
    for name in ("store", "logs", "code", "homes", "keys", "volume", "mounted"):
        assert found.pop(name).startswith(gone), name
    assert found.pop("environment").startswith(gone)
    assert found.pop("signal").startswith("ProcessLookupError")
    assert found.pop("processes") == 2, "its minder and itself"
    assert found.pop("minder").startswith("PermissionError")
    assert [found.pop(name) for name in ("home", "temporary", "shared")] == [False] * 3
    assert found.pop("uncover")
    assert found.pop("http_logs").startswith("HTTPError: HTTP Error 401")
    assert found.pop("http_worker").startswith("HTTPError: HTTP Error 401")
    assert found == {}
    assert psutil.Process(pid).is_running()


@pytest.mark.skipif(os.getuid() != 0, reason="only root runs workers as another user")
def test_under_root_workers_are_somebody_else(victim: dict[str, Any]) -> None:
    assert victim["uid"] != 0
    assert psutil.Process(victim["pid"]).uids().effective == victim["uid"]


def test_a_home_lasts_as_long_as_its_app(
    tmp_path: Path, shared_cache: Path, target: Target
) -> None:
    programs = Programs(tmp_path / "app", shared_cache, target=target)
    done = programs.run("""
        import pathlib

        @Endpoint(name="counts", cpu=CPU, workers=(0, 1))
        def counts():
            note = pathlib.Path.home() / "notes"
            note.write_text(note.read_text() + "x" if note.exists() else "x")
            return len(note.read_text())

        @Endpoint(name="reads", cpu=CPU)
        def reads():
            return (pathlib.Path.home() / "notes").read_text()

        if __name__ == "__main__":
            print(json.dumps([counts.call(), counts.call(), reads.call()]))
        """)
    assert done.result == [1, 2, "xx"]
    assert not [name for name in _files(target.data / "homes") if "notes" in name]


def test_a_function_with_packages_and_a_volume_runs_as_ever(
    tmp_path: Path, shared_cache: Path, target: Target
) -> None:
    programs = Programs(tmp_path / "app", shared_cache, target=target)
    project = "[project]\nname = 'x'\nversion = '1'\n"
    files = {"part.py": "PART = 40\n", "data/words.txt": "two words\n", "pyproject.toml": project}
    programs.write(files)
    done = programs.run("""
        from runpod_flash import NetworkVolume

        @Endpoint(name="whole", cpu=CPU, volume=NetworkVolume(name="kept", size=10))
        def whole(name):
            import part, pathlib, tempfile
            pathlib.Path("/runpod-volume", name).write_text("kept")
            with tempfile.TemporaryFile() as file:
                file.write(b"x" * part.PART)
                size = file.tell()
            words = pathlib.Path("data/words.txt").read_text().split()
            return size + len(words), sorted(os.listdir(os.environ["FLASH_VOLUME_PATH"]))

        if __name__ == "__main__":
            print(json.dumps([whole.call("a"), whole.call("b")]))
        """)
    assert done.result == [[42, ["a"]], [42, ["a", "b"]]]


def test_a_project_in_shared_memory_is_seen_by_its_own_workers(
    tmp_path: Path, shared_cache: Path
) -> None:
    app = """
        import os
        from runpod_flash import Endpoint

        @Endpoint(name="where", cpu="cpu3c-1-2")
        def where() -> list:
            return [os.path.exists("words.txt"), os.path.exists("/dev/shm/of-others")]
    """
    with (
        TemporaryDirectory(dir="/dev/shm") as folder,
        NamedTemporaryFile(dir="/dev/shm") as of_others,
    ):
        Path(folder).chmod(0o755)
        project = Path(folder) / "project"
        app = app.replace("/dev/shm/of-others", of_others.name)
        Programs(project, shared_cache).write({"app.py": app, "words.txt": ""})
        options = ("--isolation", "apps", "--app", str(project))
        with server(tmp_path / "server", shared_cache, *options) as target:
            url = f"{target.address}/v2/where/runsync"
            told = httpx.post(url, json={"input": {}}, timeout=60).json()
    assert told.get("output") == [True, False], told.get("error")


@pytest.mark.skipif(not FORKS, reason="there are no zygotes")
def test_packages_are_imported_ahead_only_where_their_app_is(
    tmp_path: Path, shared_cache: Path, target: Target
) -> None:
    programs = Programs(tmp_path / "app", shared_cache, target=target)
    watches = f"""
import os
SEEN = [os.getuid(), os.getpid(), os.path.exists({str(target.data / "flash.db")!r})]
open(os.path.expanduser("~/imports"), "a").write(f"{{os.getuid()}} ")
"""
    make_wheel(tmp_path / "wheels", "watches", source=watches)
    programs.write({"requirements.txt": f"--no-index\n--find-links {tmp_path / 'wheels'}\n"})
    done = programs.run("""
        import threading, pathlib

        def maker():
            minder = pathlib.Path(f"/proc/{os.getppid()}/stat").read_text().rpartition(")")[2]
            above = pathlib.Path(f"/proc/{minder.split()[1]}/comm")
            return above.read_text().strip() if above.exists() else ""

        @Endpoint(name="packed", cpu=CPU, workers=(0, 1), dependencies=["watches"])
        def packed():
            import watches
            threading.Timer(0.8, os._exit, (0,)).start()
            home = pathlib.Path.home() / "imports"
            return {"seen": watches.SEEN, "own": [os.getuid(), os.getpid()], "by": maker(),
                    "imports": home.read_text().split()}

        async def main():
            found, end = [], time.monotonic() + 20
            while time.monotonic() < end and "flash-snapshot" not in [f["by"] for f in found]:
                found.append(await packed())
                await asyncio.sleep(1)
            return found

        if __name__ == "__main__":
            print(json.dumps(asyncio.run(main())))
        """)
    makers = [each["by"] for each in done.result]
    assert makers[0] == ""
    assert makers[-1] == "flash-snapshot", done
    own = done.result[0]["own"][0]
    for each in done.result:
        uid, _, sees_data = each["seen"]
        assert (uid, sees_data) == (own, False)
        assert set(each["imports"]) == {str(own)}
    last = done.result[-1]
    assert last["seen"][1] != last["own"][1], "it was there before the worker"


@contextmanager
def events(
    folder: Path, *options: str, by: Sequence[str] = ()
) -> Iterator[Iterator[dict[str, Any]]]:
    """What the log of a server says, as it comes; `by` is a command that runs others."""
    command = ["server", "--data-dir", str(folder / "data"), "--port", "0", *options]
    with subprocess.Popen(
        [*by, sys.executable, "-c", MAIN, *command],
        env={"HOME": str(folder), "PATH": os.environ["PATH"]},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        assert process.stdout is not None
        try:
            lines = iter(process.stdout.readline, "")
            yield (json.loads(line) for line in lines if line.startswith("{"))
        finally:
            process.terminate()
            process.stdout.read()


@pytest.mark.skipif(os.getuid() != 0, reason="takes a power from root")
@pytest.mark.skipif(not shutil.which("setpriv"), reason="no setpriv (util-linux)")
def test_a_server_that_cannot_keep_apps_apart_says_so_at_start(tmp_path: Path) -> None:
    powerless = ("setpriv", "--inh-caps=-sys_admin", "--bounding-set=-sys_admin")
    with events(tmp_path, by=powerless) as told_so_far:
        told = next(event for event in told_so_far if event["event"] == "not_apart")
    assert told["level"] == "warning"
    assert told["message"].startswith("apps are not kept apart on this machine (unshare: ")
    assert "--isolation none" in told["message"]


def test_a_worker_user_that_is_not_there_is_named(tmp_path: Path) -> None:
    if os.getuid() != 0:
        pytest.skip("only root runs workers as another user")
    for name, why in (("nosuchuser", "there is no such user"), ("root", "is kept from nothing")):
        options = ["--data-dir", str(tmp_path / "data"), "--worker-user", name]
        done = subprocess.run(
            [sys.executable, "-c", MAIN, "server", *options],
            env={"HOME": str(tmp_path), "PATH": os.environ["PATH"]},
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        assert done.returncode == 1
        assert f"--worker-user {name}" in done.stderr
        assert why in done.stderr


def _first_line(program: Program) -> str:
    program.until(lambda: bool(program.lines))
    return program.lines[0]


def _worker(name: str, target: Target) -> psutil.Process:
    """The process of the endpoint's worker, as the server's machine knows it."""
    told = httpx.get(
        f"{target.address}/v2/flash/overview", headers={"Authorization": f"Bearer {target.key}"}
    ).json()
    (worker,) = [w["id"] for e in told["endpoints"] if e["name"] == name for w in e["workers"]]
    (found,) = [
        process
        for process in psutil.process_iter(["cmdline"])
        if worker in (process.info["cmdline"] or [])
    ]
    return found


def _files(folder: Path) -> list[str]:
    return [path.name for path in folder.rglob("*")]


def test_a_folder_that_workers_may_not_read_is_named_at_start_and_by_the_call(
    tmp_path: Path,
) -> None:
    if os.getuid() != 0:
        pytest.skip("only root runs workers as another user")
    app = tmp_path / "app"
    app.mkdir(mode=0o700)
    (app / "hello.py").write_text(
        "from runpod_flash import Endpoint\n"
        "@Endpoint(name='hello', cpu='cpu3c-1-2')\n"
        "def hello():\n    return 'hi'\n"
    )
    with events(tmp_path, "--app", str(app)) as told_so_far:
        told: dict[str, dict[str, Any]] = {}
        while "unreadable" not in told:
            event = next(told_so_far)
            told[event["event"]] = event
        address = f"{told['serving']['address']}/v2/hello/runsync"
        failed = httpx.post(address, json={"input": {}}, timeout=60).json()
        app.chmod(0o755)
        worked = httpx.post(address, json={"input": {}}, timeout=60).json()
    why = f"workers are the user nobody, who may not read the folder {app} (mode 0700): run"
    assert told["unreadable"]["message"].startswith(why)
    assert told["unreadable"]["level"] == "warning"
    assert failed["error"].startswith(f"WorkerStartError: no worker of 'hello' can start: {why}")
    assert worked["output"] == "hi"
