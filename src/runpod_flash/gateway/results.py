"""Results as JSON: what a tag says is written as plainly as JSON can, and nothing is unpickled."""

from __future__ import annotations

import json
import math
from base64 import b64encode
from typing import TYPE_CHECKING, Any

from runpod_flash.gateway import arrays

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from runpod_flash.wire.codec import Buffer, Payload
    from runpod_flash.wire.failures import Failure

    Node = dict[str, Any]

PICKLED = (
    "the result holds objects that JSON cannot show: return dicts, lists, strings, numbers, bytes, "
    "dates or NumPy arrays, such as dataclasses.asdict(x) or x.model_dump() of an object"
)
_MAX_DIGITS = 4300  # Python writes no longer integers


class NotJsonError(ValueError):
    """The result is of a kind that JSON has no words for."""


def to_json(payload: Payload) -> bytes:
    """The value's JSON. Raises `NotJsonError` for one that is pickled, or malformed."""
    if payload.plain:
        return payload.body
    if payload.pickled:
        raise NotJsonError(PICKLED)
    try:
        value = json.loads(payload.body, object_hook=_Shower(payload.buffers).show)
        return json.dumps(value).encode()
    except (ValueError, TypeError, KeyError, IndexError, RecursionError) as error:
        raise NotJsonError(f"the result cannot be read: {error!r}") from error


class _Shower:
    """Turns tagged nodes into JSON values, from the inside out."""

    def __init__(self, buffers: Sequence[Buffer]) -> None:
        self._buffers = buffers

    def show(self, node: Node) -> Any:
        tag = node.get("$")
        if tag is None:
            return node
        if tag in ("bytes", "bytearray"):
            return node["v"] if "v" in node else _base64(self._buffers[node["b"]])
        if tag == "ndarray":
            return arrays.nested(node, self._data(node))
        if tag == "npscalar":
            return arrays.scalar(node, self._data(node))
        reader = _READERS.get(tag)
        if reader is None:
            raise ValueError(f"unknown tag {tag!r}")
        return reader(node)

    def _data(self, node: Node) -> bytes:
        if "b" in node:
            return bytes(self._buffers[node["b"]])
        from binascii import a2b_base64

        return a2b_base64(node["v"])


def _base64(data: Buffer) -> str:
    return b64encode(data).decode("ascii")


def _value(node: Node) -> Any:
    return node["v"]


def _dict(node: Node) -> dict[str, Any]:
    return {_key(key): value for key, value in node["v"]}


def _key(key: Any) -> str:
    """As `json.dumps` writes keys; others as text."""
    if isinstance(key, str):
        return key
    return json.dumps(key)


def _float(node: Node) -> float | None:
    value = float(node["v"])
    return value if math.isfinite(value) else None


def _int(node: Node) -> Any:
    value = int(node["v"], 16)
    return value if value.bit_length() < _MAX_DIGITS * 3 else node["v"]


def _text(node: Node) -> str:
    from binascii import a2b_base64

    return a2b_base64(node["v"]).decode("utf-8", "surrogatepass")


def _uuid(node: Node) -> str:
    import uuid

    return str(uuid.UUID(node["v"]))


def _complex(node: Node) -> str:
    real, imaginary = map(float, node["v"])
    return str(complex(real, imaginary))


def _seconds(node: Node) -> float:
    from datetime import timedelta

    return timedelta(*node["v"]).total_seconds()


class _Zone(str):
    """A time zone as text, and as what gives a clock its offset, if that is known here."""

    info: Any = None


def _offset(node: Node) -> _Zone:
    from datetime import timedelta, timezone

    days, seconds, microseconds, *name = node["v"]
    info = timezone(timedelta(days, seconds, microseconds), *name)
    zone = _Zone(info)
    zone.info = info
    return zone


def _zone(node: Node) -> _Zone:
    from zoneinfo import ZoneInfo

    zone = _Zone(node["v"])
    try:
        zone.info = ZoneInfo(zone)
    except (KeyError, ValueError, OSError):  # this machine has no such zone
        zone.info = None
    return zone


def _clock(node: Node) -> str:
    """A datetime or a time; a zone whose offset is not known here is named."""
    import datetime

    kind = datetime.datetime if node["$"] == "datetime" else datetime.time
    value = kind.fromisoformat(node["v"]).replace(fold=node.get("fold", 0))
    zone = node.get("tz")
    if zone is None:
        return value.isoformat()
    if zone.info is None:
        return f"{value.isoformat()}[{zone}]"
    return value.replace(tzinfo=zone.info).isoformat()


_READERS: dict[str, Callable[[Node], Any]] = {
    "dict": _dict,
    "tuple": _value,
    "set": _value,
    "frozenset": _value,
    "float": _float,
    "int": _int,
    "str": _text,
    "complex": _complex,
    "datetime": _clock,
    "time": _clock,
    "date": _value,
    "timedelta": _seconds,
    "timezone": _offset,
    "zone": _zone,
    "Decimal": _value,
    "UUID": _uuid,
    "PurePosixPath": _value,
    "PureWindowsPath": _value,
    "PosixPath": _value,
}


def error_text(failure: Failure) -> str:
    """Type and message, as a traceback's last line has them; a text without a type as it is."""
    name = failure.type_name.removeprefix("runpod_flash.errors.")
    if not name:
        return failure.message
    return f"{name}: {failure.message}" if failure.message else name
