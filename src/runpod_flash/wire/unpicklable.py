"""Says which part of a value cannot be pickled, where it is, and what to send instead."""

from __future__ import annotations

import io
from itertools import islice
from types import AsyncGeneratorType, CoroutineType, FunctionType, GeneratorType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

# A search through more parts than this takes longer than the user's own look would.
_MAX_PARTS = 50_000
_TOO_DEEP = "it is nested too deeply: flatten it, for example into a list"


def describe(value: Any, culprit: Any, error: Exception) -> str:
    """The message for `culprit`, the part of `value` whose pickling raised `error`."""
    if isinstance(error, RecursionError) or "deep recursion" in str(error):
        return f"A value ({_type_name(value)}) cannot be sent, for {_TOO_DEEP}."
    where = _path_to(value, culprit)
    subject = f"{where} ({_type_name(culprit)})" if where else f"A {_type_name(culprit)}"
    if culprit is value:
        subject = f"A value of type {_type_name(value)}"
    return f"{subject} cannot be sent to another process: {_remedy(culprit)}. ({error})"


def _remedy(culprit: Any) -> str:
    if isinstance(culprit, GeneratorType | map | filter | zip):
        return "send a list made from it"
    if isinstance(culprit, CoroutineType | AsyncGeneratorType):
        return "await it first, and send what it gives"
    if isinstance(culprit, io.IOBase):
        return "send the file's path or its content, and open it in the function"
    return "create it inside the function, or send plain data to make it from"


def _type_name(value: Any) -> str:
    kind = type(value)
    module = str(kind.__module__)
    return kind.__qualname__ if module == "builtins" else f"{module}.{kind.__qualname__}"


def _path_to(value: Any, culprit: Any) -> str:
    """Such as `args[1]['lock']`; empty if it is not found."""
    seen: set[int] = set()
    level = [("", value)]
    while level and len(seen) < _MAX_PARTS:
        following: list[tuple[str, Any]] = []
        for path, part in level:
            if part is culprit:
                return path
            if id(part) not in seen:
                seen.add(id(part))
                following += islice(_children(path, part, root=part is value), _MAX_PARTS)
        level = following
    return ""


def _children(path: str, part: Any, *, root: bool) -> Iterator[tuple[str, Any]]:
    if isinstance(part, dict):
        # The arguments of a call are sent as {"args": [...], "kwargs": {...}}.
        call = root and part.keys() == {"args", "kwargs"}
        prefix = path or ("" if call else "value")
        for key, child in part.items():
            yield (str(key) if call else f"{prefix}[{key!r:.60}]"), child
    elif isinstance(part, list | tuple):
        for index, child in enumerate(part):
            yield f"{path or 'value'}[{index}]", child
    elif isinstance(part, set | frozenset):
        for child in part:
            yield f"{path or 'value'}{{...}}", child
    elif isinstance(part, FunctionType):
        for name, cell in zip(part.__code__.co_freevars, part.__closure__ or (), strict=False):
            try:
                yield f"{path or 'value'}'s variable {name}", cell.cell_contents
            except ValueError:  # not assigned yet
                continue
    elif not isinstance(part, type):
        for name, child in getattr(part, "__dict__", {}).items():
            yield f"{path or 'value'}.{name}", child
