"""What an absent package gives in its place: a module and attributes that raise when used."""

from __future__ import annotations

import importlib
import typing
from types import GenericAlias, ModuleType
from typing import Any, NoReturn

from runpod_flash.errors import MissingDependencyError

# Set in a module's namespace: called when the import system puts its child into it.
WHEN_CHILD_IS_SET = "__flash_when_child_is_set__"


class PlaceholderModule(ModuleType):
    """Stands for an absent package or one of its modules."""

    def __init__(self, name: str, remedy: str) -> None:
        super().__init__(name)
        vars(self)["__flash_remedy__"] = remedy

    def __getattr__(self, name: str) -> Placeholder:
        if _is_dunder(name):
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")
        return Placeholder(self.__name__, name, vars(self)["__flash_remedy__"])

    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__(name, value)
        if isinstance(value, PlaceholderModule):
            when_set = vars(self).pop(WHEN_CHILD_IS_SET, None)
            if when_set is not None:
                when_set()

    def __dir__(self) -> list[str]:
        return [name for name in vars(self) if not name.startswith("__flash")]

    def __repr__(self) -> str:
        return f"<absent module {self.__name__!r}>"

    def __reduce__(self) -> tuple[Any, ...]:
        return find, (self.__name__, "", vars(self)["__flash_remedy__"])


class Placeholder:
    """Stands for a name in an absent package; its own attributes are such again.

    Annotations and defaults may mention it (`x: np.ndarray | None`, `dtype=torch.float32`);
    anything that needs the real object raises MissingDependencyError.
    """

    __slots__ = ("_flash_module", "_flash_name", "_flash_remedy")

    def __init__(self, module: str, name: str, remedy: str) -> None:
        self._flash_module = module
        self._flash_name = name
        self._flash_remedy = remedy

    def __getattr__(self, name: str) -> Placeholder:
        if _is_dunder(name) or name.startswith(("_repr_", "_ipython_", "_flash_")):
            raise AttributeError(f"{self!r} has no attribute {name!r}")
        return Placeholder(self._flash_module, f"{self._flash_name}.{name}", self._flash_remedy)

    def __getitem__(self, key: Any) -> Placeholder:
        parts = key if isinstance(key, tuple) and key else (key,)
        if not any(map(_is_type_like, parts)):
            _raise(self)
        return self  # a parametrised type, such as NDArray[np.float32]

    def __or__(self, other: Any) -> Any:
        return self._union(self, other) if _is_type_like(other) else _raise(self)

    def __ror__(self, other: Any) -> Any:
        return self._union(other, self) if _is_type_like(other) else _raise(self)

    @staticmethod
    def _union(left: Any, right: Any) -> Any:
        return typing.Union[left, right]  # noqa: UP007 - `|` would come back here

    def __repr__(self) -> str:
        return f"<absent {self._flash_module}.{self._flash_name}>"

    def __reduce__(self) -> tuple[Any, ...]:
        return find, (self._flash_module, self._flash_name, self._flash_remedy)


def find(module: str, name: str, remedy: str) -> Any:
    """What a pickled placeholder stands for: the real thing where its package is installed."""
    try:
        found: Any = importlib.import_module(module)
    except ModuleNotFoundError:
        found = PlaceholderModule(module, remedy)
    for part in name.split(".") if name else ():
        found = getattr(found, part)
    return found


def _is_dunder(name: str) -> bool:
    return name.startswith("__") and name.endswith("__")


def _is_type_like(value: Any) -> bool:
    if value is None or value is ... or isinstance(value, type | Placeholder | GenericAlias):
        return True
    return type(value).__module__ in ("typing", "typing_extensions", "types")


def _raise(self: Any, *args: Any, **kwargs: Any) -> NoReturn:
    package = self._flash_module.partition(".")[0]
    name = f"{self._flash_module}.{self._flash_name}"
    remedy = self._flash_remedy.replace("{package}", package)
    raise MissingDependencyError(
        f"{name} was used, but the package {package!r} is not installed: {remedy}", name=package
    )


_USES = """
    call iter next reversed len bool contains setitem delitem enter exit aenter aexit aiter anext
    mro_entries instancecheck subclasscheck int float complex index round lt le gt ge neg pos abs
    invert add sub mul matmul truediv floordiv mod divmod pow lshift rshift and xor radd rsub rmul
    rmatmul rtruediv rfloordiv rmod rdivmod rpow rlshift rrshift rand rxor iadd isub imul imatmul
    itruediv ifloordiv imod ipow iand ixor ilshift irshift
"""
for _name in _USES.split():
    setattr(Placeholder, f"__{_name}__", _raise)
