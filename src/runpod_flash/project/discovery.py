"""Finds a project's endpoints, in a process of its own: user code never runs in this one."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runpod_flash.project.catalog import Catalog, Problem

if TYPE_CHECKING:
    from collections.abc import Sequence

# How long one file may take to import.
IMPORT_SECONDS = 30.0
# The process interrupts the file itself. It is killed where that does not help.
_GRACE_SECONDS = 2.0
# Without the working directory on its path: the project may have a json.py.
_PROGRAM = (
    "import sys; sys.path[:] = filter(None, sys.path); "
    "from runpod_flash.project.discoverer import main; main()"
)


async def discover(root: Path, import_seconds: float = IMPORT_SECONDS) -> Catalog:
    """Everything in the project that can be served, and why the rest cannot.

    A file that hangs or ends its process is a problem of its own; the others are found without it.
    Cancelling this ends the process, and what the files have started.
    """
    root = Path(os.path.normpath(root.absolute()))
    deadly: list[Problem] = []
    while True:
        try:
            attempt = _Attempt(root, [problem.file for problem in deadly], import_seconds)
        except OSError as error:  # no such directory, or no more processes
            return _nothing(root, f"{type(error).__name__}: {error}")
        try:
            catalog = await attempt.run()
        finally:
            attempt.kill()
        if catalog is not None:
            problems = sorted((*catalog.problems, *deadly), key=lambda p: (p.file, p.line))
            return replace(catalog, problems=tuple(problems))
        if not attempt.file:
            return _nothing(root, f"the process that looks for them {attempt.death}")
        text = f"{attempt.file}: the import {attempt.death}"
        deadly.append(Problem(attempt.file, text))


def _nothing(root: Path, cause: str) -> Catalog:
    text = f"the endpoints of {root} cannot be found: {cause}"
    return Catalog(str(root), problems=(Problem("", text),))


class _Attempt:
    """One run of the discoverer. `file` is the one that it imports, `death` how it ended."""

    def __init__(self, root: Path, skipped: Sequence[str], seconds: float) -> None:
        self.file = ""
        self.death = ""
        self._seconds = seconds
        # (No pipe: uvloop closes a pipe's descriptor twice, which by then may be another thread's.)
        self._ours, theirs = socket.socketpair()
        fd = theirs.fileno()
        command = [sys.executable, "-c", _PROGRAM, str(root), str(fd), str(seconds), *skipped]
        try:
            self._process = subprocess.Popen(
                command,
                cwd=root,
                pass_fds=(fd,),
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )
        except BaseException:
            self._ours.close()
            raise
        finally:
            theirs.close()

    async def run(self) -> Catalog | None:
        """The catalog; None if the process ended, or was ended, without one."""
        stream, writer = await asyncio.open_unix_connection(sock=self._ours, limit=1 << 30)
        try:
            while line := await self._line(stream):
                word: dict[str, Any] = json.loads(line)
                if "catalog" in word:
                    return Catalog.from_wire(word["catalog"])
                self.file = word["file"]
        finally:
            writer.close()
        self.kill()  # it is over, or it would have the socket: this does not change its exit code
        self.death = self.death or _death(self._process.returncode)
        return None

    async def _line(self, stream: asyncio.StreamReader) -> bytes:
        """The next line; none where it takes too long. (`wait_for` may lose a cancellation.)"""

        def expire() -> None:
            self.death = f"has not ended after {self._seconds:g} s"
            stream.feed_eof()

        timer = asyncio.get_running_loop().call_later(self._seconds + _GRACE_SECONDS, expire)
        try:
            line = await stream.readline()
        finally:
            timer.cancel()
        return line if line.endswith(b"\n") and not self.death else b""

    def kill(self) -> None:
        """End the process, and what the files have started in it."""
        if self._process.returncode is None:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()


def _death(code: int) -> str:
    if code >= 0:
        return f"ended the process (exit code {code})"
    with suppress(ValueError):
        return f"ended the process ({signal.Signals(-code).name})"
    return f"ended the process (signal {-code})"
