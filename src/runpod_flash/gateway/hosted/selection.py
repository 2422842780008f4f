"""Just enough of GraphQL: which one field a document asks for, and which fields of its answer."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator

    Fields = dict[str, "Fields"]

_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"|#[^\n]*|[A-Za-z_]\w*|\S')
_MAX_CHARACTERS = 20_000
_MAX_DEPTH = 20


class Asked(NamedTuple):
    """The field that is asked for, and the selection of its fields; empty for a scalar."""

    field: str
    selection: Fields


def parse(document: str) -> Asked:
    """Raises `ValueError` for what is no document with one operation and one field.

    Arguments are passed over: clients send them as variables. There are no fragments and aliases.
    """
    if len(document) > _MAX_CHARACTERS:
        raise ValueError("the document is too long")
    tokens = iter([each for each in _TOKEN.findall(document) if each[0] != "#"])
    for token in tokens:
        if token == "(":
            _skip(tokens)
        elif token == "{":
            asked = _fields(tokens, 0)
            if len(asked) != 1:
                raise ValueError("the document asks for one field, and no more")
            return Asked(*next(iter(asked.items())))
    raise ValueError("the document has no selection")


def pick(value: Any, selection: Fields) -> Any:
    """Of an answer, what was asked for; what it lacks is null."""
    if isinstance(value, list):
        return [pick(each, selection) for each in value]
    if not isinstance(value, dict) or not selection:
        return value
    return {name: pick(value.get(name), inner) for name, inner in selection.items()}


def _fields(tokens: Iterator[str], depth: int) -> Fields:
    if depth > _MAX_DEPTH:
        raise ValueError("the document is nested too deeply")
    found: Fields = {}
    last = ""
    for token in tokens:
        if token == "}":
            return found
        if token == "(":
            _skip(tokens)
        elif token == "{":
            if not last:
                raise ValueError("a selection belongs to a field")
            found[last] = _fields(tokens, depth + 1)
        elif token.isidentifier():
            last = token
            found.setdefault(token, {})
        elif token != ",":
            raise ValueError(f"{token!r} is not understood here")
    raise ValueError("the document ends too early")


def _skip(tokens: Iterator[str]) -> None:
    """The rest of what stands in parentheses."""
    depth = 1
    for token in tokens:
        depth += (token == "(") - (token == ")")
        if not depth:
            return
    raise ValueError("the document ends too early")
