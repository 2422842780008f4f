"""A terminal with a program in it, as a person would have: what it shows, and what is typed."""

from __future__ import annotations

import codecs
import os
import pty
import re
import subprocess
import sys
import termios
import textwrap
import threading
import time
from contextlib import suppress
from typing import TYPE_CHECKING

import psutil

from behaviour.programs import LEFT_SECONDS, PRELUDE, processes_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from behaviour.programs import Programs

CTRL_C, CTRL_D = "\x03", "\x04"
PROMPT = "(Pdb) "
_ESCAPES = re.compile(r"\x1b\[[0-9;?]*[a-zA-Z]")
# Makes the terminal the program's own, so that its keys send signals.
_TAKE = """
import fcntl, os, sys, termios
os.setsid()
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
os.execv(sys.argv[1], sys.argv[1:])
"""


class Screen:
    """A running program. Leaving the block kills it; nothing of it may be left then."""

    def __init__(
        self,
        programs: Programs,
        source: str,
        *,
        arguments: Sequence[str] = ("app.py",),
        env: Mapping[str, str] | None = None,
        into: str = "",
    ) -> None:
        """Start `source` after PRELUDE, or Python with other `arguments`; its output may go
        `into` a file instead of the terminal.
        """
        programs.write({"app.py": PRELUDE + textwrap.dedent(source)})
        self._home = programs.new_home()
        environ = {**programs.environ(self._home), "TERM": "dumb", **(env or {})}
        command = [programs.python, "-W", "error", *arguments]
        self._master, slave = pty.openpty()
        output = os.open(programs.folder / into, os.O_WRONLY | os.O_CREAT) if into else slave
        self._process = _start(command, slave, output, programs.folder, environ)
        for fd in {slave, output}:
            os.close(fd)
        self._shown: list[str] = []
        self._at = 0
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def __enter__(self) -> Screen:
        return self

    def __exit__(self, *exception: object) -> None:
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
        left = self.left()
        for process in left:  # else the reader would wait for what they show
            with suppress(psutil.NoSuchProcess):
                process.kill()
        self._reader.join(10)
        os.close(self._master)
        assert not left, f"left behind: {left}\n{self.text}"

    def _read(self) -> None:
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        while True:
            try:
                data = os.read(self._master, 1 << 16)
            except OSError:  # the last process that had the terminal is gone
                return
            self._shown.append(decoder.decode(data))

    @property
    def text(self) -> str:
        """All that was shown, what was typed among it."""
        return _ESCAPES.sub("", "".join(self._shown)).replace("\r", "")

    def until(self, *texts: str, timeout: float = 30) -> str:
        """Wait until one of these is shown, after what was waited for last; all up to its end."""
        pattern = re.compile("|".join(map(re.escape, texts)))
        deadline = time.monotonic() + timeout
        while (found := pattern.search(self.text, self._at)) is None:
            ended = self._process.poll() is not None and not self._reader.is_alive()
            assert not ended, f"ended without {texts}:\n{self.text}"
            assert time.monotonic() < deadline, f"no {texts} in {timeout} s:\n{self.text}"
            time.sleep(0.01)
        before, self._at = self._at, found.end()
        return self.text[before : self._at]

    def type(self, text: str) -> None:
        os.write(self._master, text.encode())

    def say(self, line: str, *prompts: str) -> str:
        """Enter a line at the debugger's prompt; what it answers up to the next prompt."""
        self.type(line + "\n")
        return self.until(*(prompts or (PROMPT,)))

    def finish(self, timeout: float = 30) -> int:
        """The exit code of the program, which ends by itself."""
        try:
            code = self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"still running after {timeout} s:\n{self.text}") from None
        self._reader.join(LEFT_SECONDS)
        return code

    def echoes(self) -> bool:
        """Whether the terminal shows what is typed by itself, as a shell expects."""
        wanted = termios.ECHO | termios.ICANON
        return bool(termios.tcgetattr(self._master)[3] & wanted == wanted)

    def kill(self) -> None:
        self._process.kill()

    def left(self) -> list[psutil.Process]:
        """What is left of the program after its end and the time that it may take."""
        deadline = time.monotonic() + LEFT_SECONDS
        while (left := list(processes_of(self._home))) and time.monotonic() < deadline:
            time.sleep(0.02)
        return left


def _start(
    command: Sequence[str], terminal: int, output: int, folder: Path, env: Mapping[str, str]
) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-c", _TAKE, *command],
        cwd=folder,
        env=env,
        stdin=terminal,
        stdout=output,
        stderr=terminal,
    )
