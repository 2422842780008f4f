"""Runs the real `flash` command: in a process, and as in a terminal."""

from __future__ import annotations

import os
import pty
import select
import subprocess
import sys
import time
from contextlib import suppress
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

MAIN = "from runpod_flash.cli.main import main; main()"  # what the installed command does
_SECONDS = 60.0


def flash(
    *arguments: str,
    before: str = "",
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    given: str = "",
) -> subprocess.CompletedProcess[str]:
    """Without a terminal. `before` is code that runs first, `given` the standard input."""
    return subprocess.run(
        [sys.executable, "-c", f"{before}{MAIN}", *arguments],
        cwd=cwd,
        env=_environ(env),
        input=given,
        capture_output=True,
        text=True,
        errors="replace",
        timeout=_SECONDS,
        check=False,
    )


class Screen(NamedTuple):
    """What a command left on its terminal, with what was typed."""

    code: int
    text: str


def in_terminal(
    *arguments: str,
    typed: str = "",
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
) -> Screen:
    """In a terminal of 80 columns."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", MAIN, *arguments],
        cwd=cwd,
        env=_environ({"TERM": "xterm-256color", "COLUMNS": "80", **(env or {})}),
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
    )
    os.close(theirs)
    os.write(ours, typed.encode())
    text = _read(ours)
    os.close(ours)
    return Screen(process.wait(_SECONDS), text.replace("\r\n", "\n"))


def _read(fd: int) -> str:
    """All until the last program has closed the terminal."""
    data, deadline = b"", time.monotonic() + _SECONDS
    with suppress(OSError):  # Linux says so at the end
        while select.select([fd], [], [], max(deadline - time.monotonic(), 0))[0]:
            block = os.read(fd, 65536)
            if not block:
                break
            data += block
    return data.decode(errors="replace")


def _environ(given: Mapping[str, str] | None) -> dict[str, str]:
    """The tests' own variables without those that Flash or colours heed."""
    dropped = ("FLASH_", "RUNPOD_", "NO_COLOR", "COLUMNS", "TERM")
    kept = {k: v for k, v in os.environ.items() if not k.startswith(dropped)}
    return {**kept, **(given or {})}
