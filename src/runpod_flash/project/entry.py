"""From a decorated function or class to the entry by which a worker finds it."""

from __future__ import annotations

import functools
import hashlib
import inspect
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runpod_flash.errors import ConfigurationError
from runpod_flash.project.root import find_root, search_path
from runpod_flash.spec import Entry, EntryKind
from runpod_flash.wire.codec import encode_safe
from runpod_flash.wire.module_names import MAIN, MAINS, ModuleNames

if TYPE_CHECKING:
    from collections.abc import Iterable
    from types import CodeType, ModuleType

_SCALARS = (str, bytes, int, float, complex, bool, type(None), type(...))
_MAX_DEPTH = 20
# (Where a class begins is noted since Python 3.13, and which attributes its methods set.)
_CLASS_NOISE = frozenset(
    {"__dict__", "__weakref__", "__module__", "__qualname__", "__doc__"}
    | {"__firstlineno__", "__static_attributes__"}
)
_GENERATOR_FLAGS = 0x20 | 0x200  # CO_GENERATOR | CO_ASYNC_GENERATOR


def entry_kind(target: Any) -> EntryKind:
    """What calling the target gives: a value, a stream of values, or an object with methods."""
    if isinstance(target, type):
        return "class"
    code = getattr(target, "__code__", None)
    return "generator" if code is not None and code.co_flags & _GENERATOR_FLAGS else "function"


def main_name() -> str | None:
    """The name under which workers import the running script; None where it has no file."""
    main = sys.modules[MAIN]
    if _file_of(main) is None:
        return None
    spec = getattr(main, "__spec__", None)
    if spec is not None:  # python -m package.module
        return str(spec.name)
    stem = Path(str(main.__file__)).stem.replace(".", "_")  # or it would lie in a package
    # A script named like a standard module would replace that module in its workers.
    return f"{stem}_script" if stem in sys.stdlib_module_names else stem


def _file_of(module: ModuleType | None) -> str | None:
    """The module's file, if it is there: that of a script from standard input is "<stdin>"."""
    file = getattr(module, "__file__", None)
    if module is sys.modules[MAIN] and not os.path.isfile(file or ""):  # noqa: PTH113
        return None
    return file


def module_names() -> ModuleNames:
    return ModuleNames(main=main_name())


def locate(target: Any, name: str) -> Entry:
    """The entry of a function or class. Raises `ConfigurationError` where no worker could find it.

    A module's file makes a file entry. What a REPL, a notebook or standard input defines travels by
    value.
    """
    module = sys.modules.get(target.__module__)
    file = _file_of(module)
    if file is None and target.__module__ == MAIN:
        return _by_value(target)
    if file is None or module is None:
        raise ConfigurationError(
            f"endpoint {name!r}: {target.__qualname__} is in module {target.__module__!r}, which "
            "has no file that a worker could import; define it in a file"
        )
    if "<locals>" in target.__qualname__:
        raise ConfigurationError(
            f"endpoint {name!r}: {target.__qualname__} is defined inside a function, where no "
            "worker can find it; move it to the top level of its module"
        )
    return _in_file(target, module, Path(os.path.normpath(Path(str(file)).absolute())))


def _in_file(target: Any, module: ModuleType, file: Path) -> Entry:
    is_main = target.__module__ in MAINS
    wire_name = (main_name() or MAIN) if is_main else target.__module__
    base = file.parent
    package = wire_name.split(".")[: None if file.name == "__init__.py" else -1]
    for part in reversed(package):
        if base.name == part:
            base = base.parent
    root = find_root(base) or base
    return Entry(
        module=wire_name,
        qualname=target.__qualname__,
        kind=entry_kind(target),
        file=file.relative_to(root).as_posix(),
        root=str(root),
        search_path=search_path(root),
        is_main=is_main,
    )


def _by_value(target: Any) -> Entry:
    from runpod_flash.wire.pickling import dumps

    value = dumps(target, ModuleNames())
    return Entry(
        module=MAIN,
        qualname=target.__qualname__,
        kind=entry_kind(target),
        root=str(Path.cwd()),
        search_path=(".",),
        value=value,
        value_python=f"{sys.version_info[0]}.{sys.version_info[1]}",
    )


def code_digest(target: Any, entry: Entry) -> str:
    """A digest of the code: the file's bytes, or a function's source and the names it uses.

    The pickled bytes differ from run to run, so no digest can rest on them.
    """
    if not entry.by_value:
        from runpod_flash.project.closure import closure_digest

        return closure_digest(Path(entry.root), entry.file, entry.search_path)
    parts = [repr(part) for part in _describe(target, set())]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def _describe(target: Any, seen: set[int]) -> list[Any]:
    """What the target is made of: source, defaults, and the things of the session that it uses.

    What another module defines travels by its name, so its name is all that counts.
    """
    target = getattr(target, "__func__", target)
    if isinstance(target, functools.partial):
        return _describe_all((target.func, target.args, target.keywords), seen)
    if isinstance(target, property):
        return _describe_all((target.fget, target.fset, target.fdel), seen)
    target = inspect.unwrap(target) if callable(target) else target
    has_code = isinstance(target, type) or hasattr(target, "__code__")
    if not has_code or target.__module__ != MAIN:
        return [_plain(target)]
    if id(target) in seen:
        return ["again"]
    seen.add(id(target))
    describe = _describe_class if isinstance(target, type) else _describe_function
    return describe(target, seen)


def _describe_all(targets: Iterable[Any], seen: set[int]) -> list[Any]:
    return [part for target in targets for part in _describe(target, seen)]


def _describe_class(target: type, seen: set[int]) -> list[Any]:
    parts = [target.__qualname__, *_describe_all(target.__bases__, seen)]
    for name, member in sorted(vars(target).items()):
        if name not in _CLASS_NOISE:
            parts += [name, *_describe(member, seen)]
    return parts


def _describe_function(target: Any, seen: set[int]) -> list[Any]:
    parts = _code_parts(target.__code__)
    scope = target.__globals__
    for name in sorted(_names(target.__code__)):
        if name in scope:
            parts += [name, *_describe(scope[name], seen)]
    for cell in target.__closure__ or ():
        try:
            parts += _describe(cell.cell_contents, seen)
        except ValueError:
            parts.append("empty")
    return [*parts, _plain(target.__defaults__), _plain(target.__kwdefaults__)]


def _code_parts(code: CodeType) -> list[Any]:
    constants = [c for c in code.co_consts if not hasattr(c, "co_code")]
    inner = [c for c in code.co_consts if hasattr(c, "co_code")]
    parts: list[Any] = [code.co_code, code.co_names, code.co_varnames, *map(_plain, constants)]
    return [*parts, *(part for c in inner for part in _code_parts(c))]


def _names(code: CodeType) -> set[str]:
    inner = (c for c in code.co_consts if hasattr(c, "co_code"))
    return {*code.co_names, *(name for c in inner for name in _names(c))}


def _plain(value: Any, depth: int = 0) -> str:
    """Values by content, other objects by their type: their addresses change from run to run."""
    if isinstance(value, _SCALARS):
        return repr(value)
    if depth > _MAX_DEPTH:
        return type(value).__qualname__
    if isinstance(value, (list, tuple)):
        return f"{type(value).__name__}({', '.join(_plain(v, depth + 1) for v in value)})"
    if isinstance(value, (set, frozenset)):
        return f"set({', '.join(sorted(_plain(v, depth + 1) for v in value))})"
    if isinstance(value, dict):
        items = (f"{_plain(k, depth + 1)}: {_plain(v, depth + 1)}" for k, v in value.items())
        return f"dict({', '.join(items)})"
    if hasattr(value, "__name__"):
        return f"{getattr(value, '__module__', '')}.{value.__name__}"
    return f"{type(value).__qualname__} {_content(value)}"


def _content(value: Any) -> str:
    """A digest of arrays, times and whatever else the wire knows without a pickle."""
    payload = encode_safe(value)
    if payload is None:
        return ""
    digest = hashlib.sha256(payload.body)
    for buffer in payload.buffers:
        digest.update(buffer)
    return digest.hexdigest()
