"""A raised exception to and from the wire, without a pickle and without its constructor."""

from __future__ import annotations

import builtins
import contextlib
import json
import sys
from binascii import a2b_base64, b2a_base64
from typing import TYPE_CHECKING, Any, NamedTuple

from runpod_flash.errors import FlashError, RemoteError
from runpod_flash.wire.codec import Payload, decode, encode_safe
from runpod_flash.wire.exception_state import read_state, rebuild
from runpod_flash.wire.module_names import NO_ALIAS, ModuleNames
from runpod_flash.wire.remote_traceback import MAX_TEXT, cut, format_remote, safe_text

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

__all__ = ["Failure", "RemoteTraceback", "add_note", "capture", "from_wire", "restore", "to_wire"]

# A larger exception travels without its attributes: it is an error, not a result.
_MAX_STATE = 1 << 20
_MAX_DEPTH = 10  # of groups within groups
_MAX_MEMBERS = 4 << 20  # bytes of JSON: of a group that has more only the first ones travel
_MAX_NAME = 1000


class RemoteTraceback(FlashError):  # noqa: N818 - a cause, never raised
    """The cause of restored exceptions: the traceback where they were raised, as text."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.text = text

    def __str__(self) -> str:
        return f'\n"""\n{self.text.rstrip()}\n"""'


class Failure(NamedTuple):
    """An exception as data. (A named tuple, since importing dataclasses imports inspect.)

    `origin` says what raised it: "function", "import" (of the user's module) or "system".
    `args` and `state` are None where they cannot be encoded without a pickle.
    """

    module: str
    qualname: str
    message: str
    traceback: str = ""
    args: Payload | None = None
    state: Payload | None = None
    notes: tuple[str, ...] = ()
    origin: str = "function"
    exceptions: tuple[Failure, ...] = ()

    @property
    def type_name(self) -> str:
        """As tracebacks show it: builtins without their module."""
        return self.qualname if self.module == "builtins" else f"{self.module}.{self.qualname}"


def capture(
    error: BaseException, *, origin: str = "function", names: ModuleNames = NO_ALIAS
) -> Failure:
    """Describe an exception; never fails, whatever its methods do.

    However long its texts are and however many members it has, it fits into a frame.
    What Flash itself raised ("system") is told by its message: its traceback is no one's business.
    """
    try:
        return _capture(error, origin, names, 0)
    except Exception:
        kind = type(error)
        module, name = cut(str(kind.__module__), _MAX_NAME), cut(kind.__qualname__, _MAX_NAME)
        return Failure(module, name, safe_text(error), format_remote(error))


def _capture(error: BaseException, origin: str, names: ModuleNames, depth: int) -> Failure:
    kind = type(error)
    notes = getattr(error, "__notes__", ())
    members = getattr(error, "exceptions", ()) if _is_group(kind) and depth < _MAX_DEPTH else ()
    return Failure(
        module=cut(names.to_wire(str(kind.__module__)), _MAX_NAME),
        qualname=cut(kind.__qualname__, _MAX_NAME),
        message=safe_text(error),
        traceback="" if origin == "system" else format_remote(error),
        args=_encode(BaseException.args.__get__(error)),  # type: ignore[attr-defined]
        state=_encode({k: v for k, v in read_state(error).items() if _encode(v) is not None}),
        notes=tuple(_notes(notes)) if isinstance(notes, list | tuple) else (),
        origin=origin,
        exceptions=tuple(
            _first_ones(_capture(member, origin, names, depth + 1) for member in members)
        ),
    )


def _notes(notes: Iterable[Any]) -> Iterable[str]:
    room = MAX_TEXT
    for note in notes:
        text = cut(safe_text(note), room)
        yield text
        room -= len(text) + 10
        if room <= 0:
            return


def _first_ones(members: Iterable[Failure]) -> Iterable[Failure]:
    """Those that fit."""
    room = _MAX_MEMBERS
    for member in members:
        room -= len(json.dumps(to_wire(member)))
        if room < 0:
            return
        yield member


def restore(failure: Failure, names: ModuleNames = NO_ALIAS) -> Exception:
    """The exception to raise here: its own type if that is imported, otherwise RemoteError."""
    error = _own_type(failure, names) or RemoteError(
        failure.type_name, failure.message, failure.traceback
    )
    _set(error, "remote_traceback", failure.traceback)
    _set(error, "remote_type", failure.type_name)
    for note in failure.notes:
        add_note(error, note)
    if failure.traceback:
        # Past a `__setattr__` of the user's.
        BaseException.__setattr__(error, "__cause__", RemoteTraceback(failure.traceback))
    return error


def to_wire(failure: Failure) -> dict[str, Any]:
    """As a JSON object."""
    return {
        **failure._asdict(),
        "args": _payload_to_wire(failure.args),
        "state": _payload_to_wire(failure.state),
        "notes": list(failure.notes),
        "exceptions": [to_wire(member) for member in failure.exceptions],
    }


def from_wire(data: Mapping[str, Any]) -> Failure:
    """Read what `to_wire` wrote; what is missing or odd gets its default."""
    texts = {
        key: str(data.get(key, default))
        for key, default in [
            ("module", "builtins"),
            ("qualname", "Exception"),
            ("message", ""),
            ("traceback", ""),
            ("origin", "function"),
        ]
    }
    return Failure(
        **texts,
        args=_payload_from_wire(data.get("args")),
        state=_payload_from_wire(data.get("state")),
        notes=tuple(map(str, data.get("notes") or ())),
        exceptions=tuple(from_wire(d) for d in data.get("exceptions") or () if isinstance(d, dict)),
    )


def _own_type(failure: Failure, names: ModuleNames) -> Exception | None:
    kind = _find_type(failure, names)
    if kind is None:
        return None
    members = [restore(member, names) for member in failure.exceptions]
    try:
        return rebuild(
            kind, _decode(failure.args), _decode(failure.state), failure.message, members
        )
    except Exception:
        return None


def _find_type(failure: Failure, names: ModuleNames) -> type[Exception] | None:
    """The type, if it is there already: nothing is imported, no module's `__getattr__` runs."""
    first, *rest = failure.qualname.split(".")
    found: Any = vars(names.loaded(failure.module) or sys).get(first)
    for part in rest:
        found = vars(found).get(part) if isinstance(found, type) else None
    if names.loaded(failure.module) is None or not isinstance(found, type):
        return None
    # Event loops refuse to carry StopIteration, and generators turn it into RuntimeError.
    if not issubclass(found, Exception) or issubclass(found, StopIteration | StopAsyncIteration):
        return None
    return found


def _is_group(kind: type) -> bool:
    return issubclass(kind, getattr(builtins, "BaseExceptionGroup", ()))


def _encode(value: Any) -> Payload | None:
    try:
        payload = encode_safe(value)
        return payload if payload is not None and payload.nbytes <= _MAX_STATE else None
    except Exception:
        return None


def _decode(payload: Payload | None) -> Any:
    try:
        return None if payload is None else decode(payload, trusted=False)
    except Exception:  # such as NumPy data, and no numpy here
        return None


def _payload_to_wire(payload: Payload | None) -> dict[str, Any] | None:
    if payload is None:
        return None
    buffers = [b2a_base64(buffer, newline=False).decode("ascii") for buffer in payload.buffers]
    return {"body": payload.body.decode(), "buffers": buffers}


def _payload_from_wire(data: Any) -> Payload | None:
    try:
        buffers = tuple(a2b_base64(text) for text in data["buffers"])
        return Payload(data["body"].encode(), buffers)
    except (TypeError, KeyError, ValueError, AttributeError):
        return None


def _set(error: Exception, name: str, value: str) -> None:
    # It may be a read-only property of the user's; the cause still says it.
    with contextlib.suppress(AttributeError, TypeError):
        BaseException.__setattr__(error, name, value)


def add_note(error: BaseException, note: str) -> None:
    """`error.add_note` for every Python."""
    if sys.version_info >= (3, 11):
        BaseException.add_note(error, note)
    else:  # kept for whoever looks; shown as part of the remote traceback
        error.__dict__.setdefault("__notes__", []).append(note)
