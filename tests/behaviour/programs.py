"""Programs that people would write, run as they would run them: `python app.py`, in a process."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

from runpod_flash.gateway.sessions import LEASE_SECONDS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from behaviour.servers import Target

# Whether workers may be forks; CONTRIBUTING.md tells how to run the tests without.
FORKS = sys.platform == "linux" and os.environ.get("FLASH_ZYGOTES") != "0"
MINORS = ("3.10", "3.11", "3.12", "3.13")
LEFT_SECONDS = 2.0  # what may pass until nothing of a program is left

# Settings by which a machine reaches a package index; all else of the tests' own environment stays.
_INDEX_PREFIXES = ("PIP_", "UV_", "SSL_CERT_")
_PROXIES = ("http_proxy", "https_proxy", "no_proxy", "all_proxy")

PRELUDE = """\
import asyncio
import json
import os
import sys
import time

from runpod_flash import Endpoint

CPU = "cpu3c-1-2"
"""


def interpreters() -> dict[str, str]:
    """The Pythons of this machine that workers can run on, by minor version."""
    pyenv = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv")
    folders = [Path(folder) for folder in os.environ.get("PATH", "").split(os.pathsep) if folder]
    found = {}
    for minor in MINORS:
        candidates = [*pyenv.glob(f"versions/{minor}.*/bin/python{minor}")]
        candidates += [folder / f"python{minor}" for folder in folders]
        named = (_itself(path, minor) for path in candidates)
        found[minor] = next(filter(None, named), "")
    return {minor: path for minor, path in found.items() if path}


def _itself(path: Path, minor: str) -> str:
    """The interpreter that the command runs, which a shim of pyenv only looks for, each time."""
    if not os.access(path, os.X_OK):
        return ""
    say = "import sys; print('%d.%d' % sys.version_info[:2], sys.executable)"
    done = subprocess.run([str(path), "-Ic", say], capture_output=True, text=True, check=False)
    version, _, executable = done.stdout.strip().partition(" ")
    return executable if version == minor else ""


@dataclass(frozen=True)
class Finished:
    """A program that has ended."""

    code: int
    stdout: str
    stderr: str
    seconds: float

    @property
    def result(self) -> Any:
        """What the program printed last, as JSON."""
        assert self.code == 0, self
        return json.loads(self.stdout.splitlines()[-1])

    def __str__(self) -> str:
        return f"exit code {self.code}\n-- stdout\n{self.stdout}\n-- stderr\n{self.stderr}"


class Program:
    """A running program. Leaving the block kills it; nothing of it may be left then."""

    def __init__(
        self, process: subprocess.Popen[str], home: Path, target: Target | None = None
    ) -> None:
        self._process = process
        self._home = home
        self._target = target
        self._lease = LEASE_SECONDS if target is not None else 0.0
        self._killed = False
        self._began = time.monotonic()
        self.lines: list[str] = []
        self.errors: list[str] = []
        assert process.stdout is not None
        assert process.stderr is not None
        self._readers = [
            threading.Thread(target=_collect, args=(process.stdout, self.lines)),
            threading.Thread(target=_collect, args=(process.stderr, self.errors)),
        ]
        for reader in self._readers:
            reader.start()

    @property
    def pid(self) -> int:
        return self._process.pid

    def __enter__(self) -> Program:
        return self

    def __exit__(self, *exception: object) -> None:
        if self._process.poll() is None:
            self.kill()
        self._process.wait()
        left = self.left()
        for process in left:  # else the readers below would wait for its output
            with suppress(psutil.NoSuchProcess):
                process.kill()
        for reader in self._readers:
            reader.join()
        if self._process.stdin is not None:
            self._process.stdin.close()
        assert self._process.stdout is not None
        assert self._process.stderr is not None
        self._process.stdout.close()
        self._process.stderr.close()
        assert not left, f"left behind: {left}\n{self.text()}"

    def text(self) -> str:
        return "".join([*self.lines, "-- stderr\n", *self.errors])

    def finish(self, timeout: float = 60) -> Finished:
        """Wait for the end of the program and of all that it started."""
        try:
            self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"still running after {timeout} s:\n{self.text()}") from None
        seconds = time.monotonic() - self._began
        self.left()
        for reader in self._readers:
            reader.join(5)
        return Finished(
            self._process.returncode, "".join(self.lines), "".join(self.errors), seconds
        )

    def until(self, condition: Callable[[], bool], timeout: float = 20) -> None:
        """Wait until something has happened while the program runs."""
        deadline = time.monotonic() + timeout
        while not condition():
            assert time.monotonic() < deadline, f"not in {timeout} s:\n{self.text()}"
            assert self._process.poll() is None or condition(), f"ended:\n{self.text()}"
            time.sleep(0.01)

    def until_printed(self, text: str, timeout: float = 20) -> None:
        self.until(lambda: any(text in line for line in self.lines), timeout)

    def until_shown(self, text: str, timeout: float = 20) -> None:
        """Wait for a line on standard error."""
        self.until(lambda: any(text in line for line in self.errors), timeout)

    def type(self, text: str) -> None:
        """Write to the program's standard input."""
        assert self._process.stdin is not None
        self._process.stdin.write(text)
        self._process.stdin.flush()

    def close_input(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()

    def interrupt(self) -> None:
        """What Ctrl-C does."""
        self._process.send_signal(signal.SIGINT)

    def kill(self) -> None:
        self._killed = True
        self._process.kill()

    def processes(self) -> list[psutil.Process]:
        """All processes of the program but its own, also those that left its tree.

        Those that serve every program of a server are not among them.
        """
        own = [process for process in processes_of(self._home) if process.pid != self.pid]
        there = [] if self._target is None else processes_of(self._target.home)
        return [*own, *(process for process in there if not _serves_all(process))]

    def workers(self) -> list[psutil.Process]:
        """Its worker processes, without what user code started in them."""
        home = self._home if self._target is None else self._target.home
        return [p for p in processes_of(home) if any(a.endswith("boot.py") for a in _argv(p))]

    def left(self) -> list[psutil.Process]:
        """What is left of the program after its end and the time that it may take."""
        deadline = time.monotonic() + LEFT_SECONDS + (self._lease if self._killed else 0)
        while (left := self.processes()) and time.monotonic() < deadline:
            time.sleep(0.02)
        return left


class Programs:
    """Writes programs to a folder and runs them, with an empty home and the cache of the run.

    With a `target` they run there; the workers of a program are then those of that server, unless
    it has `residents`: workers that outlive the programs.
    """

    def __init__(
        self,
        folder: Path,
        cache: Path,
        python: str = sys.executable,
        target: Target | None = None,
        *,
        residents: bool = False,
    ) -> None:
        self._residents = residents
        self.folder = folder
        self.target = target
        self._cache = cache
        self.python = python
        self._started = 0

    @property
    def lease(self) -> float:
        """What a server lets pass until it takes a program that says nothing for dead."""
        return LEASE_SECONDS if self.target is not None else 0.0

    def write(self, files: Mapping[str, str]) -> None:
        for name, source in files.items():
            path = self.folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(textwrap.dedent(source))

    def run(
        self,
        source: str = "",
        *,
        arguments: Sequence[str] = (),
        name: str = "app.py",
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        timeout: float = 60,
    ) -> Finished:
        """Run a program to its end, after which nothing of it may be left."""
        started = self.start(source, arguments=arguments, name=name, env=env, cwd=cwd)
        with started as program:
            return program.finish(timeout)

    def start(
        self,
        source: str = "",
        *,
        arguments: Sequence[str] = (),
        name: str = "app.py",
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        typed: bool = False,
    ) -> Program:
        """Start a program: `source` after PRELUDE as script `name`, else Python's `arguments`.

        HERE is the folder that its workers can reach as well, wherever they are.
        """
        if source:
            here = f"HERE = {f'{self.folder}{os.sep}'!r}\n"
            self.write({name: PRELUDE + here + textwrap.dedent(source)})
        home = self.new_home()
        process = subprocess.Popen(
            [self.python, "-W", "error", *(arguments or (name,))],
            cwd=cwd or self.folder,
            env={**self.environ(home), **(env or {})},
            stdin=subprocess.PIPE if typed else subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        return Program(process, home, None if self._residents else self.target)

    def new_home(self) -> Path:
        self._started += 1
        home = self.folder / f".home-{self._started}"
        home.mkdir()
        return home

    def environ(self, home: Path) -> dict[str, str]:
        own = {k: v for k, v in os.environ.items() if k.startswith(_INDEX_PREFIXES)}
        own |= {k: v for k, v in os.environ.items() if k.lower() in _PROXIES}
        folders = [str(Path(path).parent) for path in interpreters_once().values()]
        return {
            **own,
            "PATH": os.pathsep.join([*folders, os.environ.get("PATH", os.defpath)]),
            "HOME": str(home),
            "XDG_CACHE_HOME": str(self._cache),
            "XDG_DATA_HOME": str(self.folder / ".data"),
            "LANG": "C.UTF-8",
            **(self.target.variables if self.target is not None else {}),
            **{k: os.environ[k] for k in ("PYTHONPATH", "FLASH_ZYGOTES") if k in os.environ},
        }


_interpreters: dict[str, str] = {}


def interpreters_once() -> dict[str, str]:
    if not _interpreters:
        _interpreters.update(interpreters())
    return _interpreters


def _collect(stream: Any, lines: list[str]) -> None:
    for line in stream:
        lines.append(line)


def processes_of(home: Path) -> Iterator[psutil.Process]:
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError):
            # (A zombie has no environment.)
            if process.environ().get("HOME") == str(home):
                yield process


def _serves_all(process: psutil.Process) -> bool:
    """Whether it is the server, or what starts its workers."""
    helpers = ("supervise.py", "zygote.py", "runpod_flash.cli.main import main; main()")
    return any(argument.endswith(helpers) for argument in _argv(process))


def _argv(process: psutil.Process) -> list[str]:
    with suppress(psutil.Error):
        return process.cmdline()
    return []
