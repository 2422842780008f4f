"""The import closure of a file inside its project: the code whose change is a change of a build."""

from __future__ import annotations

import ast
import hashlib
import os
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from runpod_flash.project.root import is_root

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from runpod_flash.spec import EndpointSpec

_DYNAMIC = frozenset({"__import__", "import_module", "run_module", "load_module"})
# What they load is a path, or whatever lies in a folder.
_UNKNOWABLE = frozenset(
    {"run_path", "spec_from_file_location", "SourceFileLoader", "iter_modules", "walk_packages"}
)
_SKIPPED = frozenset({"__pycache__", "node_modules", "venv", "env", "build", "dist"})
_VENV_MARK = "pyvenv.cfg"


class Closure(NamedTuple):
    """Files by their POSIX path below the root. `exact` is false where the whole tree was taken,
    because a file imports what only running it could tell."""

    files: tuple[str, ...]
    exact: bool


def find_closure(root: Path, file: str, search_path: Sequence[str]) -> Closure:
    """Follow the imports of `file` through the project, parent packages included."""
    folders = [root / place for place in search_path]
    found: set[Path] = set()
    pending = [root / file]
    exact = True
    while pending:
        path = pending.pop()
        if path in found or not path.is_relative_to(root):
            continue
        found.add(path)
        pending += _packages_of(path)
        imports, complete = _imports(path)
        exact = exact and complete
        for name in imports:
            pending += _files_of(name, path, folders)
    if not exact and is_root(root):
        # (A folder that nothing marks as a project may hold anything: a home, a download folder.)
        return Closure(_whole_tree(root), exact=False)
    return Closure(_relative(root, found), exact)


def needed_files(specs: Iterable[EndpointSpec]) -> Iterator[str]:
    """The closures' files of all these endpoints, each below the root of its own."""
    for spec in specs:
        entry = spec.entry
        if not entry.by_value and not spec.is_image:
            for file in (entry.file, *entry.others):
                yield from find_closure(Path(entry.root), file, entry.search_path).files


def closure_digest(root: Path, file: str, search_path: Sequence[str]) -> str:
    """A digest over the paths and contents of what can be read of the closure; the same on every
    machine."""
    digest = hashlib.sha256()
    for name in find_closure(root, file, search_path).files:
        with suppress(OSError):  # gone meanwhile, or a link to nowhere, which does not travel
            content = (root / name).read_bytes()
            digest.update(f"{name}\0{len(content)}\0".encode())
            digest.update(content)
    return digest.hexdigest()


class _Import(NamedTuple):
    level: int
    module: str
    names: tuple[str, ...]


def _imports(path: Path) -> tuple[list[_Import], bool]:
    """What the file imports, and whether that is all that it may import."""
    try:
        # As source: one text has the same imports wherever and whenever it is read.
        return _imports_of(path.read_bytes())
    except OSError:
        return [], True


# The endpoints of a project have most of their files in common.
@lru_cache(maxsize=256)
def _imports_of(source: bytes) -> tuple[list[_Import], bool]:
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError):
        return [], True
    found = []
    complete = True
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [_Import(0, alias.name, ()) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = tuple(alias.name for alias in node.names)
            found.append(_Import(node.level, node.module or "", names))
        elif isinstance(node, ast.Call) and _called(node) in _DYNAMIC:
            literal = _literal(node)
            if literal is None:
                complete = False
            else:
                found.append(literal)
        elif isinstance(node, ast.Call) and _called(node) in _UNKNOWABLE:
            complete = False
    return found, complete


def _called(node: ast.Call) -> str:
    function = node.func
    return function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")


def _literal(node: ast.Call) -> _Import | None:
    first = node.args[0] if node.args else None
    if not isinstance(first, ast.Constant) or not isinstance(first.value, str):
        return None
    module = first.value.lstrip(".")
    level = len(first.value) - len(module)
    if level and not _from_here(node):
        return None
    return _Import(level, module, ())


def _from_here(node: ast.Call) -> bool:
    """Whether a relative `import_module` is relative to the file's own package."""
    given = [*node.args[1:2], *(k.value for k in node.keywords if k.arg == "package")]
    return any(isinstance(value, ast.Name) and value.id == "__package__" for value in given)


def _files_of(imported: _Import, importer: Path, folders: Sequence[Path]) -> Iterator[Path]:
    bases: Sequence[Path] = folders
    if imported.level > len(importer.parents):
        return
    if imported.level:
        bases = [importer.parents[imported.level - 1]]
    parts = imported.module.split(".") if imported.module else []
    for base in bases:
        yield from _along(base, parts)
        for name in imported.names:
            yield from _along(base.joinpath(*parts), [name])


def _along(base: Path, parts: Sequence[str]) -> Iterator[Path]:
    """The files that importing `a.b.c` below `base` runs: packages on the way, then the module."""
    folder = base
    for part in parts:
        for candidate in (folder / part / "__init__.py", folder / f"{part}.py"):
            if candidate.is_file():
                yield candidate
        folder = folder / part
    package = base / "__init__.py"
    if not parts and package.is_file():
        yield package


def _packages_of(path: Path) -> Iterator[Path]:
    """The `__init__.py` of each package that the file is in: importing the file runs them."""
    for folder in path.parents:
        package = folder / "__init__.py"
        if not package.is_file():
            return
        yield package


def _whole_tree(root: Path) -> tuple[str, ...]:
    # (Not by the rules of what the project ignores: workers have neither them nor who reads them.)
    found: set[Path] = set()
    for folder, subfolders, files in os.walk(root):
        if _VENV_MARK in files:
            subfolders.clear()
            continue
        subfolders[:] = [n for n in subfolders if n not in _SKIPPED and not n.startswith(".")]
        names = (name for name in files if name.endswith(".py") and not name.startswith("."))
        found.update(Path(folder, name) for name in names)
    return _relative(root, found)


def _relative(root: Path, files: set[Path]) -> tuple[str, ...]:
    return tuple(sorted(path.relative_to(root).as_posix() for path in files))
