"""What an exception holds, and an exception built from it without running its constructor."""

from __future__ import annotations

from types import GetSetDescriptorType, MemberDescriptorType
from typing import Any

from runpod_flash.wire.remote_traceback import portable

_HEAP_TYPE = 1 << 9  # Py_TPFLAGS_HEAPTYPE: made by a class statement
_ROOTS = (Exception, BaseException, object)
_NOT_STATE = {"__notes__", "remote_traceback", "remote_type"}


def read_state(error: BaseException) -> dict[str, Any]:
    """Its attributes, slots and the fields of its built-in base (errno, start, end...)."""
    state: dict[str, Any] = {}
    for base, name in _fields(type(error)):
        try:
            value = getattr(error, name)
        except Exception:  # an empty slot
            continue
        # To a built-in exception None means unset, and setting it changes the text of an OSError.
        if value is not None or base.__flags__ & _HEAP_TYPE:
            state[name] = value
    own = getattr(error, "__dict__", None)
    state.update(own if isinstance(own, dict) else {})
    return {key: value for key, value in state.items() if key not in _NOT_STATE}


def rebuild(
    kind: type[Exception], args: Any, state: Any, message: str, members: list[Exception]
) -> Exception:
    """An instance of `kind` whose text is `message`; raises what its built-in base raises."""
    state = state if isinstance(state, dict) else {}
    error = _blank(kind, state.get("message", message), members)
    if isinstance(args, tuple) and not members:
        _set_args(error, args)
    for name, value in state.items():
        try:
            BaseException.__setattr__(error, str(name), value)
        except (AttributeError, TypeError):  # read-only: set by the built-in base itself
            continue
    if not isinstance(args, tuple) and not members:
        _set_args(error, (message,) if message else ())
    return error if _shows(error, message) else _with_text(error, message)


def _fields(kind: type) -> list[tuple[type, str]]:
    """Names of slots and of the C fields of built-in exceptions."""
    return [
        (base, name)
        for base in kind.__mro__
        if base not in _ROOTS
        for name, member in vars(base).items()
        if isinstance(member, MemberDescriptorType | GetSetDescriptorType)
        and not name.startswith("__")
    ]


def _blank(kind: type[Exception], message: str, members: list[Exception]) -> Exception:
    """An empty instance, made by its built-in base: the user's `__new__` may want arguments."""
    base = next(c for c in kind.__mro__ if not c.__flags__ & _HEAP_TYPE)
    arguments = (message, members) if members else ()  # what a group's base insists on
    return base.__new__(kind, *arguments)


def _shows(error: Exception, message: str) -> bool:
    try:
        return portable(str(error)) == message
    except Exception:
        return False


def _set_args(error: Exception, args: tuple[Any, ...]) -> None:
    BaseException.args.__set__(error, args)  # type: ignore[attr-defined]


def _with_text(error: Exception, message: str) -> Exception:
    """The same exception, as a subclass that shows `message`.

    Its own `__str__` needs what could not travel. The subclass looks and is caught like it.
    """
    kind = type(error)
    body = {
        "__str__": lambda self: message,
        "__slots__": (),
        "__module__": kind.__module__,
        "__qualname__": kind.__qualname__,
        "__doc__": kind.__doc__,
    }
    try:
        make: Any = type(kind)  # a metaclass of the user's, perhaps
        error.__class__ = make(kind.__name__, (kind,), body)
    except Exception:  # a final class, or one whose layout forbids it
        _set_args(error, (message,))
    return error
