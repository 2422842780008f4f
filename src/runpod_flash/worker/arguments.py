"""How a job's value becomes a function's arguments."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from inspect import Parameter
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_NAMED = (Parameter.POSITIONAL_OR_KEYWORD, Parameter.KEYWORD_ONLY)


def bind(
    function: Callable[..., Any], value: Any, form: str
) -> tuple[Sequence[Any], dict[str, Any]]:
    """Positional and keyword arguments for a call payload or for an input of the queue API."""
    if form == "call":
        return value["args"], value["kwargs"]
    return from_input(inspect.signature(function), value)


def from_input(signature: inspect.Signature, value: Any) -> tuple[Sequence[Any], dict[str, Any]]:
    """Map `input` to parameters by name.

    Where the function has one required parameter (or a single one) and the keys do not match it,
    that parameter gets the whole input. Raises `TypeError` that names what is missing or unknown.
    """
    parameters = list(signature.parameters.values())
    if isinstance(value, Mapping) and _matches(parameters, value):
        return _by_name(parameters, value)
    required = [p for p in parameters if p.default is Parameter.empty and _takes_one(p)]
    single = required if required else [p for p in parameters if _takes_one(p)]
    only = single[0] if len(single) == 1 else None
    if only is not None and not (isinstance(value, Mapping) and only.name in value):
        if only.kind is Parameter.KEYWORD_ONLY:
            return (), {only.name: value}
        if only is parameters[0]:
            return (value,), {}
        return (), {only.name: value}
    if not isinstance(value, Mapping):
        raise TypeError(f"input must be an object with {_names(parameters)}, not {value!r:.80}")
    raise TypeError(_mismatch(parameters, value))


def _takes_one(parameter: Parameter) -> bool:
    return parameter.kind not in (Parameter.VAR_POSITIONAL, Parameter.VAR_KEYWORD)


def _matches(parameters: list[Parameter], value: Mapping[str, Any]) -> bool:
    names = {p.name for p in parameters if _takes_one(p)}
    open_ended = any(p.kind is Parameter.VAR_KEYWORD for p in parameters)
    required = {p.name for p in parameters if _takes_one(p) and p.default is Parameter.empty}
    return required <= value.keys() and (open_ended or value.keys() <= names)


def _by_name(
    parameters: list[Parameter], value: Mapping[str, Any]
) -> tuple[list[Any], dict[str, Any]]:
    rest = dict(value)
    args = []
    for parameter in parameters:
        if parameter.kind is Parameter.POSITIONAL_ONLY:
            # One that is left out before one that is given needs its place filled.
            args.append(rest.pop(parameter.name, parameter.default))
    return args, rest


def _mismatch(parameters: list[Parameter], value: Mapping[str, Any]) -> str:
    names = {p.name for p in parameters if _takes_one(p)}
    missing = [
        p.name
        for p in parameters
        if _takes_one(p) and p.default is Parameter.empty and p.name not in value
    ]
    unknown = [str(name) for name in value if name not in names]
    parts = []
    if missing:
        parts.append(f"lacks {', '.join(map(repr, missing))}")
    if unknown:
        parts.append(f"has unknown {', '.join(map(repr, unknown))}")
    return f"input {' and '.join(parts)}; the function takes {_names(parameters)}"


def _names(parameters: list[Parameter]) -> str:
    names = ", ".join(repr(p.name) for p in parameters)
    return names or "no parameters"
