"""NumPy data of a result as lists and numbers, without NumPy: the server may lack it."""

from __future__ import annotations

import math
import struct
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

_FORMATS = {
    "b1": "?", "i1": "b", "i2": "h", "i4": "i", "i8": "q", "u1": "B", "u2": "H", "u4": "I",
    "u8": "Q", "f2": "e", "f4": "f", "f8": "d",
}  # fmt: skip
_MAX_DIMENSIONS = 64  # as many as NumPy has
# Of an array without values its lists are all there is, and the shape alone says how many.
_MAX_EMPTY = 10_000


def scalar(node: dict[str, Any], data: bytes) -> Any:
    """The value of one scalar."""
    (value,) = _flat(node["d"], data)
    return value


def nested(node: dict[str, Any], data: bytes) -> Any:
    """An array as nested lists, or as the value where it has no dimensions.

    Raises `ValueError` where its shape does not fit its data, or is all that it has and is large.
    """
    shape: list[int] = node["s"]
    if len(shape) > _MAX_DIMENSIONS:
        raise ValueError(f"an array of {len(shape)} dimensions")
    values = _flat(node["d"], data)
    if math.prod(shape) != len(values):
        raise ValueError(f"{len(values)} values for an array of the shape {shape}")
    if not values and math.prod(max(length, 1) for length in shape) > _MAX_EMPTY:
        raise ValueError(f"an array without values is too large for JSON in the shape {shape}")
    if not shape:
        return values[0]
    return _rows(values, 0, shape, _strides(shape, node.get("o", "C")))


def _strides(shape: Sequence[int], order: str) -> list[int]:
    lengths = shape if order == "F" else shape[::-1]
    strides = [1]
    for length in lengths[:-1]:
        strides.append(strides[-1] * length)
    return strides if order == "F" else strides[::-1]


def _rows(values: Sequence[Any], start: int, shape: Sequence[int], strides: Sequence[int]) -> Any:
    length, step = shape[0], strides[0]
    if len(shape) == 1:
        return list(values[start : start + length * step : step])
    return [_rows(values, start + index * step, shape[1:], strides[1:]) for index in range(length)]


def _flat(dtype: str, data: bytes) -> Sequence[Any]:
    """All values in the order of memory. `dtype` is NumPy's text, such as "<f4"."""
    order = ">" if dtype[0] == ">" else "<"
    kind, size = dtype[1], dtype[1:]
    if size in _FORMATS:
        values = _numbers(order, _FORMATS[size], data)
        return [v if math.isfinite(v) else None for v in values] if kind == "f" else values
    return _special(dtype, order, data)


def _numbers(order: str, code: str, data: bytes) -> Sequence[Any]:
    count = len(data) // struct.calcsize(f"{order}{code}")
    return struct.unpack(f"{order}{count}{code}", data)


def _special(dtype: str, order: str, data: bytes) -> Sequence[Any]:
    kind = dtype[1]
    if kind == "c":
        parts = _numbers(order, {"8": "f", "16": "d"}[dtype[2:]], data)
        return [str(complex(*pair)) for pair in zip(parts[::2], parts[1::2], strict=True)]
    if kind in "mM":
        return _numbers(order, "q", data)  # as NumPy counts them, in the dtype's unit
    if kind == "U":
        codec = "utf-32-be" if order == ">" else "utf-32-le"
        return [part.decode(codec).rstrip("\0") for part in _parts(data, 4 * int(dtype[2:]))]
    if kind == "S":
        return [part.rstrip(b"\0").decode("latin-1") for part in _parts(data, int(dtype[2:]))]
    raise ValueError(f"the dtype {dtype!r} has no JSON values")


def _parts(data: bytes, size: int) -> list[bytes]:
    return [data[at : at + size] for at in range(0, len(data), size)]
