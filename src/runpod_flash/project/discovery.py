"""Finds a project's endpoints, in a process of its own: user code never runs in this one."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from runpod_flash.project.catalog import Catalog, Problem

if TYPE_CHECKING:
    from pathlib import Path

# How long one file may take to import.
IMPORT_SECONDS = 30.0
# Without the working directory on its path: the project may have a json.py.
_PROGRAM = (
    "import sys; sys.path[:] = filter(None, sys.path); "
    "from runpod_flash.project.discoverer import main; main()"
)


async def discover(root: Path, import_seconds: float = IMPORT_SECONDS) -> Catalog:
    """Everything in the project that can be served, and why the rest cannot.

    A file that hangs or kills its process is a problem of its own; the others are found without it.
    """
    deadly: list[Problem] = []
    while True:
        attempt = _Attempt(root, [problem.file for problem in deadly], import_seconds)
        try:
            catalog = await attempt.run()
        finally:
            attempt.kill()
        if catalog is not None:
            problems = sorted((*catalog.problems, *deadly), key=lambda p: (p.file, p.line))
            return replace(catalog, problems=tuple(problems))
        if not attempt.file:
            text = f"the endpoints of {root} cannot be found: {attempt.death}"
            return Catalog(str(root), problems=(Problem("", text, detail=attempt.output),))
        text = f"{attempt.file}: {attempt.death} while it was imported"
        deadly.append(Problem(attempt.file, text))


class _Attempt:
    """One run of the discoverer. `file` is the one that it imports, `death` how it ended."""

    def __init__(self, root: Path, skipped: list[str], seconds: float) -> None:
        self.file = ""
        self.death = ""
        self.output = ""
        self._root = root
        self._seconds = seconds
        reader, writer = os.pipe()
        command = [sys.executable, "-c", _PROGRAM, str(root), str(writer), *skipped]
        try:
            self._process = subprocess.Popen(
                command, cwd=root, pass_fds=(writer,), stdin=subprocess.DEVNULL
            )
        finally:
            os.close(writer)
        self._pipe = os.fdopen(reader, "rb", buffering=0)

    async def run(self) -> Catalog | None:
        """The catalog; None if the process ended, or was ended, without one."""
        loop = asyncio.get_running_loop()
        stream = asyncio.StreamReader(limit=1 << 30)
        transport, _ = await loop.connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(stream), self._pipe
        )
        try:
            while True:
                line = await asyncio.wait_for(stream.readline(), self._seconds)
                if not line:
                    break
                word: dict[str, Any] = json.loads(line)
                if "catalog" in word:
                    return Catalog.from_wire(word["catalog"])
                self.file = word["file"]
        except asyncio.TimeoutError:
            self.death = f"took longer than {self._seconds:g} s"
            return None
        finally:
            transport.close()
        code = await asyncio.to_thread(self._process.wait)
        self.death = f"ended the process (exit code {code})"
        return None

    def kill(self) -> None:
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()
