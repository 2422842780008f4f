"""From a function's annotations to JSON schemas of its input and output (draft 7)."""

from __future__ import annotations

import collections.abc
import dataclasses
import datetime
import decimal
import enum
import inspect
import json
import pathlib
import types
import typing
import uuid
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

Schema = dict[str, Any]

_SIMPLE: dict[Any, Schema] = {
    str: {"type": "string"},
    int: {"type": "integer"},
    float: {"type": "number"},
    bool: {"type": "boolean"},
    None: {"type": "null"},
    type(None): {"type": "null"},
    dict: {"type": "object"},
    list: {"type": "array"},
    tuple: {"type": "array"},
    set: {"type": "array"},
    frozenset: {"type": "array"},
    bytes: {"type": "string", "contentEncoding": "base64"},
    datetime.datetime: {"type": "string", "format": "date-time"},
    datetime.date: {"type": "string", "format": "date"},
    datetime.time: {"type": "string", "format": "time"},
    datetime.timedelta: {"type": "string"},
    uuid.UUID: {"type": "string", "format": "uuid"},
    pathlib.Path: {"type": "string"},
    decimal.Decimal: {"type": "string"},
}
_ARRAYS = (
    list,
    set,
    frozenset,
    collections.abc.Sequence,
    collections.abc.Iterable,
    collections.abc.Collection,
)
_MAPPINGS = (dict, collections.abc.Mapping, collections.abc.MutableMapping)
_STREAMS = (
    collections.abc.Iterator,
    collections.abc.AsyncIterator,
    collections.abc.Iterable,
    collections.abc.AsyncIterable,
    collections.abc.Generator,
    collections.abc.AsyncGenerator,
)
_VARIADIC = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
_MAX_DEPTH = 8


def input_schema(function: Callable[..., Any]) -> Schema:
    """The schema of an object with the function's parameters; unknown types allow anything."""
    signature = inspect.signature(function)
    hints = _hints(function)
    parameters = signature.parameters.values()
    shown = [p for p in parameters if p.kind not in _VARIADIC and p.name != "self"]
    return {
        "type": "object",
        "properties": {p.name: _parameter(p, hints) for p in shown},
        "required": [p.name for p in shown if p.default is p.empty],
        "additionalProperties": any(p.kind is p.VAR_KEYWORD for p in parameters),
    }


def output_schema(function: Callable[..., Any], *, streams: bool) -> Schema:
    """The schema of the result, or of one value of a stream."""
    hint = _hints(function).get("return", Any)
    if streams:
        arguments = typing.get_args(hint)
        if typing.get_origin(hint) not in _STREAMS or not arguments:
            return {}
        hint = arguments[0]
    return schema_of(hint)


def summary(target: Any) -> str:
    """The first line of the docstring, its own and not an inherited one."""
    text = getattr(target, "__doc__", None)
    return text.strip().partition("\n")[0] if isinstance(text, str) else ""


def _hints(function: Callable[..., Any]) -> dict[str, Any]:
    try:
        return typing.get_type_hints(function, include_extras=True)
    except Exception:  # a name that only type checkers see; the others are still told
        found = dict(getattr(function, "__annotations__", {}))
        return {name: _evaluated(function, hint) for name, hint in found.items()}


def _evaluated(function: Callable[..., Any], hint: Any) -> Any:
    if not isinstance(hint, str):
        return hint
    try:
        return eval(hint, getattr(function, "__globals__", {}))
    except Exception:
        return Any


def _parameter(parameter: inspect.Parameter, hints: dict[str, Any]) -> Schema:
    schema = dict(schema_of(hints.get(parameter.name, Any)))
    if parameter.default is not parameter.empty and _is_json(parameter.default):
        schema["default"] = parameter.default
    return schema


def _is_json(value: Any) -> bool:
    try:
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError, RecursionError):
        return False
    return True


def schema_of(hint: Any, depth: int = 0) -> Schema:
    """The schema of one annotation."""
    if depth > _MAX_DEPTH:
        return {}
    try:
        if hint in _SIMPLE:
            return dict(_SIMPLE[hint])
    except TypeError:  # not hashable
        return {}
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Annotated:
        return schema_of(arguments[0], depth)
    if origin is typing.Literal:
        values = [value.value if isinstance(value, enum.Enum) else value for value in arguments]
        return {"enum": values} if _is_json(values) else {}
    if origin in (typing.Union, types.UnionType):
        return {"anyOf": [schema_of(argument, depth + 1) for argument in arguments]}
    if origin is tuple:
        return _tuple(arguments, depth)
    if origin in _ARRAYS:
        return {"type": "array", "items": schema_of(arguments[0], depth + 1)}
    if origin in _MAPPINGS:
        return {"type": "object", "additionalProperties": schema_of(arguments[1], depth + 1)}
    return _of_class(hint, depth) if isinstance(hint, type) else {}


def _tuple(arguments: tuple[Any, ...], depth: int) -> Schema:
    if len(arguments) == 2 and arguments[1] is ...:
        return {"type": "array", "items": schema_of(arguments[0], depth + 1)}
    return {"type": "array", "minItems": len(arguments), "maxItems": len(arguments)}


def _of_class(hint: type, depth: int) -> Schema:
    if issubclass(hint, enum.Enum):
        values = [member.value for member in hint]
        return {"enum": values} if _is_json(values) else {}
    if hasattr(hint, "model_json_schema"):
        return _of_model(hint)
    if dataclasses.is_dataclass(hint):
        needed = [f.name for f in dataclasses.fields(hint) if _is_required(f)]
        return _object(hint, needed, depth)
    if typing.is_typeddict(hint):
        return _object(hint, sorted(hint.__required_keys__), depth)
    if issubclass(hint, tuple) and hasattr(hint, "_fields"):
        return {"type": "array"}
    return {}


def _is_required(field: dataclasses.Field[Any]) -> bool:
    missing = dataclasses.MISSING
    return field.init and field.default is missing and field.default_factory is missing


def _object(hint: type, required: Iterable[str], depth: int) -> Schema:
    try:
        hints = typing.get_type_hints(hint)
    except Exception:
        hints = dict.fromkeys(getattr(hint, "__annotations__", {}), Any)
    properties = {name: schema_of(each, depth + 1) for name, each in hints.items()}
    return {"type": "object", "properties": properties, "required": list(required)}


def _of_model(model: Any) -> Schema:
    """A pydantic model's own schema, with what it refers to put in its place."""
    try:
        schema = model.model_json_schema()
    except Exception:
        return {"type": "object"}
    definitions = schema.pop("$defs", {})
    inlined: Schema = _inline(schema, definitions, 0)
    return inlined if _is_json(inlined) else {"type": "object"}


def _inline(node: Any, definitions: Schema, depth: int) -> Any:
    if isinstance(node, list):
        return [_inline(item, definitions, depth) for item in node]
    if not isinstance(node, dict):
        return node
    reference = node.get("$ref")
    if isinstance(reference, str):
        if depth > _MAX_DEPTH:  # a model that holds itself
            return {"type": "object"}
        return _inline(definitions.get(reference.rpartition("/")[2], {}), definitions, depth + 1)
    return {key: _inline(value, definitions, depth) for key, value in node.items()}
