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
    bytes: {"type": "string", "contentEncoding": "base64"},
    bytearray: {"type": "string", "contentEncoding": "base64"},
    datetime.datetime: {"type": "string", "format": "date-time"},
    datetime.date: {"type": "string", "format": "date"},
    datetime.time: {"type": "string", "format": "time"},
    datetime.timedelta: {"type": ["number", "string"]},
    uuid.UUID: {"type": "string", "format": "uuid"},
    pathlib.PurePath: {"type": "string"},
    pathlib.Path: {"type": "string"},
    decimal.Decimal: {"type": ["number", "string"]},
}
_STREAMS = (
    collections.abc.Iterator,
    collections.abc.AsyncIterator,
    collections.abc.Iterable,
    collections.abc.AsyncIterable,
    collections.abc.Generator,
    collections.abc.AsyncGenerator,
)
# Other modules' containers may be anything.
_STANDARD = ("builtins", "collections", "collections.abc")
# A value of a subclass is written as one of these.
_PLAIN = (str, bool, int, float, bytes)
_VARIADIC = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
_MAX_DEPTH = 8
_MAX_DEFAULT = 4_000  # characters; more is of no use to a reader


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
    return text.strip().partition("\n")[0].strip() if isinstance(text, str) else ""


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
    schema = schema_of(hints.get(parameter.name, Any))
    if parameter.default is None and not _allows_none(schema):
        schema = {"anyOf": [schema, {"type": "null"}]}  # `seed: int = None`
    value = parameter.default
    value = value.value if isinstance(value, enum.Enum) else value
    if value is not parameter.empty and _is_json(value):
        text = json.dumps(value)
        if len(text) <= _MAX_DEFAULT:
            schema["default"] = json.loads(text)
    return schema


def _allows_none(schema: Schema) -> bool:
    if "enum" in schema:
        return None in schema["enum"]
    if "anyOf" in schema:
        return any(map(_allows_none, schema["anyOf"]))
    return bool(schema.get("type", "null") == "null")


def _is_json(value: Any) -> bool:
    try:
        json.dumps(value, allow_nan=False)
    except Exception:  # a subclass of a dictionary may raise anything
        return False
    return True


def schema_of(hint: Any, depth: int = 0) -> Schema:
    """The schema of one annotation. Whatever is wrong with one, it allows anything."""
    if depth > _MAX_DEPTH:
        return {}
    try:
        simple = _SIMPLE.get(hint)
        return dict(simple) if simple is not None else _of_type(hint, depth)
    except Exception:  # not hashable, or a class of the user's that does as it likes
        return {}


def _of_type(hint: Any, depth: int) -> Schema:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is None:
        return _of_class(hint, depth) if isinstance(hint, type) else _of_name(hint, depth)
    if origin is typing.Annotated:
        return schema_of(arguments[0], depth)
    if origin is typing.Literal:
        return _enum(arguments)
    if origin in (typing.Union, types.UnionType):
        either = [schema_of(argument, depth + 1) for argument in arguments]
        return {"anyOf": either} if all(either) else {}  # one of them allows anything
    if not isinstance(origin, type):  # Required[], Final[] and the like, or an alias with values
        return schema_of(arguments[0], depth + 1) if len(arguments) == 1 else {}
    if origin is tuple:
        return _tuple(arguments, depth)
    return _container(origin, arguments, depth) or _of_class(origin, depth)


def _of_name(hint: Any, depth: int) -> Schema:
    """Of `NewType`s, and of aliases by a `type` statement."""
    named = getattr(hint, "__supertype__", None) or getattr(hint, "__value__", Any)
    return {} if named is Any else schema_of(named, depth + 1)


def _enum(values: Iterable[Any]) -> Schema:
    plain = [value.value if isinstance(value, enum.Enum) else value for value in values]
    return {"enum": plain} if _is_json(plain) else {}


def _container(kind: type, arguments: tuple[Any, ...], depth: int) -> Schema | None:
    if kind.__module__ not in _STANDARD or not issubclass(kind, collections.abc.Iterable):
        return None
    if issubclass(kind, collections.abc.Mapping):
        values = schema_of(arguments[1], depth + 1) if len(arguments) == 2 else {}
        return {"type": "object", **({"additionalProperties": values} if values else {})}
    items = schema_of(arguments[0], depth + 1) if arguments else {}
    return {"type": "array", **({"items": items} if items else {})}


def _tuple(arguments: tuple[Any, ...], depth: int) -> Schema:
    if not arguments or arguments[-1] is ...:
        return _container(tuple, arguments[:1], depth) or {}
    items = [schema_of(argument, depth + 1) for argument in arguments]
    size = len(items)
    # (To say it place by place, draft 7 and later ones have different words.)
    return {"type": "array", "items": {"anyOf": items}, "minItems": size, "maxItems": size}


def _of_class(hint: type, depth: int) -> Schema:
    if issubclass(hint, enum.Enum):
        return _enum(hint)
    if hasattr(hint, "model_json_schema"):
        return _of_model(hint)
    if dataclasses.is_dataclass(hint):
        fields = {f.name: _is_required(f) for f in dataclasses.fields(hint) if f.init}
        return _object(hint, fields, depth)
    if issubclass(hint, dict) and hasattr(hint, "__total__"):  # a TypedDict, whoever's
        return _object(hint, _keys(hint), depth)
    if issubclass(hint, tuple) and hasattr(hint, "_fields"):
        hints = _hints_of_class(hint)
        return _tuple(tuple(hints.get(name, Any) for name in hint._fields), depth)
    plain = next((_SIMPLE[base] for base in hint.__mro__ if base in _PLAIN), {})
    return dict(plain) or _container(hint, (), depth) or {}


def _is_required(field: dataclasses.Field[Any]) -> bool:
    missing = dataclasses.MISSING
    return field.default is missing and field.default_factory is missing


def _keys(hint: Any) -> dict[str, bool]:
    """The keys of a `TypedDict`. (Of annotations that are text, it does not know itself.)"""
    said = {
        name: str(typing.get_origin(each)).rpartition(".")[2]
        for name, each in _hints_of_class(hint).items()
    }
    known: frozenset[str] = getattr(hint, "__required_keys__", frozenset())
    return {
        name: word == "Required" or (word != "NotRequired" and name in known)
        for name, word in said.items()
    }


def _object(hint: type, fields: dict[str, bool], depth: int) -> Schema:
    """With these properties, by whether they are required."""
    hints = _hints_of_class(hint)
    return {
        "type": "object",
        "properties": {name: schema_of(hints.get(name, Any), depth + 1) for name in fields},
        "required": [name for name, needed in fields.items() if needed],
    }


def _hints_of_class(hint: type) -> dict[str, Any]:
    try:
        return typing.get_type_hints(hint, include_extras=True)
    except Exception:
        return dict.fromkeys(getattr(hint, "__annotations__", {}), Any)


def _of_model(model: Any) -> Schema:
    """A pydantic model's own schema, with what it refers to put in its place."""
    try:
        schema = model.model_json_schema()
    except Exception:
        return {"type": "object"}
    inlined: Schema = _inline(schema, schema.get("$defs", {}), frozenset())
    return inlined if _is_json(inlined) else {"type": "object"}


def _inline(node: Any, definitions: Schema, within: frozenset[str]) -> Any:
    if isinstance(node, list):
        return [_inline(item, definitions, within) for item in node]
    if not isinstance(node, dict):
        return node
    reference = node.get("$ref")
    rest = {
        key: _inline(value, definitions, within)
        for key, value in node.items()
        if key not in ("$ref", "$defs")
    }
    if not isinstance(reference, str) or reference in within:  # (it holds itself)
        return rest
    known: Schema = definitions.get(reference.rpartition("/")[2], {})
    return {**_inline(known, definitions, within | {reference}), **rest}
