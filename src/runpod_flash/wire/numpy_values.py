"""NumPy arrays and scalars as tagged values; numpy is never imported to recognise them."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from runpod_flash.errors import SerializationError

if TYPE_CHECKING:
    from collections.abc import Callable

# Booleans, numbers, dates and fixed-width text. Objects and structures are pickled; so are
# extension types such as bfloat16, whose dtype string does not name them.
_KINDS = "biufcmMSU"


def numpy_writer(kind: type) -> Callable[[Any, Any], dict[str, Any]] | None:
    """The writer for a type, if it is an array or scalar type of NumPy itself."""
    if kind.__module__ != "numpy":
        return None
    numpy = sys.modules.get("numpy")
    if kind is getattr(numpy, "ndarray", None):
        return _write_array
    generic = getattr(numpy, "generic", None)
    return _write_scalar if isinstance(generic, type) and issubclass(kind, generic) else None


def _write_array(writer: Any, array: Any) -> dict[str, Any]:
    fortran = bool(array.flags.f_contiguous and not array.flags.c_contiguous)
    order = "F" if fortran else "C"
    tagged = {"$": "ndarray", "d": _dtype_name(array.dtype), "s": list(array.shape)}
    # The only copy: a snapshot, for the array may change before it is sent.
    room = writer.room(array.nbytes)
    if room is None:
        tagged.update(writer.binary(array.tobytes(order)))
    else:
        numpy = sys.modules["numpy"]
        numpy.copyto(numpy.ndarray(array.shape, array.dtype, room, order=order), array)
        tagged.update(writer.buffer(room.toreadonly()))
    return {**tagged, "o": "F"} if fortran else tagged


def _write_scalar(writer: Any, scalar: Any) -> dict[str, Any]:
    return {"$": "npscalar", "d": _dtype_name(scalar.dtype), **writer.binary(scalar.tobytes())}


def _dtype_name(dtype: Any) -> str:
    from runpod_flash.wire.tags import NotSafe

    name = dtype.str
    if dtype.kind not in _KINDS or not dtype.itemsize or sys.modules["numpy"].dtype(name) != dtype:
        raise NotSafe
    return str(name)


def read_array(node: dict[str, Any], data: bytearray | memoryview) -> Any:
    """An array over `data` itself."""
    numpy, dtype = _read_dtype(node)
    if not all(type(length) is int and length >= 0 for length in node["s"]):
        raise ValueError(f"the shape {node['s']!r}")
    array = numpy.ndarray(tuple(node["s"]), dtype, buffer=data, order=node.get("o", "C"))
    if array.nbytes != len(data):
        raise ValueError(f"{len(data)} bytes for an array of {array.nbytes}")
    return array


def read_numpy_scalar(node: dict[str, Any], data: bytes | bytearray | memoryview) -> Any:
    numpy, dtype = _read_dtype(node)
    return numpy.ndarray((), dtype, buffer=data)[()]


def _read_dtype(node: dict[str, Any]) -> tuple[Any, Any]:
    try:
        import numpy
    except ImportError as error:
        raise SerializationError(
            "The value holds NumPy data, and numpy is not installed here: install it, "
            'or add "numpy" to dependencies=[...] of the endpoint.'
        ) from error
    dtype = numpy.dtype(node["d"])
    if dtype.kind not in _KINDS or dtype.subdtype is not None:
        raise ValueError(f"the dtype {node['d']!r} is not a plain one")
    return numpy, dtype
