"""How a job's value becomes a function's arguments."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Mapping
from inspect import Parameter
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


def bind(
    function: Callable[..., Any], value: Any, form: str
) -> tuple[Sequence[Any], dict[str, Any]]:
    """Positional and keyword arguments for a call payload or for an input of the queue API."""
    if form == "call":
        return value["args"], value["kwargs"]
    return _parameters(function).take(value)


class _Parameters:
    """Those of a function, as an `input` is mapped to them by name."""

    def __init__(self, signature: inspect.Signature) -> None:
        self._all = all_ = list(signature.parameters.values())
        single = [p for p in all_ if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
        self._names = {p.name for p in single}
        self._required = {p.name for p in single if p.default is Parameter.empty}
        self._open_ended = any(p.kind is Parameter.VAR_KEYWORD for p in all_)
        self._positional = [p for p in all_ if p.kind is Parameter.POSITIONAL_ONLY]
        wanting = [p for p in single if p.name in self._required] or single
        self._only = wanting[0] if len(wanting) == 1 else None

    def take(self, value: Any) -> tuple[Sequence[Any], dict[str, Any]]:
        """The arguments for an input.

        Where the function has one required parameter (or a single one) and the keys do not match
        it, that parameter gets the whole input. Raises `TypeError` that names what is missing or
        unknown.
        """
        named = isinstance(value, Mapping)
        if named and self._matches(value):
            return self._by_name(value)
        only = self._only
        if only is not None and not (named and only.name in value):
            if only is self._all[0] and only.kind is not Parameter.KEYWORD_ONLY:
                return (value,), {}
            return (), {only.name: value}
        if not named:
            raise TypeError(f"input must be an object with {self._shown()}, not {value!r:.80}")
        raise TypeError(self._mismatch(value))

    def _matches(self, value: Mapping[str, Any]) -> bool:
        given = value.keys()
        return self._required <= given and (self._open_ended or given <= self._names)

    def _by_name(self, value: Mapping[str, Any]) -> tuple[list[Any], dict[str, Any]]:
        rest = dict(value)
        # One that is left out before one that is given needs its place filled.
        return [rest.pop(p.name, p.default) for p in self._positional], rest

    def _mismatch(self, value: Mapping[str, Any]) -> str:
        lacking = self._required - value.keys()
        missing = [p.name for p in self._all if p.name in lacking]
        unknown = [str(name) for name in value if name not in self._names]
        parts = []
        if missing:
            parts.append(f"lacks {', '.join(map(repr, missing))}")
        if unknown:
            parts.append(f"has unknown {', '.join(map(repr, unknown))}")
        return f"input {' and '.join(parts)}; the function takes {self._shown()}"

    def _shown(self) -> str:
        return ", ".join(repr(p.name) for p in self._all) or "no parameters"


# (To look at a signature takes as long as all else of a short job. Methods are kept with their
# objects, which a worker keeps anyway.)
@functools.lru_cache(maxsize=1000)
def _parameters(function: Callable[..., Any]) -> _Parameters:
    return _Parameters(inspect.signature(function))
