"""The reading side of pickled values. Only for payloads of a trusted sender."""

from __future__ import annotations

import importlib
import pickle
import sys
from typing import TYPE_CHECKING, Any

from runpod_flash.errors import SerializationError
from runpod_flash.wire.module_names import MAIN, ModuleNames
from runpod_flash.wire.tags import Buffer, read_binary

if TYPE_CHECKING:
    from collections.abc import Sequence


def read_pickle(node: dict[str, Any], buffers: Sequence[Buffer], names: ModuleNames) -> Any:
    """The value; raises SerializationError that says what is missing here."""
    _check_python(node.get("python", ""))
    count = node.get("n", 0)
    try:
        stream = buffers[:count] if count else [read_binary(node, ())]
        rest = [_writable(buffer) for buffer in buffers[count:]]
        return _Unpickler(_Chain(stream), rest, names).load()
    except (SerializationError, MemoryError):
        raise
    except ModuleNotFoundError as error:
        raise SerializationError(
            f"The value needs the module {error.name!r}, which is not installed here: add its "
            "package to dependencies=[...] of the endpoint if this is a worker, else install it."
        ) from error
    except Exception as error:
        raise SerializationError(
            f"The value cannot be read here ({type(error).__name__}: {error}): "
            "check that both sides run the same code and package versions."
        ) from error


def resolve(module: str, qualname: str) -> Any:
    """What the pickles of a script's own classes and functions call at the reader."""
    return _find(module, qualname)


def _find(module: str, qualname: str) -> Any:
    found: Any = importlib.import_module(module)
    for part in qualname.split(".") if qualname else ():
        found = getattr(found, part)
    return found


def _check_python(written_by: str) -> None:
    here = f"{sys.version_info[0]}.{sys.version_info[1]}"
    if written_by and written_by != here:
        raise SerializationError(
            f"The value holds code of Python {written_by}, and this is Python {here}: define its "
            "functions and classes at the top level of a module, or use the same Python here."
        )


def _writable(buffer: Buffer) -> bytearray | memoryview:
    # The pickle itself says which buffers become read-only again.
    if isinstance(buffer, bytes) or (isinstance(buffer, memoryview) and buffer.readonly):
        return bytearray(buffer)
    return buffer


class _Unpickler(pickle.Unpickler):
    """Finds the caller's script under the name that its workers use."""

    def __init__(self, file: _Chain, buffers: list[Any], names: ModuleNames) -> None:
        super().__init__(file, buffers=buffers)
        self._names = names

    def find_class(self, module: str, name: str) -> Any:
        if module == __name__ and name == resolve.__name__:
            return self._resolve
        if name == "subimport" and module.startswith("cloudpickle"):
            return self._import
        local = self._names.to_local(module)
        if local == MAIN != module:
            return self._resolve(module, name)
        return super().find_class(module, name)

    def _import(self, module: str) -> Any:
        return self._resolve(module, "")

    def _resolve(self, module: str, qualname: str) -> Any:
        try:
            return _find(self._names.to_local(module), qualname)
        except AttributeError as error:
            raise SerializationError(
                f"The value needs {qualname!r} of the module {module!r}, which has no such name "
                "here: define it at the module's top level, outside of `if` blocks."
            ) from error


class _Chain:
    """A file over several buffers; nothing is joined that a single buffer can give."""

    def __init__(self, buffers: Sequence[Buffer]) -> None:
        self._views = [memoryview(buffer) for buffer in reversed(buffers)]

    def readinto(self, target: bytearray) -> int:
        view, done = memoryview(target), 0
        while done < view.nbytes and self._views:
            part = self._take(view.nbytes - done)
            view[done : done + part.nbytes] = part
            done += part.nbytes
        return done

    def read(self, size: int) -> bytes:
        data = bytes(self._take(size)) if self._views else b""
        while len(data) < size and self._views:
            data += self._take(size - len(data))
        return data

    def readline(self) -> bytes:
        line = b""
        while self._views and not line.endswith(b"\n"):
            line += self._take(1)
        return line

    def _take(self, size: int) -> memoryview:
        view = self._views.pop()
        if view.nbytes > size:
            self._views.append(view[size:])
            view = view[:size]
        return view
