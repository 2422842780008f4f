"""Runs uv: its output, its failures as one line, and its end when this process ends."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import sys
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from runpod_flash.engines.local.environments.credentials import without_credentials
from runpod_flash.errors import EnvironmentBuildError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

# Runs between this process and the program it starts. Its standard input first brings the length
# of the program's input and the input, then stays open for as long as this process lives: at its
# end (also by SIGKILL) the whole process group goes, build back ends included. (Modules written in
# Python, such as signal and threading, would take a third of its start.)
_GUARD = """
import _thread, os, sys
def exactly(n):
    data = b""
    while len(data) < n:
        part = os.read(0, n - len(data))
        if not part:
            os.killpg(0, 9)  # SIGKILL
        data += part
    return data
text = exactly(int(exactly(12)))
mine, theirs = os.pipe()
actions = [(os.POSIX_SPAWN_DUP2, mine, 0)]
child = os.posix_spawn(sys.argv[1], sys.argv[1:], os.environ, file_actions=actions)
os.close(mine)
_thread.start_new_thread(exactly, (1,))
try:
    while text:
        text = text[os.write(theirs, text):]
except OSError:
    pass
os.close(theirs)
code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
os._exit(code if code >= 0 else 128 - code)
"""
_UNREACHABLE = re.compile(r"error sending request for url|client error \(Connect\)|dns error")
_OFFLINE = re.compile(r"found in the cache|network (?:connectivity )?(?:was|is) disabled", re.I)
_FETCHED = re.compile(r"(?:Failed to fetch:|for url \()\W*([a-z]+://[^\s)`]+)")
_LONGEST_REASON = 700
_GLYPHS = " \t\u00d7\u2502\u2570\u2500\u25b6\u251c"  # of the tree that uv draws


@dataclass(frozen=True)
class Finished:
    """A program that has ended: its exit status and what it wrote."""

    code: int
    stdout: str
    stderr: str

    @property
    def unreachable(self) -> str | None:
        """The address that could not be reached, where that is why the program failed."""
        if self.code == 0 or not _UNREACHABLE.search(self.stderr):
            return None
        match = _FETCHED.search(self.stderr)
        return without_credentials(match[1]) if match else "the package index"

    @property
    def offline(self) -> bool:
        """Whether it failed because uv may not use the network and its cache lacks something."""
        return self.code != 0 and _OFFLINE.search(re.sub(r"\W+", " ", self.stderr)) is not None

    @property
    def reason(self) -> str:
        """Why it failed, in one line, without credentials."""
        shown = [line.strip(_GLYPHS) for line in self.stderr.splitlines()]
        shown = [line for line in shown if line and not line.startswith(("warning:", "hint:"))]
        text = re.sub(r"\s+", " ", " ".join(shown)) or f"it ended with status {self.code}"
        text = re.sub(r"^error: ", "", text).replace(" cause: ", ": ").replace("::", ":")
        text = without_credentials(text).rstrip(".")
        if len(text) <= _LONGEST_REASON:
            return text
        half = _LONGEST_REASON // 2
        return f"{text[:half]} […] {text[-half:]}"


def uv_binary() -> str:
    """The path of the uv that was installed with Flash."""
    import uv

    try:
        return uv.find_uv_bin()
    except FileNotFoundError as error:
        raise EnvironmentBuildError(
            "The uv program is not where its package should have put it; "
            "reinstall the Python package uv."
        ) from error


async def run_guarded(
    command: Sequence[str],
    *,
    env: Mapping[str, str],
    cwd: Path,
    text: str = "",
    on_line: Callable[[str], None] | None = None,
) -> Finished:
    """Run a program with `text` as its standard input until it ends; give all it wrote.

    It runs in a session of its own (Ctrl-C does not reach it) and is killed with all it started
    when the caller is cancelled or this process ends. `on_line` hears its error lines as they come.
    """
    data = text.encode()
    process = await asyncio.create_subprocess_exec(
        *[sys.executable, "-I", "-S", "-c", _GUARD, *command],
        env=dict(env),
        cwd=cwd,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        start_new_session=True,
    )
    assert process.stdin and process.stdout and process.stderr
    try:
        process.stdin.write(b"%12d" % len(data) + data)
        stdout, stderr = await asyncio.gather(
            process.stdout.read(), _read_lines(process.stderr, on_line or (lambda _: None))
        )
        code = await process.wait()
    finally:
        if process.returncode is None:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            await process.wait()
            # Its pipes are closed at their end, which comes now, unless a daemon has them.
            ends = asyncio.gather(process.stdout.read(), process.stderr.read())
            with suppress(asyncio.TimeoutError):
                await asyncio.wait_for(ends, timeout=1)
        process.stdin.close()
    return Finished(code, stdout.decode(errors="replace"), stderr)


async def _read_lines(stream: asyncio.StreamReader, on_line: Callable[[str], None]) -> str:
    text = ""
    partial = ""
    while block := await stream.read(65536):
        decoded = block.decode(errors="replace")
        text += decoded
        *lines, partial = (partial + decoded).split("\n")
        for line in lines:
            on_line(line)
    return text
