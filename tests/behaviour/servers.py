"""A server in a process of its own, with a home of its own: a target for programs."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from behaviour.programs import Programs

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_COMMAND = "from runpod_flash.cli.main import main; main()"
_START_SECONDS = 30.0


@dataclass(frozen=True)
class Target:
    """Where programs run, and the home of the server's processes."""

    address: str
    key: str
    home: Path
    log: Path

    @property
    def variables(self) -> dict[str, str]:
        """What a program needs to run there."""
        return {"FLASH_TARGET": self.address, "FLASH_API_KEY": self.key}


@contextmanager
def server(folder: Path, cache: Path) -> Iterator[Target]:
    """Run `flash server` in the folder; nothing of it is left afterwards."""
    machine = Programs(folder, cache)
    home, log = machine.new_home(), folder / "log.txt"
    command = ["server", "--data-dir", str(folder / "data"), "--port", "0", "--grace", "1"]
    command += ["--gpu-fallback", "cpu"]  # as embedded, on a machine without GPUs
    with log.open("w") as written:
        process = subprocess.Popen(
            [sys.executable, "-c", _COMMAND, *command],
            cwd=folder,
            env={**machine.environ(home), "PYTHONUNBUFFERED": "1", "NO_COLOR": "1"},
            stdin=subprocess.DEVNULL,
            stdout=written,
            stderr=subprocess.STDOUT,
        )
    try:
        yield Target(_address(process, log), _key(home), home, log)
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(30)


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
