"""`flash dev` as a person runs it: a process in a project's directory, its screen, its end."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

import psutil

from integration.served import write
from unit.command_line import MAIN

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path


class DevServer:
    """The running command, `flash dev` or another that serves. `screen` is all that it printed."""

    def __init__(
        self,
        root: Path,
        arguments: tuple[str, ...],
        command: str = "dev",
        env: Mapping[str, str] | None = None,
    ) -> None:
        self.root = root
        self.lines: list[str] = []
        self._process = subprocess.Popen(
            [sys.executable, "-c", MAIN, command, *arguments],
            cwd=root,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={
                **os.environ,
                "PYTHONUNBUFFERED": "1",
                "NO_COLOR": "1",
                "FLASH_LOG_FORMAT": "text",
                **(env or {}),
            },
        )
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self.lines.append(line.rstrip())

    @property
    def screen(self) -> str:
        return "\n".join(self.lines)

    def wait_for(self, pattern: str, seconds: float = 30) -> re.Match[str]:
        """The first place on the screen that matches."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            found = re.search(pattern, self.screen)
            if found:
                return found
            if self._process.poll() is not None:
                break
            time.sleep(0.01)
        raise AssertionError(f"{pattern!r} is not on the screen:\n{self.screen}")

    @property
    def address(self) -> str:
        return self.wait_for(r"(https?://\S+:\d+)  \(docs")[1]

    @property
    def pid(self) -> int:
        return self._process.pid

    def children(self) -> list[psutil.Process]:
        return psutil.Process(self.pid).children(recursive=True)

    def signal(self) -> None:
        """Ctrl-C."""
        self._process.send_signal(signal.SIGINT)

    def interrupt(self) -> int:
        """Ctrl-C; the exit code."""
        self.signal()
        code = self._process.wait(10)
        self._reader.join(5)
        return code

    def wait(self, seconds: float = 30) -> int:
        code = self._process.wait(seconds)
        self._reader.join(5)
        return code

    def kill(self) -> None:
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()
        self._reader.join(5)
        assert self._process.stdout is not None
        self._process.stdout.close()


@contextmanager
def dev(root: Path, files: Mapping[str, str], *arguments: str) -> Iterator[DevServer]:
    """Run the command on a project; nothing of it is left afterwards."""
    write(root, files)
    server = DevServer(root, arguments or ("--port", "0"))
    try:
        yield server
    finally:
        left = server.children() if psutil.pid_exists(server.pid) else []
        server.kill()
        _, alive = psutil.wait_procs(left, timeout=2)
        # (One that has ended is its new parent's to bury, which may take it a while.)
        alive = [process for process in alive if not _is_buried_soon(process)]
        for process in alive:
            process.kill()
        assert not alive, f"left after the end: {alive}"


def _is_buried_soon(process: psutil.Process) -> bool:
    try:
        return bool(process.status() == psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return True
