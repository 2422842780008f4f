"""The writing side of pickled values: cloudpickle, with large binary parts out of band.

Importing this module imports cloudpickle, so the codec does so only when a value needs it.
"""

from __future__ import annotations

import sys
from binascii import b2a_base64
from io import TextIOWrapper
from pickle import PickleBuffer, PicklingError
from types import CodeType, FunctionType, ModuleType
from typing import Any

import cloudpickle

from runpod_flash.errors import SerializationError
from runpod_flash.wire.module_names import MAIN, MAINS, ModuleNames
from runpod_flash.wire.tags import INLINE_LIMIT, Buffer, Room
from runpod_flash.wire.unpicklable import describe
from runpod_flash.wire.unpickling import resolve

REFERENCE = "__flash_reference__"
# Longer writes become buffers of their own: the pickler hands large bytes over as they are.
_CHUNK = 1 << 18


def write_pickle(
    value: Any, names: ModuleNames, room: Room
) -> tuple[dict[str, Any], tuple[Buffer, ...]]:
    """The fields of the tag, and the buffers: the pickle's own text first, if it is long."""
    stream, parts = _Chunks(), _OutOfBand(room)
    pickler = _Pickler(stream, parts.take, names)
    try:
        pickler.dump(value)
    except MemoryError:
        raise
    except Exception as error:
        raise SerializationError(describe(value, pickler.last, error)) from error
    chunks = stream.finish()
    header: dict[str, Any] = {"python": pickler.python} if pickler.python else {}
    if len(chunks) == 1 and len(chunks[0]) < INLINE_LIMIT:
        header["v"] = b2a_base64(chunks[0], newline=False).decode("ascii")
        return {"$": "pickle", **header}, tuple(parts.buffers)
    return {"$": "pickle", **header, "n": len(chunks)}, (*chunks, *parts.buffers)


def dumps(value: Any, names: ModuleNames) -> bytes:
    """A function or class as one ordinary pickle, for `pickle.loads` on the same Python minor."""
    stream = _Chunks()
    pickler = _Pickler(stream, None, names)
    try:
        pickler.dump(value)
    except Exception as error:
        raise SerializationError(describe(value, pickler.last, error)) from error
    return b"".join(stream.finish())


class _Chunks:
    """A file that refers to large immutable writes and joins small ones."""

    def __init__(self) -> None:
        self._chunks: list[bytes] = []
        self._pending = bytearray()

    def write(self, data: bytes | bytearray | memoryview) -> None:
        if len(data) < _CHUNK:
            self._pending += data
            if len(self._pending) >= _CHUNK:
                self._flush()
            return
        self._flush()
        self._chunks.append(bytes(data))  # the same object if it is bytes

    def finish(self) -> list[bytes]:
        self._flush()
        return self._chunks

    def _flush(self) -> None:
        if self._pending:
            self._chunks.append(bytes(self._pending))
            self._pending.clear()


class _OutOfBand:
    """Takes the pickler's buffers; each is copied at once, for the user may change the original."""

    def __init__(self, room: Room) -> None:
        self._room = room
        self.buffers: list[Buffer] = []

    def take(self, buffer: PickleBuffer) -> bool:
        """Whether the pickler must keep it in its own text."""
        view = buffer.raw()
        if view.nbytes < INLINE_LIMIT:
            return True
        owner = view.obj
        whole = memoryview(owner).nbytes == view.nbytes
        self.buffers.append(owner if isinstance(owner, bytes) and whole else self._copy(view))
        return False

    def _copy(self, view: memoryview) -> Buffer:
        room = self._room(view.nbytes)
        if room is None:
            return bytes(view)
        room[:] = view
        return room.toreadonly()


class _Pickler(cloudpickle.Pickler):  # type: ignore[misc, unused-ignore]
    """cloudpickle, which names the caller's script as its workers do.

    `last` is the object that it looked at last: after an error, the one that cannot be pickled.
    `python` is this Python's minor version once the pickle holds bytecode, which no other reads.
    """

    def __init__(self, file: _Chunks, buffer_callback: Any, names: ModuleNames) -> None:
        super().__init__(file, protocol=5, buffer_callback=buffer_callback)
        self._names = names
        self.last: Any = None
        self.python = ""

    def reducer_override(self, obj: Any) -> Any:
        self.last = obj
        reference = _own_reference(obj)
        if reference is not None:
            return reference()
        kind = type(obj)
        if kind is CodeType:
            self.python = f"{sys.version_info[0]}.{sys.version_info[1]}"
        elif kind is TextIOWrapper and obj not in (sys.stdin, sys.stdout, sys.stderr):
            # cloudpickle would send the file's present content instead.
            raise PicklingError("cannot pickle an open file")
        elif self._names.main is not None:
            name = _name_in_main(obj)
            if name is not None:
                return resolve, (self._names.main, name)
        return super().reducer_override(obj)


def _own_reference(obj: Any) -> Any:
    """The object's `__flash_reference__`, without waking its `__getattr__`."""
    if isinstance(obj, type):  # a class that defines it does so for its instances
        return getattr(type(obj), REFERENCE, None) and getattr(obj, REFERENCE)
    if hasattr(type(obj), REFERENCE):
        return getattr(obj, REFERENCE)
    return getattr(obj, "__dict__", {}).get(REFERENCE) if isinstance(obj, FunctionType) else None


def _name_in_main(obj: Any) -> str | None:
    """The qualified name of a class or function of `__main__`; "" for that module itself."""
    main = sys.modules.get(MAIN)
    if isinstance(obj, ModuleType):
        return "" if obj is main else None
    if not isinstance(obj, type | FunctionType) or obj.__module__ not in MAINS:
        return None
    found: Any = main
    for part in obj.__qualname__.split("."):
        found = getattr(found, part, None)
    return obj.__qualname__ if found is obj else None
