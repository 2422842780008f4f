"""Why a file of a project does not import, as its author is to be told; and a limit of its time."""

from __future__ import annotations

import contextlib
import os
import signal
import traceback
from typing import TYPE_CHECKING

from runpod_flash.project.catalog import Problem
from runpod_flash.project.declares import syntax_problem
from runpod_flash.project.project_modules import is_below

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_FLASH = os.path.dirname(os.path.dirname(__file__)) + "/"  # noqa: PTH120


class TooLongError(BaseException):
    """No `Exception`: files catch those."""


@contextlib.contextmanager
def limit(seconds: float) -> Iterator[None]:
    """Interrupt what has not ended by then. (Code that cannot be interrupted, the parent ends.)"""

    def interrupt(*_: object) -> None:
        raise TooLongError(f"has not ended after {seconds:g} s")

    signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def import_problem(root: Path, file: str, error: BaseException) -> Problem:
    if isinstance(error, SyntaxError) and error.filename == str(root / file):
        return syntax_problem(file, error)
    told = traceback.TracebackException.from_exception(error)
    _keep_users_frames(told, str(root))
    lines = [frame.lineno for frame in told.stack if frame.filename == str(root / file)]
    line = (lines[-1] if lines else 0) or 0
    where = f"{file}:{line}" if line else file
    return Problem(file, f"{where}: {_text(error)}", line, "".join(told.format()))


def _text(error: BaseException) -> str:
    """What has happened, in one line."""
    if isinstance(error, TooLongError):
        return f"the import {error}; move what takes so long into a function"
    said = next(iter(str(error).strip().splitlines()), "")
    text = f"{type(error).__name__}: {said}" if said else type(error).__name__
    if isinstance(error, SystemExit):
        main = 'put the program\'s own part below if __name__ == "__main__"'
        return f"the import ends the program ({text}); {main}"
    return text


def _keep_users_frames(told: traceback.TracebackException, root: str) -> None:
    """Leave out the frames of libraries, of the import system and of Flash, also for causes."""
    pending: list[traceback.TracebackException | None] = [told]
    while pending:
        each = pending.pop()
        if each is not None:
            each.stack[:] = [frame for frame in each.stack if _is_users(frame.filename, root)]
            pending += [
                each.__cause__,
                each.__context__,
                *(getattr(each, "exceptions", None) or ()),
            ]


def _is_users(filename: str, root: str) -> bool:
    is_flash = filename.startswith(_FLASH)
    return is_below(filename, root) and not is_flash
