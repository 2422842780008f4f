"""Which unconditional top-level import statement is running, read from frames and source."""

from __future__ import annotations

import os
import sys
from functools import lru_cache
from opcode import EXTENDED_ARG, opmap
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import ast
    from collections.abc import Callable
    from types import FrameType

_IMPORT_NAME = opmap["IMPORT_NAME"]
_OWN = {"importlib", "importlib._bootstrap", __name__, "runpod_flash.placeholders.finder"}


class ImportStatement(NamedTuple):
    """A running statement's import of `target`. `key` tells it from every other statement's."""

    filename: str
    target: str
    is_from: bool
    key: tuple[object, ...]


class _Source(NamedTuple):
    first: int
    last: int
    is_from: bool


def running_import(counts: Callable[[str], bool]) -> ImportStatement | None:
    """The statement that the import system is working for now, if its file `counts`.

    None if that is not a top-level one: a function, a class body, `importlib.import_module()`.
    """
    frame = _importing_frame()
    if frame is None or frame.f_code.co_name != "<module>":
        return None
    target = _imported_name(frame)
    filename = frame.f_code.co_filename
    if target is None or not counts(filename):
        return None
    for source in _top_level_imports(filename, _version(filename)):
        if source.first <= frame.f_lineno <= source.last:
            key = (id(frame), filename, frame.f_lasti)
            return ImportStatement(filename, target, source.is_from, key)
    return None


def _importing_frame() -> FrameType | None:
    frame: FrameType | None = sys._getframe(2)
    while frame is not None and _is_import_system(frame):
        frame = frame.f_back
    return frame


def _is_import_system(frame: FrameType) -> bool:
    if frame.f_code.co_filename.startswith("<frozen importlib"):
        return True
    return frame.f_globals.get("__name__") in _OWN


def _imported_name(frame: FrameType) -> str | None:
    """The operand, if the frame is at an import instruction: one statement may import many."""
    code, at = frame.f_code.co_code, frame.f_lasti
    if code[at] != _IMPORT_NAME:
        return None
    index, shift = code[at + 1], 8
    while at >= 2 and code[at - 2] == EXTENDED_ARG:
        at -= 2
        index |= code[at + 1] << shift
        shift += 8
    return frame.f_code.co_names[index]


def _version(filename: str) -> int:
    """Changes when the file is edited and reloaded."""
    try:
        return os.stat(filename).st_mtime_ns  # noqa: PTH116
    except OSError:
        return 0


@lru_cache(maxsize=256)
def _top_level_imports(filename: str, version: int) -> tuple[_Source, ...]:
    import ast

    try:
        with open(filename, "rb") as file:  # noqa: PTH123 - pathlib is not worth importing here
            body = ast.parse(file.read(), filename).body
    except (OSError, SyntaxError, ValueError):
        return ()
    return tuple(source for node in body for source in _sources(node))


def _sources(node: ast.stmt) -> list[_Source]:
    import ast

    span = (node.lineno, node.end_lineno or node.lineno)
    if isinstance(node, ast.Import):
        return [_Source(*span, False)]
    # A star needs real names, and a relative import is one of the project's own.
    if isinstance(node, ast.ImportFrom) and not node.level and node.names[0].name != "*":
        return [_Source(*span, True)]
    return []
