"""A server in a process of its own, with a home of its own: a target for programs."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

from behaviour.programs import Programs
from unit.command_line import MAIN

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_START_SECONDS = 30.0


class Target:
    """A running `flash server`, the home of its processes, and the cache of its packages."""

    def __init__(self, folder: Path, cache: Path, *options: str, before: str = "") -> None:
        self._machine = Programs(folder, cache)
        self.cache = cache
        self.home = self._machine.new_home()
        self._folder = folder
        self.data = folder / "data"
        self.log = folder / "log.txt"
        # As embedded: on a machine without GPUs, and with files that a test and its workers share.
        as_embedded = ("--gpu-fallback", "cpu", "--isolation", "none")
        self._options = ("--grace", "1", *as_embedded, *options)
        self._command = f"{before}\n{MAIN}"
        self._process = self._start("0")
        self.address = _address(self._process, self.log)
        self.key = _key(self.home)

    @property
    def variables(self) -> dict[str, str]:
        """What a program needs to run there."""
        return {"FLASH_TARGET": self.address, "FLASH_API_KEY": self.key}

    def start_again(self) -> None:
        """Start one with the same data at the same address."""
        self._process = self._start(self.address.rpartition(":")[2])
        _address(self._process, self.log)

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()

    def stop(self) -> None:
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
            self._process.wait(30)

    def blobs(self) -> int:
        """How many files were ever uploaded."""
        return sum(path.is_file() for path in (self.data / "blobs").rglob("*"))

    def apps(self) -> list[Path]:
        """The folders of programs' apps that are there now."""
        return list((self.data / "apps").iterdir())

    def uploaded(self) -> set[str]:
        """The paths of all files of the apps that are there now, workers' bytecode aside."""
        files = (path for app in self.apps() for path in app.rglob("*") if path.is_file())
        found = (path for path in files if path.parent.name != "__pycache__")
        return {"/".join(path.relative_to(self.data / "apps").parts[2:]) for path in found}

    def _start(self, port: str) -> subprocess.Popen[bytes]:
        command = ["server", "--data-dir", str(self.data), "--port", port, *self._options]
        with self.log.open("w") as written:
            return subprocess.Popen(
                [sys.executable, "-c", self._command, *command],
                cwd=self._folder,
                env={**self._machine.environ(self.home), "PYTHONUNBUFFERED": "1", "NO_COLOR": "1"},
                stdin=subprocess.DEVNULL,
                stdout=written,
                stderr=subprocess.STDOUT,
            )


@contextmanager
def server(folder: Path, cache: Path, *options: str, before: str = "") -> Iterator[Target]:
    """Run `flash server` in the folder, until the block is left; `before` it, some code."""
    folder.mkdir(exist_ok=True)
    target = Target(folder, cache, *options, before=before)
    try:
        yield target
    finally:
        target.stop()


def _address(process: subprocess.Popen[bytes], log: Path) -> str:
    until = time.monotonic() + _START_SECONDS
    while time.monotonic() < until and process.poll() is None:
        found = re.search(r"http://\S+:\d+", log.read_text())
        if found:
            return found[0]
        time.sleep(0.02)
    raise AssertionError(f"no server:\n{log.read_text()}")


def _key(home: Path) -> str:
    until = time.monotonic() + _START_SECONDS
    while time.monotonic() < until:
        for file in home.glob(".local/state/flash/keys/*.json"):
            return str(json.loads(file.read_text())["key"])
        time.sleep(0.02)
    raise AssertionError("the server has kept no key")
