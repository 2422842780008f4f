"""What a person sees of an embedded run: workers' lines and notices, on standard error."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

from runpod_flash.plane.events import Logged, Notice
from runpod_flash.printable import LINES, printable

if TYPE_CHECKING:
    from collections.abc import Callable

    from runpod_flash.plane.events import Event


class Printer:
    """Prints log lines, prefixed with their endpoint, and notices, when `write` lets them."""

    def __init__(self, write: Callable[[str], None] | None = None) -> None:
        self._write = write or _write

    def __call__(self, event: Event) -> None:
        if isinstance(event, Logged):
            self._write(f"{_dim(f'[{event.endpoint}]')} {event.line.text}\n")
        elif isinstance(event, Notice):
            say(event.text, event.endpoint, self._write)


def say(text: str, endpoint: str = "", write: Callable[[str], None] | None = None) -> None:
    """One line from Flash itself."""
    (write or _write)(f"{line_of(text, endpoint)}\n")


def line_of(text: str, endpoint: str = "") -> str:
    """What Flash itself says, as a line; the endpoint is named where the text does not begin so."""
    named = not endpoint or text.startswith((f"{endpoint} ", f"{endpoint}-"))
    about = "" if named else f" {endpoint}:"
    return f"{_dim('flash:')}{about} {printable(text, keep=LINES)}"


def _write(line: str) -> None:
    try:
        sys.stderr.write(line)
        sys.stderr.flush()
    except (OSError, ValueError, AttributeError):
        pass  # the terminal is gone; the work goes on


def _dim(text: str) -> str:
    if os.environ.get("NO_COLOR") or not getattr(sys.stderr, "isatty", bool)():
        return text
    return f"\x1b[2m{text}\x1b[0m"
