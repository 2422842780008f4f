"""What an absent package gives where a file is only read for its declarations: things of no effect.

Calls, attributes, operators and base classes all work and mean nothing; a decorator gives back what
it decorates.
"""

from __future__ import annotations

from types import FunctionType
from typing import TYPE_CHECKING, Any

from runpod_flash.placeholders.objects import PlaceholderModule

if TYPE_CHECKING:
    from collections.abc import Iterator

# What a decorator may be given.
_DECORATED = (FunctionType, type, staticmethod, classmethod, property)


class InertModule(PlaceholderModule):
    """Stands for an absent package or one of its modules."""

    # Files compare it with others at their top level.
    __version__ = "0.0.0"

    def __getattr__(self, name: str) -> Any:
        if _is_dunder(name):
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")
        return Inert()


class Inert:
    """A value of no effect: false, empty, zero, and whatever else is asked of it."""

    def __getattr__(self, name: str) -> Inert:
        if _is_dunder(name):
            raise AttributeError(name)
        return Inert()

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        only = args[0] if len(args) == 1 and not kwargs else None
        return only if isinstance(only, _DECORATED) else Inert()

    def __mro_entries__(self, bases: tuple[Any, ...]) -> tuple[type, ...]:
        first = next(base for base in bases if isinstance(base, Inert))
        return (InertBase,) if first is self else ()

    def __instancecheck__(self, instance: object) -> bool:
        return False

    def __subclasscheck__(self, subclass: type) -> bool:
        return False

    def __repr__(self) -> str:
        return "<absent>"

    def __format__(self, spec: str) -> str:
        return repr(self)

    def __fspath__(self) -> str:
        return "absent"

    def __bool__(self) -> bool:
        return False

    def __len__(self) -> int:
        return 0

    def __int__(self) -> int:
        return 0

    __index__ = __int__

    def __float__(self) -> float:
        return 0.0

    def __iter__(self) -> Iterator[Any]:
        return iter(())

    def __contains__(self, item: object) -> bool:
        return False

    def __setattr__(self, name: str, value: Any) -> None:
        """Nothing is kept."""

    def __setitem__(self, key: Any, value: Any) -> None:
        """Nothing is kept."""

    def __delitem__(self, key: Any) -> None:
        """Nothing is there."""

    def __enter__(self) -> Inert:
        return Inert()

    def __exit__(self, *exception: object) -> None:
        """Nothing is hidden."""


class InertBase:
    """The base of classes whose own base is absent."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__()

    def __class_getitem__(cls, item: Any) -> Any:
        return cls

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        vars(self).update(kwargs)


def _inert(self: Inert, *args: Any) -> Inert:
    return Inert()


def _is_dunder(name: str) -> bool:
    return name.startswith("__") and name.endswith("__")


_USES = """
    getitem lt le gt ge neg pos abs invert round add sub mul matmul truediv floordiv mod pow lshift
    rshift and or xor radd rsub rmul rmatmul rtruediv rfloordiv rmod rpow rlshift rrshift rand ror
    rxor
"""
for _name in _USES.split():
    setattr(Inert, f"__{_name}__", _inert)
