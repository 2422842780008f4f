"""Real environments: real uv, tiny wheels made here, and what kills and races leave behind."""

from __future__ import annotations

import asyncio
import base64
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import zipfile
from contextlib import closing, contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import uv

from integration.package_index import PackageIndex, package_index
from runpod_flash.engines.local.environments.environments import (
    Environment,
    EnvironmentRequest,
    Environments,
)
from runpod_flash.engines.local.environments.interpreters import Interpreters
from runpod_flash.engines.local.environments.plans import unreachable
from runpod_flash.engines.local.system_packages import missing_system_packages
from runpod_flash.errors import EnvironmentBuildError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

SECRET = "s3cret"

# A build back end without dependencies: it notes its process id, then waits if it is told to.
BACKEND = """
import os, pathlib, time, zipfile
def build_wheel(directory, config_settings=None, metadata_directory=None):
    pathlib.Path("started").write_text(str(os.getpid()))
    if pathlib.Path("wait").exists():
        time.sleep(60)
    name = "slow-1.0-py3-none-any.whl"
    with zipfile.ZipFile(pathlib.Path(directory) / name, "w") as wheel:
        info = "slow-1.0.dist-info"
        wheel.writestr("slow.py", pathlib.Path("slow.py").read_text())
        wheel.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\\nName: slow\\nVersion: 1.0\\n")
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\n"
                       "Tag: py3-none-any\\n")
        wheel.writestr(f"{info}/RECORD", "")
    return name
"""
PYPROJECT = """
[project]
name = "slow"
version = "1.0"
[build-system]
requires = []
build-backend = "backend"
backend-path = ["."]
"""
PROGRAM = """
import asyncio, sys
from pathlib import Path
from runpod_flash.engines.local.environments.environments import EnvironmentRequest, Environments
environments = Environments(Path(sys.argv[1]))
request = EnvironmentRequest("e", tuple(sys.argv[2:]), None)
def show(line):
    print(line, flush=True)
print(asyncio.run(environments.ensure(request, show)).key, flush=True)
sys.stdin.read()
"""


class Room:
    """A cache directory, the lines that were reported, and a directory of wheels."""

    def __init__(self, path: Path) -> None:
        self.root = path / "cache"
        self.wheels = path / "wheels"
        self.project = path / "project"
        self.wheels.mkdir()
        self.project.mkdir()
        self.lines: list[str] = []
        self.environments = self.open()

    def open(self) -> Environments:
        """As another program would."""
        return Environments(self.root)

    def request(self, *requirements: str, python: str | None = None) -> EnvironmentRequest:
        return EnvironmentRequest("endpoint-a", requirements, python, root=self.project)

    def ensure(self, *requirements: str, python: str | None = None) -> Environment:
        return asyncio.run(
            self.environments.ensure(self.request(*requirements, python=python), self.lines.append)
        )

    def error(self, *requirements: str, python: str | None = None) -> str:
        with pytest.raises(EnvironmentBuildError) as caught:
            self.ensure(*requirements, python=python)
        assert "\n" not in str(caught.value)
        assert not self.built()
        return str(caught.value)

    def built(self) -> list[str]:
        directory = self.root / "built"
        entries = directory.iterdir() if directory.is_dir() else ()
        return sorted(path.name for path in entries if path.is_dir())

    def wheel(self, name: str, version: str = "1.0", requires: str = "") -> Path:
        path = self.wheels / f"{name}-{version}-py3-none-any.whl"
        info = f"{name}-{version}.dist-info"
        needs = f"Requires-Dist: {requires}\n" if requires else ""
        metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{needs}"
        with zipfile.ZipFile(path, "w") as wheel:
            wheel.writestr(f"{name}.py", f"version = {version!r}\n")
            wheel.writestr(f"{info}/METADATA", metadata)
            tag = "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
            wheel.writestr(f"{info}/WHEEL", tag)
            wheel.writestr(f"{info}/RECORD", "")
        return path

    def source_tree(self) -> Path:
        (self.project / "backend.py").write_text(BACKEND)
        (self.project / "pyproject.toml").write_text(PYPROJECT)
        (self.project / "slow.py").write_text("value = 1\n")
        return self.project


@pytest.fixture
def room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Room]:
    """Without the settings of whoever runs the tests, and without a network."""
    for name in list(os.environ):
        if name.startswith(("UV_", "PIP_")):
            monkeypatch.delenv(name)
    room = Room(tmp_path)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("UV_CACHE_DIR", str(tmp_path / "uv"))
    # Twice: the first is what Flash has to obey, the second what uv does in any case.
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("UV_OFFLINE", "1")
    monkeypatch.setenv("UV_FIND_LINKS", str(room.wheels))
    yield room
    room.environments.close()


def run(environment: Environment, code: str) -> str:
    command = [str(environment.python), "-I", "-c", code]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def imports(environment: Environment, module: str) -> bool:
    command = [str(environment.python), "-I", "-c", f"import {module}"]
    return subprocess.run(command, capture_output=True).returncode == 0


def until(condition: Callable[[], object]) -> None:
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end, "it did not happen within 20 s"
        time.sleep(0.02)


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    status = Path(f"/proc/{pid}/stat")
    return not (status.exists() and status.read_text().rpartition(")")[2].split()[0] == "Z")


# What is in an environment


def test_an_environment_without_requirements_is_isolated_from_the_callers_packages(
    room: Room,
) -> None:
    environment = room.ensure()
    assert run(environment, "import sys; print(sys.prefix)") == str(environment.path)
    version = run(environment, "import platform; print(platform.python_version())")
    assert version == environment.version
    assert not imports(environment, "pytest")
    (line,) = room.lines
    assert line.startswith("building environment: ") and line.endswith(", no packages")


def test_a_package_asked_for_twice_is_listed_once(room: Room) -> None:
    room.wheel("zztiny")
    room.ensure("zztiny", "zztiny>=0.5")
    assert room.lines[0].endswith(", 1 package (zztiny)")


def test_a_requirement_and_what_it_needs_are_installed(room: Room) -> None:
    room.wheel("zztiny", requires="zzother")
    room.wheel("zzother", "2.0")
    environment = room.ensure("zztiny")
    assert run(environment, "import zztiny, zzother; print(zzother.version)") == "2.0"
    assert any("1 package (zztiny)" in line for line in room.lines)


def test_flash_from_an_index_is_never_installed_not_even_as_a_dependency(room: Room) -> None:
    room.wheel("runpod_flash", "99.0")
    room.wheel("zztiny", requires="runpod-flash>=1")
    environment = room.ensure("runpod_flash", "zztiny")
    assert imports(environment, "zztiny")
    assert not imports(environment, "runpod_flash")


def test_option_lines_work_with_paths_below_the_project_root(
    room: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("UV_FIND_LINKS")
    room.wheel("zztiny").rename(room.project / "zztiny-1.0-py3-none-any.whl")
    (room.project / "more.txt").write_text("zztiny>=1\n")
    environment = room.ensure("-r more.txt", "--find-links .")
    assert imports(environment, "zztiny")


def test_constraint_files_hold(room: Room) -> None:
    room.wheel("zztiny", "1.0")
    room.wheel("zztiny", "2.0")
    (room.project / "limits.txt").write_text("zztiny<2\n")
    environment = room.ensure("zztiny", "-c limits.txt")
    assert run(environment, "import zztiny; print(zztiny.version)") == "1.0"


def test_pips_find_links_serve_uv_too(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("UV_FIND_LINKS")
    monkeypatch.setenv("PIP_FIND_LINKS", f"{room.wheels} {room.wheels}/gone")
    room.wheel("zztiny")
    assert imports(room.ensure("zztiny"), "zztiny")


def test_pips_no_index_keeps_uv_from_every_index(
    room: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as server:
        port = server.getsockname()[1]
    monkeypatch.delenv("UV_OFFLINE")
    monkeypatch.setenv("UV_DEFAULT_INDEX", f"http://127.0.0.1:{port}/simple")
    assert "could not be reached" not in room.error("zznowhere")
    room.wheel("zztiny")
    assert imports(room.ensure("zztiny"), "zztiny")


def test_a_changed_local_package_makes_another_environment(
    room: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("UV_OFFLINE")  # PIP_NO_INDEX stays
    tree = room.source_tree()
    first = room.ensure(".")
    (tree / "slow.py").write_text("value = 22\n")
    second = room.ensure(".")
    assert first.key != second.key
    assert run(second, "import slow; print(slow.value)") == "22"


def test_offline_a_local_package_is_installed_and_the_limit_is_said(room: Room) -> None:
    room.source_tree()
    assert imports(room.ensure("."), "slow")
    assert any(line.startswith("offline: ") for line in room.lines)


def test_wrong_hashes_are_refused(room: Room) -> None:
    room.wheel("zztiny")
    assert "zztiny" in room.error(f"zztiny==1.0 --hash=sha256:{'0' * 64}")


# Sharing


def test_equal_locks_share_one_environment_and_the_order_of_lines_does_not_matter(
    room: Room,
) -> None:
    room.wheel("zztiny")
    room.wheel("zzother")
    first = room.ensure("zztiny", "zzother")
    assert room.ensure("zzother", "zztiny==1.0") == first
    assert len(room.built()) == 1


# Adding to what is there


@pytest.fixture
def index(room: Room, monkeypatch: pytest.MonkeyPatch) -> Iterator[PackageIndex]:
    """The room's wheels at an index, which may have others by the next build."""
    with package_index(room.wheels) as index:
        for name in ("PIP_NO_INDEX", "UV_OFFLINE", "UV_FIND_LINKS"):
            monkeypatch.delenv(name)
        monkeypatch.setenv("UV_DEFAULT_INDEX", index.url)
        yield index


def versions(environment: Environment, *modules: str) -> str:
    listed = ", ".join(f"{module}.version" for module in modules)
    return run(environment, f"import {', '.join(modules)}; print({listed})")


def test_what_is_added_leaves_the_other_versions_as_they_are(
    room: Room, index: PackageIndex
) -> None:
    room.wheel("alpha", requires="beta")
    room.wheel("beta")
    before = room.ensure("alpha")
    (before.path / "flash-imports.json").write_text('{"modules": ["alpha"]}')
    facts = (before.path / "flash-environment.json").read_text()
    room.wheel("alpha", "2.0")
    room.wheel("beta", "2.0")
    room.wheel("gamma", requires="beta")
    index.fetched.clear()
    after = room.ensure("alpha", "gamma")
    assert not [name for name in index.fetched if name.startswith("alpha")]
    assert versions(after, "alpha", "beta", "gamma") == "1.0 1.0 1.0"
    assert (after.path / "flash-imports.json").read_text() == '{"modules": ["alpha"]}'
    assert "gamma" not in facts == (before.path / "flash-environment.json").read_text()
    assert not imports(before, "gamma")
    assert room.open().cached(room.request("gamma", "alpha")) == after
    assert versions(room.ensure("alpha", "gamma", "beta"), "beta") == "1.0"


@pytest.mark.usefixtures("index")
def test_what_does_not_go_with_the_earlier_versions_has_all_chosen_anew(room: Room) -> None:
    room.wheel("alpha", requires="beta")
    room.wheel("beta")
    room.ensure("alpha")
    room.wheel("beta", "2.0")
    room.wheel("gamma", requires="beta>=2")
    assert versions(room.ensure("alpha", "gamma"), "beta", "gamma") == "2.0 1.0"
    assert [name for name in room.built() if name.startswith(".")] == []


@pytest.mark.usefixtures("index")
def test_without_the_earlier_environment_all_is_built_anew(room: Room) -> None:
    room.wheel("alpha")
    key = room.ensure("alpha").key
    room.environments.release(key)
    assert room.environments.remove(key)
    room.wheel("alpha", "2.0")
    room.wheel("gamma")
    assert versions(room.ensure("alpha", "gamma"), "alpha", "gamma") == "2.0 1.0"
    assert len(room.built()) == 1


def test_a_file_system_without_links_has_copies(
    room: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object, **__: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    room.wheel("alpha")
    room.wheel("gamma")
    room.ensure("alpha")
    monkeypatch.setattr(os, "link", refused)
    assert versions(room.ensure("alpha", "gamma"), "alpha", "gamma") == "1.0 1.0"


def test_a_second_program_finds_the_environment_without_starting_a_process(
    room: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    room.wheel("zztiny")
    first = room.ensure("zztiny")
    room.lines.clear()

    def refuse(event: str, _: object) -> None:
        if armed and event in {"subprocess.Popen", "os.posix_spawn", "os.fork", "os.exec"}:
            raise AssertionError(event)

    armed = True
    sys.addaudithook(refuse)
    try:
        again = room.open()
        assert again.cached(room.request("zztiny")) == first
        assert asyncio.run(again.ensure(room.request("zztiny"))) == first
        again.close()
    finally:
        armed = False
    assert room.lines == []


def test_a_second_endpoint_with_the_same_packages_starts_no_uv(
    room: Room, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    log, counting = tmp_path / "uv.log", tmp_path / "counting-uv"
    counting.write_text(f'#!/bin/sh\necho "$1" >> {log}\nexec {uv.find_uv_bin()} "$@"\n')
    counting.chmod(0o755)
    monkeypatch.setattr(uv, "find_uv_bin", lambda: str(counting))
    room.wheel("zztiny")
    room.wheel("zzother")
    first = room.ensure("zztiny", "zzother")
    started = log.read_text().split()
    assert sorted(started) == ["pip", "pip", "venv"]
    left = sorted(path.name for path in (room.root / "built").iterdir())
    assert left == [first.key, f"{first.key}.lock"]
    other = replace(room.request("zztiny", "zzother"), endpoint="endpoint-b")
    assert asyncio.run(room.environments.ensure(other)) == first
    assert log.read_text().split() == started


def test_nothing_is_cached_before_the_first_build_or_after_a_new_wheel_appeared(
    room: Room,
) -> None:
    room.wheel("zztiny")
    request = room.request("zztiny")
    assert room.environments.cached(request) is None
    room.ensure("zztiny")
    room.wheel("zztiny", "2.0")
    assert room.environments.cached(request) is None
    assert run(room.ensure("zztiny"), "import zztiny; print(zztiny.version)") == "2.0"


def test_concurrent_requests_of_one_program_build_once(room: Room) -> None:
    room.wheel("zztiny")

    async def many() -> set[str]:
        requests = [room.request("zztiny"), room.request("zztiny"), room.request("zztiny==1.0")]
        found = await asyncio.gather(
            *[room.environments.ensure(r, room.lines.append) for r in requests]
        )
        return {environment.key for environment in found}

    assert len(asyncio.run(many())) == 1
    assert len([line for line in room.lines if line.startswith("environment ready")]) == 1


def test_concurrent_programs_build_once(room: Room) -> None:
    room.wheel("zztiny")
    command = [sys.executable, "-c", PROGRAM, str(room.root), "zztiny"]
    outputs = [
        subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True)
        for _ in range(3)
    ]
    texts = [program.communicate(timeout=60)[0].splitlines() for program in outputs]
    assert len({lines[-1] for lines in texts}) == 1
    assert sum(line.startswith("environment ready") for lines in texts for line in lines) == 1


# Failures


def test_a_package_that_does_not_exist_is_named(room: Room) -> None:
    room.wheel("zztiny")
    message = room.error("zztiny", "nowhere-to-be-found>=3")
    assert "(nowhere-to-be-found>=3)" in message and "endpoint-a" in message


def test_a_version_that_does_not_exist_is_named_with_uvs_reason(room: Room) -> None:
    room.wheel("zztiny")
    message = room.error("zztiny>=9")
    assert "(zztiny>=9)" in message and "we can conclude" in message


@pytest.mark.parametrize("line", ["zztiny !! 2", "zztiny>=", "a b c"])
def test_text_that_is_no_requirement_is_named_and_nothing_is_resolved(
    line: str, room: Room
) -> None:
    assert f"{line!r} is not a valid requirement" in room.error(line)


def test_a_local_package_that_is_not_there_is_named(room: Room) -> None:
    assert "gone-1.0-py3-none-any.whl" in room.error("./gone-1.0-py3-none-any.whl")


def test_a_package_whose_build_fails_is_named_with_the_cause(room: Room) -> None:
    tree = room.source_tree()
    (tree / "backend.py").write_text("raise RuntimeError('no compiler for you')\n")
    assert "no compiler for you" in room.error(".")


def test_uv_offline_with_an_empty_cache_says_so(
    room: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.setenv("UV_CACHE_DIR", str(room.root / "uv"))
    for name in ("UV_OFFLINE", "UV_FIND_LINKS", "PIP_FIND_LINKS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("UV_OFFLINE", "1")
    message = room.error("zztiny", "zzother")
    assert "uv is offline (UV_OFFLINE) and its cache does not hold all" in message


def test_the_remedy_for_pytorchs_index_names_what_replaces_it() -> None:
    message = str(unreachable("e", "https://download.pytorch.org/whl/cpu/torch/"))
    assert "UV_FIND_LINKS" in message and "UV_TORCH_BACKEND" in message
    assert "UV_TORCH_BACKEND" not in str(unreachable("e", "https://index.example/simple/x/"))


def test_an_index_that_cannot_be_reached_is_one_clear_sentence(
    room: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as server:
        port = server.getsockname()[1]
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.delenv("UV_OFFLINE")
    monkeypatch.setenv("UV_HTTP_RETRIES", "0")
    monkeypatch.setenv("UV_DEFAULT_INDEX", f"http://user:{SECRET}@127.0.0.1:{port}/simple")
    message = room.error("zztiny")
    assert f"http://127.0.0.1:{port}/simple/zztiny/ could not be reached" in message
    assert "UV_DEFAULT_INDEX" in message
    assert SECRET not in message


@pytest.mark.parametrize("version", ["3.9", "3.14", "nine"])
def test_a_python_that_is_not_allowed_is_refused(version: str, room: Room) -> None:
    assert "3.10, 3.11, 3.12, 3.13" in room.error(python=version)


def test_a_python_that_is_nowhere_is_refused_after_broken_ones_were_tried(
    room: Room, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = "3.13" if sys.version_info[:2] != (3, 13) else "3.12"
    if Path(f"/usr/bin/python{wanted}").exists():
        pytest.skip("the system has that Python")
    shims = tmp_path / "shims"
    shims.mkdir()
    (shims / f"python{wanted}").write_text("#!/bin/sh\necho not installed >&2\nexit 127\n")
    (shims / f"python{wanted}").chmod(0o755)
    monkeypatch.setenv("PATH", str(shims))
    monkeypatch.setenv("PYENV_ROOT", str(tmp_path / "pyenv"))
    monkeypatch.setenv("UV_PYTHON_INSTALL_DIR", str(tmp_path / "pythons"))
    monkeypatch.setenv("UV_PYTHON_DOWNLOADS", "never")
    monkeypatch.setenv("UV_OFFLINE", "1")
    assert f"Python {wanted} works nowhere on this machine" in room.error(python=wanted)


def test_an_interpreter_is_remembered_until_its_file_changes(room: Room, tmp_path: Path) -> None:
    other = next((v for v in ("3.12", "3.10", "3.13", "3.11") if _installed(v, room)), None)
    if other is None:
        pytest.skip("this machine has one Python only")
    memo = tmp_path / "memo.json"
    found = asyncio.run(Interpreters(memo).find(other, os.environ, room.lines.append))
    assert Interpreters(memo).known(other) == found
    memo.write_text(memo.read_text().replace('"stamp": [', '"stamp": [1'))
    assert Interpreters(memo).known(other) is None
    memo.write_text("{ broken")
    assert Interpreters(memo).known(other) is None


def _installed(minor: str, room: Room) -> bool:
    if minor == f"{sys.version_info.major}.{sys.version_info.minor}":
        return False
    environ = {**os.environ, "UV_OFFLINE": "1", "UV_PYTHON_DOWNLOADS": "never"}
    try:
        asyncio.run(Interpreters(room.root / "i.json").find(minor, environ, room.lines.append))
    except EnvironmentBuildError:
        return False
    return True


# Kills, cancellation and sweeping


def test_a_killed_program_leaves_no_process_and_nothing_that_looks_whole(room: Room) -> None:
    tree = room.source_tree()
    (tree / "wait").touch()
    command = [sys.executable, "-c", PROGRAM, str(room.root), str(tree)]
    program = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)
    started = tree / "started"
    until(lambda: started.exists() and started.read_text())
    program.send_signal(signal.SIGKILL)
    program.communicate()
    until(lambda: not alive(int(started.read_text())))
    assert all(name.startswith(".new-") for name in room.built())
    (tree / "wait").unlink()
    environment = room.ensure(str(tree))
    assert run(environment, "import slow; print(slow.value)") == "1"
    assert room.environments.sweep(10**12).removed == ()
    assert room.built() == [environment.key]


def test_a_cancelled_build_ends_its_processes_and_leaves_nothing(room: Room) -> None:
    tree = room.source_tree()
    (tree / "wait").touch()
    started = tree / "started"

    async def cancel() -> None:
        building = asyncio.ensure_future(
            room.environments.ensure(room.request("."), room.lines.append)
        )
        while not (started.exists() and started.read_text()):
            assert not building.done()
            await asyncio.sleep(0.02)
        building.cancel()
        with pytest.raises(asyncio.CancelledError):
            await building

    asyncio.run(cancel())
    until(lambda: not alive(int(started.read_text())))
    assert room.built() == []


def test_one_callers_cancellation_does_not_end_the_build_of_another(room: Room) -> None:
    room.wheel("zztiny")

    async def both() -> Environment:
        first = asyncio.ensure_future(
            room.environments.ensure(room.request("zztiny"), room.lines.append)
        )
        second = asyncio.ensure_future(
            room.environments.ensure(room.request("zztiny"), room.lines.append)
        )
        await asyncio.sleep(0)
        first.cancel()
        return await second

    assert imports(asyncio.run(both()), "zztiny")
    assert len([line for line in room.lines if line.startswith("building")]) == 1


def test_what_killed_builds_and_removals_left_is_swept(room: Room) -> None:
    for name in (".new-" + "a" * 32 + "-0011", ".old-" + "b" * 32 + "-0022"):
        (room.root / "built" / name).mkdir(parents=True)
        (room.root / "built" / name / "file").write_bytes(b"12345")
    assert room.environments.sweep(10**12).freed_bytes == 10
    assert list((room.root / "built").iterdir()) == []


def test_a_sweep_removes_the_least_recently_used_first_and_none_in_use(room: Room) -> None:
    for name in ("zzone", "zztwo", "zzthree"):
        room.wheel(name)
    keys = {name: room.ensure(name).key for name in ("zzone", "zztwo", "zzthree")}
    assert room.open().sweep(0).removed == ()
    for age, name in enumerate(("zztwo", "zzone", "zzthree")):
        room.environments.release(keys[name])
        then = time.time() - 1000 + age
        os.utime(room.root / "built" / f"{keys[name]}.lock", (then, then))
    room.ensure("zzthree")
    swept = room.open().sweep(0)
    assert swept.removed == (keys["zztwo"], keys["zzone"])
    assert swept.freed_bytes > 0 and swept.kept_bytes > 0
    assert room.built() == [keys["zzthree"]]


def test_an_environment_that_another_program_uses_is_not_swept(room: Room) -> None:
    command = [sys.executable, "-c", PROGRAM, str(room.root)]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) as program:
        assert program.stdout and program.stdin
        key = next(line.strip() for line in program.stdout if len(line.strip()) == 32)
        assert room.environments.sweep(0).removed == ()
        program.stdin.close()
        program.wait()
    assert room.environments.sweep(0).removed == (key,)


def test_an_environment_whose_interpreter_is_gone_is_built_anew(room: Room) -> None:
    environment = room.ensure()
    (environment.path / "bin/python").unlink()
    assert room.environments.cached(room.request()) is None
    assert run(room.ensure(), "print(1)") == "1"


# Credentials


@contextmanager
def guarded_wheel(room: Room) -> Iterator[tuple[str, list[str]]]:
    """A wheel of zztiny for whoever knows the password: its address, and what was asked."""
    wheel = room.wheel("zztiny").rename(room.project / "zztiny-1.0-py3-none-any.whl")
    asked: list[str] = []
    wanted = "Basic " + base64.b64encode(f"user:{SECRET}".encode()).decode()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            allowed = self.headers.get("Authorization") == wanted
            body = wheel.read_bytes() if allowed else b""
            self.send_response(200 if allowed else 401)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

        do_HEAD = do_GET  # noqa: N815 - the name that http.server calls

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"127.0.0.1:{server.server_port}/{wheel.name}", asked
        finally:
            server.shutdown()
            thread.join()


def test_credentials_reach_uv_and_are_written_nowhere(
    room: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("UV_OFFLINE")
    with guarded_wheel(room) as (address, _):
        line = f"zztiny @ http://user:{SECRET}@{address}"
        environment = room.ensure(line)
        assert imports(environment, "zztiny")
        room.environments.release(environment.key)
        assert room.environments.sweep(0).removed == (environment.key,)
        assert room.ensure(line) == environment  # from the remembered lock
        assert "401" in room_error(room, f"zztiny @ http://user:wrong@{address}?x")
    written = [path for path in room.root.rglob("*") if path.is_file()]
    assert [path for path in written if SECRET.encode() in path.read_bytes()] == []
    assert SECRET not in "".join(room.lines)


def test_what_the_cache_of_uv_has_is_installed_without_the_index(
    room: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("UV_OFFLINE")
    with guarded_wheel(room) as (address, asked):
        line = f"zztiny @ http://user:{SECRET}@{address}"
        environment = room.ensure(line)
        before = len(asked)
        assert before
        room.environments.release(environment.key)
        assert room.environments.remove(environment.key)
        assert room.ensure(line) == environment
        assert len(asked) == before


def room_error(room: Room, line: str) -> str:
    with pytest.raises(EnvironmentBuildError) as caught:
        room.ensure(line)
    return str(caught.value)


# The index and the system


@pytest.mark.network
def test_a_package_of_the_index_is_installed_one_download_at_a_time(
    room: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.delenv("UV_OFFLINE")
    request = EnvironmentRequest("e", ("six", "idna"), None, accelerate_downloads=False)
    environment = asyncio.run(room.environments.ensure(request))
    assert imports(environment, "six") and imports(environment, "idna")


def test_missing_system_packages_are_named_as_given() -> None:
    found = asyncio.run(missing_system_packages(["no-such-package-of-flash=1.0", "dpkg"]))
    if found.checked:
        assert found.missing == ("no-such-package-of-flash=1.0",)
    else:
        assert found.missing == ()


def test_without_dpkg_system_packages_cannot_be_checked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    found = asyncio.run(missing_system_packages(["ffmpeg"]))
    assert not found.checked and found.missing == ()
