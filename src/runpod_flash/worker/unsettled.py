"""Whether the user's files were being saved while they were loaded."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from runpod_flash.spec import Entry

# Editors empty a file, then fill it: at once, but on a busy machine, where it is seen to be empty.
SAVING_SECONDS = 0.2
_FILLING_SECONDS = 3.0


def changed(entry: Entry, error: BaseException, since: float) -> bool:
    """Whether a file that the failed load has read changed about or after that time (Unix, s)."""
    inside = f"{Path(entry.root)}{os.sep}"
    read = (file for file in (*files(entry), *_failed_in(error)) if file.startswith(inside))
    return any(_saved_at(file) > since - SAVING_SECONDS for file in read)


def files(entry: Entry) -> Iterator[str]:
    """The files of all modules that are there, and of those that the entry names."""
    yield from (str(Path(entry.root, file)) for file in (entry.file, *entry.others))
    modules = list(sys.modules.values())
    yield from (getattr(module, "__file__", None) or "" for module in modules)


def _failed_in(error: BaseException) -> Iterator[str]:
    if isinstance(error, SyntaxError):
        yield error.filename or ""
    trace = error.__traceback__
    while trace is not None:
        yield trace.tb_frame.f_code.co_filename
        trace = trace.tb_next


def _saved_at(file: str) -> float:
    try:
        found = Path(file).stat()
    except OSError:  # it is just being replaced
        return float("inf")
    # (That of a package is empty as a rule.)
    emptied = not found.st_size and Path(file).name != "__init__.py"
    return found.st_mtime + (_FILLING_SECONDS if emptied else 0.0)
