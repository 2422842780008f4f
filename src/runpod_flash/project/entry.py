"""From a decorated function or class to the entry by which a worker finds it."""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runpod_flash.errors import ConfigurationError
from runpod_flash.project.root import find_root, search_path
from runpod_flash.spec import Entry, EntryKind
from runpod_flash.wire.module_names import MAIN, ModuleNames

if TYPE_CHECKING:
    from types import CodeType, ModuleType

_GENERATOR_FLAGS = 0x20 | 0x200  # CO_GENERATOR | CO_ASYNC_GENERATOR


def entry_kind(target: Any) -> EntryKind:
    """What calling the target gives: a value, a stream of values, or an object with methods."""
    if isinstance(target, type):
        return "class"
    code = getattr(target, "__code__", None)
    return "generator" if code is not None and code.co_flags & _GENERATOR_FLAGS else "function"


def main_name() -> str | None:
    """The name under which workers import the running script; None in a REPL or notebook."""
    main = sys.modules[MAIN]
    if not getattr(main, "__file__", None):
        return None
    spec = getattr(main, "__spec__", None)
    if spec is not None:  # python -m package.module
        return str(spec.name)
    stem = Path(str(main.__file__)).stem
    # A script named like a standard module would replace that module in its workers.
    return f"{stem}_script" if stem in sys.stdlib_module_names else stem


def module_names() -> ModuleNames:
    return ModuleNames(main=main_name())


def locate(target: Any, name: str) -> Entry:
    """The entry of a function or class. Raises `ConfigurationError` where no worker could find it.

    A module's file makes a file entry. A REPL's or notebook's function travels by value.
    """
    module = sys.modules.get(target.__module__)
    file = getattr(module, "__file__", None)
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
    return _in_file(target, module, Path(str(file)).absolute())


def _in_file(target: Any, module: ModuleType, file: Path) -> Entry:
    is_main = target.__module__ == MAIN
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
    if id(target) in seen:
        return ["again"]
    seen.add(id(target))
    if isinstance(target, type):
        members = [m for m in vars(target).values() if hasattr(m, "__code__")]
        return [target.__qualname__, *(p for m in members for p in _describe(m, seen))]
    code = getattr(target, "__code__", None)
    if code is None:
        return [_plain(target)]
    parts = _code_parts(code)
    scope = target.__globals__
    for name in sorted(_names(code)):
        if name in scope:
            parts += [name, *_describe(scope[name], seen)]
    for cell in target.__closure__ or ():
        parts += _describe(cell.cell_contents, seen)
    return [*parts, _plain(target.__defaults__), _plain(target.__kwdefaults__)]


def _code_parts(code: CodeType) -> list[Any]:
    constants = [c for c in code.co_consts if not hasattr(c, "co_code")]
    inner = [c for c in code.co_consts if hasattr(c, "co_code")]
    parts: list[Any] = [code.co_code, code.co_names, code.co_varnames, *map(_plain, constants)]
    return [*parts, *(part for c in inner for part in _code_parts(c))]


def _names(code: CodeType) -> set[str]:
    inner = (c for c in code.co_consts if hasattr(c, "co_code"))
    return {*code.co_names, *(name for c in inner for name in _names(c))}


def _plain(value: Any) -> str:
    """Values by content, other objects by their type: their addresses change from run to run."""
    if isinstance(value, (str, bytes, int, float, bool, type(None))):
        return repr(value)
    if isinstance(value, (list, tuple)):
        return f"{type(value).__name__}({', '.join(map(_plain, value))})"
    if isinstance(value, (set, frozenset)):
        return f"set({', '.join(sorted(map(_plain, value)))})"
    if isinstance(value, dict):
        return f"dict({', '.join(f'{_plain(k)}: {_plain(v)}' for k, v in value.items())})"
    if hasattr(value, "__name__"):
        return f"{getattr(value, '__module__', '')}.{value.__name__}"
    return type(value).__qualname__
