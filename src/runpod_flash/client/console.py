"""The terminal of this program, for debuggers in its workers: asks for lines, holds others back."""

from __future__ import annotations

import os
import queue
import select
import sys
import threading
from contextlib import suppress
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

# While somebody types, so many lines of other workers wait; beyond that the oldest are shown.
_MAX_HELD = 10_000


class TerminalConsole:
    """`Console` on standard input and standard error, with a thread of its own that reads.

    A script's lines are edited with readline, which nothing can stop: a question that was
    withdrawn is still being asked, and the next one gets its answer.
    """

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._held: list[str] = []
        self._on_line: Callable[[str | None], object] | None = None
        self._prompts: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._reading = False
        self._wake: tuple[int, int] = (-1, -1)
        self._settings: list[Any] | None = None

    def available(self) -> bool:
        try:
            shown = sys.stderr.isatty() or sys.stdout.isatty()
            return sys.stdin.isatty() and shown and _in_foreground(sys.stdin.fileno())
        except (AttributeError, OSError, ValueError):  # such as a stream that was replaced
            return False

    def write(self, text: str) -> None:
        with self._lock:
            _write(text)

    def line(self, text: str) -> None:
        """Write a line that has nothing to do with a debugger, when nobody is typing."""
        with self._lock:
            if self._on_line is None:
                _write(text)
                return
            self._held.append(text)
            if len(self._held) > _MAX_HELD:
                _write(self._held.pop(0))

    def ask(self, prompt: str, on_line: Callable[[str | None], object]) -> None:
        with self._lock:
            self._on_line = on_line
            if self._reading:
                _write(prompt)
                return
            if self._thread is None:
                self._wake = os.pipe()
                os.set_blocking(self._wake[1], False)
                self._thread = threading.Thread(target=self._read, name="flash-console")
                self._thread.daemon = True
                self._thread.start()
            self._reading = True
            self._settings = _settings()
            self._prompts.put(prompt)

    def withdraw(self) -> None:
        with self._lock:
            if self._on_line is not None:
                self._on_line = None
                with suppress(BlockingIOError):
                    os.write(self._wake[1], b"x")
                _write("\n")
                self._show_held()

    def close(self) -> None:
        """Leave the terminal as it was."""
        with self._lock:
            self.withdraw()
            if self._reading and self._settings is not None:
                import termios

                with suppress(termios.error, OSError, ValueError):
                    termios.tcsetattr(sys.stdin.fileno(), termios.TCSADRAIN, self._settings)

    # On the thread

    def _read(self) -> None:
        while True:
            prompt = self._prompts.get()
            try:
                line = _edited(prompt) if _may_edit() else self._plain(prompt)
            except _WokenError:
                self._look()
            else:
                self._entered(line)

    def _plain(self, prompt: str) -> str | None:
        """A line in the terminal's own line mode."""
        _write(prompt)
        stdin, wake = sys.stdin.fileno(), self._wake[0]
        if stdin not in select.select([stdin, wake], [], [])[0]:
            os.read(wake, 64)
            raise _WokenError
        # Not through `sys.stdin`, whose lock this thread would hold when the program ends.
        data = os.read(stdin, 64 << 10)
        return data.decode(errors="replace").rstrip("\r\n") if data else None

    def _look(self) -> None:
        """A question was withdrawn; another one may have come since."""
        with self._lock:
            self._reading = self._on_line is not None
            if self._reading:
                self._prompts.put("")

    def _entered(self, line: str | None) -> None:
        with self._lock:
            self._reading = False
            on_line, self._on_line = self._on_line, None
            if line is None and on_line is not None:
                _write("\n")
            self._show_held()
        if on_line is not None:
            with suppress(RuntimeError):  # the plane's loop is closed
                on_line(line)

    def _show_held(self) -> None:
        held, self._held = self._held, []
        for text in held:
            _write(text)


class _WokenError(Exception):
    """A question was withdrawn while it was being asked."""


def _may_edit() -> bool:
    """Whether readline may be used: an interactive program wants it back when a call is over."""
    interactive = hasattr(sys, "ps1") or bool(sys.flags.interactive)
    return sys.stdout.isatty() and not interactive


def _edited(prompt: str) -> str | None:
    with suppress(ImportError):
        import readline  # noqa: F401 - gives `input` a history, and keys to edit with
    try:
        return input(prompt)
    except (EOFError, OSError, ValueError):
        return None


def _in_foreground(fd: int) -> bool:
    """Whether this program may read from the terminal: one in the background would be stopped."""
    try:
        return os.tcgetpgrp(fd) == os.getpgrp()
    except OSError:  # no terminal with job control
        return True


def _settings() -> list[Any] | None:
    import termios

    try:
        return termios.tcgetattr(sys.stdin.fileno())
    except (termios.error, OSError, ValueError):
        return None


def _write(text: str) -> None:
    with suppress(OSError, ValueError, AttributeError):
        stream = sys.stderr if sys.stderr.isatty() or not sys.stdout.isatty() else sys.stdout
        stream.write(text)
        stream.flush()
