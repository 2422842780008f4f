"""Tagged values: what JSON cannot say, written as `{"$": tag, ...}` and read without a pickle.

A type is found by its name, so that datetime, decimal, pathlib, uuid and numpy are imported only by
programs that use them. Only exact types count: a subclass may carry more than its base shows.
"""

from __future__ import annotations

import json
import math
import sys
from binascii import a2b_base64, b2a_base64
from typing import TYPE_CHECKING, Any, TypeAlias

from runpod_flash.errors import SerializationError
from runpod_flash.wire.numpy_values import numpy_writer, read_array, read_numpy_scalar

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence

Buffer: TypeAlias = bytes | bytearray | memoryview
Tagged: TypeAlias = dict[str, Any]
# Gives memory for so many bytes that will be sent; None where there is none of a special kind.
Room: TypeAlias = "Callable[[int], memoryview | None]"

SCALARS = frozenset({str, int, float, bool, type(None)})
# How our own bodies, and no others, spell the key: they hold no blanks between tokens.
TAG_MARK = b'"$":'
# Below what any reader's stack allows; deeper values are pickled, if even that succeeds.
MAX_DEPTH = 100
INLINE_LIMIT = 1024
# Python refuses to parse longer decimal integers (4,300 digits unless the user says otherwise).
_MAX_INT_BITS = 2000


def no_room(_: int) -> None:
    """A `Room` that has none."""


class NotSafe(Exception):  # noqa: N818 - an answer, not an error
    """The value needs a pickle."""


class TagWriter:
    """Turns one value into JSON-ready data, and collects its large binary parts in `buffers`.

    Not `strict`, it leaves scalars to the JSON encoder, which raises ValueError for those that need
    a tag after all (non-finite floats, lone surrogates, huge integers). Arrays are copied to what
    `room` gives.
    """

    def __init__(self, *, strict: bool, room: Room) -> None:
        self.strict = strict
        self.room = room
        self.buffers: list[Buffer] = []

    def write(self, value: Any, depth: int = 0) -> Any:
        kind = type(value)
        if kind in SCALARS:
            return _scalar(value) if self.strict else value
        if depth >= MAX_DEPTH:
            raise NotSafe
        if kind is dict:
            return self._dict(value, depth + 1)
        if kind is list:
            return self._items(value, depth + 1)
        if kind in _SEQUENCES:
            return {"$": kind.__name__, "v": self._items(value, depth + 1)}
        if kind is bytes or kind is bytearray:
            return {"$": kind.__name__, **self.binary(value)}
        return self._special(kind)(self, value)

    def binary(self, data: bytes | bytearray) -> Tagged:
        """Inline if short. Immutable bytes are referred to, others are copied once."""
        if len(data) < INLINE_LIMIT:
            return {"v": b2a_base64(data, newline=False).decode("ascii")}
        return self.buffer(bytes(data))

    def buffer(self, data: Buffer) -> Tagged:
        """Beside the body; `data` does not change any more."""
        self.buffers.append(data)
        return {"b": len(self.buffers) - 1}

    def _items(self, values: Collection[Any], depth: int) -> Sequence[Any]:
        kinds = set(map(type, values))
        if kinds <= SCALARS and not self.strict:
            return list(values)
        if kinds == {float}:
            return [v if math.isfinite(v) else _scalar(v) for v in values]
        items = []
        for value in values:  # a comprehension would cost a frame a level
            items.append(self.write(value, depth))
        return items

    def _dict(self, values: dict[Any, Any], depth: int) -> Tagged:
        if not self._json_keys(values):
            pairs = [
                [self.write(key, depth), self.write(value, depth)] for key, value in values.items()
            ]
            return {"$": "dict", "v": pairs}
        written = {}
        for key, value in values.items():
            written[key] = self.write(value, depth)
        return written

    def _json_keys(self, values: dict[Any, Any]) -> bool:
        if "$" in values or not set(map(type, values)) <= {str}:
            return False
        return not self.strict or all(_scalar(key) is key for key in values)

    def _special(self, kind: type) -> Callable[[TagWriter, Any], Tagged]:
        # pathlib is a package since 3.13.
        module = str(kind.__module__).replace("pathlib._local", "pathlib")
        writer = numpy_writer(kind) or _WRITERS.get(f"{module}.{kind.__qualname__}")
        found = getattr(sys.modules.get(kind.__module__), kind.__name__, None)
        if writer is None or found is not kind:
            raise NotSafe
        return writer


def _scalar(value: Any) -> Any:
    kind = type(value)
    if kind is float and not math.isfinite(value):
        return {"$": "float", "v": repr(value)}
    if kind is int and value.bit_length() > _MAX_INT_BITS:
        return {"$": "int", "v": hex(value)}
    if kind is str and not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError:
            data = value.encode("utf-8", "surrogatepass")
            return {"$": "str", "v": b2a_base64(data, newline=False).decode("ascii")}
    return value


_SEQUENCES = frozenset({tuple, set, frozenset})


def _write_clock(writer: TagWriter, value: Any) -> Tagged:
    """A datetime or a time."""
    text = value.replace(tzinfo=None, fold=0).isoformat()
    tagged = {"$": type(value).__name__, "v": text, "fold": value.fold}
    if value.tzinfo is not None:
        tagged["tz"] = writer.write(value.tzinfo)
    return tagged


def _write_offset(_: TagWriter, value: Any) -> Tagged:
    offset, *name = value.__getinitargs__()
    return {"$": "timezone", "v": [offset.days, offset.seconds, offset.microseconds, *name]}


def _write_zone(_: TagWriter, value: Any) -> Tagged:
    if value.key is None:  # made from a file, which the reader does not have
        raise NotSafe
    return {"$": "zone", "v": value.key}


def _text_writer(tag: str, text: Callable[[Any], str] = str) -> Callable[[TagWriter, Any], Tagged]:
    return lambda writer, value: {"$": tag, "v": _scalar(text(value))}


_WRITERS: dict[str, Callable[[TagWriter, Any], Tagged]] = {
    "builtins.complex": lambda _, v: {"$": "complex", "v": [repr(v.real), repr(v.imag)]},
    "datetime.datetime": _write_clock,
    "datetime.time": _write_clock,
    "datetime.date": _text_writer("date"),
    "datetime.timedelta": lambda _, v: {"$": "timedelta", "v": [v.days, v.seconds, v.microseconds]},
    "datetime.timezone": _write_offset,
    "zoneinfo.ZoneInfo": _write_zone,
    "decimal.Decimal": _text_writer("Decimal"),
    "uuid.UUID": _text_writer("UUID", lambda v: str(v.hex)),
    "pathlib.PurePosixPath": _text_writer("PurePosixPath"),
    "pathlib.PureWindowsPath": _text_writer("PureWindowsPath"),
    "pathlib.PosixPath": _text_writer("PosixPath"),
}


def read_tagged(text: str, buffers: Sequence[Buffer]) -> Any:
    """Decode a body that may hold tags. Raises ValueError if it is malformed."""

    def untag(node: Tagged) -> Any:
        if "$" not in node:
            return node
        reader = _READERS.get(str(node["$"]))
        if reader is None:
            raise ValueError(f"unknown tag {node['$']!r} (was it written by a newer Flash?)")
        try:
            return reader(node, buffers)
        except (SerializationError, MemoryError):
            raise
        except Exception as error:
            raise ValueError(f"bad {node['$']}: {error!r}") from error

    # The JSON decoder calls it from the inside out, so values of tags are decoded already.
    return json.loads(text, object_hook=untag)


def read_binary(node: Tagged, buffers: Sequence[Buffer]) -> Buffer:
    """The bytes of a node: its own, or the buffer that it names."""
    if "v" in node:
        return a2b_base64(node["v"])
    index = node["b"]
    if type(index) is not int or not 0 <= index < len(buffers):
        raise ValueError(f"there is no buffer {index!r}")
    return buffers[index]


def read_writable(node: Tagged, buffers: Sequence[Buffer]) -> bytearray | memoryview:
    """The same, as memory that may be written to; copied only if it must be."""
    data = read_binary(node, buffers)
    if isinstance(data, bytes) or (isinstance(data, memoryview) and data.readonly):
        return bytearray(data)
    return data


def _read_bytearray(node: Tagged, buffers: Sequence[Buffer]) -> bytearray:
    data = read_writable(node, buffers)
    return data if isinstance(data, bytearray) else bytearray(data)


def _read_clock(node: Tagged, _: Sequence[Buffer]) -> Any:
    import datetime

    kind = datetime.datetime if node["$"] == "datetime" else datetime.time
    return kind.fromisoformat(node["v"]).replace(tzinfo=node.get("tz"), fold=node["fold"])


def _read_offset(node: Tagged, _: Sequence[Buffer]) -> Any:
    from datetime import timedelta, timezone

    days, seconds, microseconds, *name = node["v"]
    return timezone(timedelta(days, seconds, microseconds), *name)


def _read_zone(node: Tagged, _: Sequence[Buffer]) -> Any:
    from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

    try:
        return ZoneInfo(node["v"])
    except ZoneInfoNotFoundError as error:
        raise SerializationError(
            f"The time zone {node['v']!r} is unknown here: install the package 'tzdata', "
            "or add it to dependencies=[...] of the endpoint."
        ) from error


def _reader_of(module: str, name: str, *, spread: bool = False) -> Callable[..., Any]:
    """A reader that calls a type of the standard library, imported when it is needed."""

    def read(node: Tagged, _: Sequence[Buffer]) -> Any:
        kind = getattr(__import__(module), name)
        return kind(*node["v"]) if spread else kind(node["v"])

    return read


def _read_date(node: Tagged, _: Sequence[Buffer]) -> Any:
    import datetime

    return datetime.date.fromisoformat(node["v"])


_READERS: dict[str, Callable[[Tagged, Sequence[Buffer]], Any]] = {
    "dict": lambda node, _: dict(node["v"]),
    "tuple": lambda node, _: tuple(node["v"]),
    "set": lambda node, _: set(node["v"]),
    "frozenset": lambda node, _: frozenset(node["v"]),
    "float": lambda node, _: float(node["v"]),
    "int": lambda node, _: int(node["v"], 16),
    "str": lambda node, _: a2b_base64(node["v"]).decode("utf-8", "surrogatepass"),
    "complex": lambda node, _: complex(float(node["v"][0]), float(node["v"][1])),
    "bytes": lambda node, buffers: bytes(read_binary(node, buffers)),
    "bytearray": _read_bytearray,
    "datetime": _read_clock,
    "time": _read_clock,
    "date": _read_date,
    "timedelta": _reader_of("datetime", "timedelta", spread=True),
    "timezone": _read_offset,
    "zone": _read_zone,
    "Decimal": _reader_of("decimal", "Decimal"),
    "UUID": _reader_of("uuid", "UUID"),
    "PurePosixPath": _reader_of("pathlib", "PurePosixPath"),
    "PureWindowsPath": _reader_of("pathlib", "PureWindowsPath"),
    "PosixPath": _reader_of("pathlib", "PosixPath"),
    "ndarray": lambda node, buffers: read_array(node, read_writable(node, buffers)),
    "npscalar": lambda node, buffers: read_numpy_scalar(node, read_binary(node, buffers)),
}
