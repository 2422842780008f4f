"""The import closure of a file inside its project: the code whose change is a change of a build."""

from __future__ import annotations

import ast
import hashlib
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

_DYNAMIC = frozenset({"__import__", "import_module", "run_path", "run_module", "load_module"})
_SKIPPED = frozenset({"__pycache__", "node_modules", "venv", "env", "build", "dist"})


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
    while pending:
        path = pending.pop()
        if path in found:
            continue
        found.add(path)
        imports = _imports(path)
        if imports is None:
            return Closure(_whole_tree(root), exact=False)
        for name in imports:
            pending += _files_of(name, path, folders)
    return Closure(_relative(root, found), exact=True)


def closure_digest(root: Path, file: str, search_path: Sequence[str]) -> str:
    """A digest over the closure's paths and contents; the same on every machine."""
    digest = hashlib.sha256()
    for name in find_closure(root, file, search_path).files:
        content = (root / name).read_bytes()
        digest.update(f"{name}\0{len(content)}\0".encode())
        digest.update(content)
    return digest.hexdigest()


class _Import(NamedTuple):
    level: int
    module: str
    names: tuple[str, ...]


def _imports(path: Path) -> list[_Import] | None:
    """The file's import statements; None where it also imports by other means."""
    try:
        tree = ast.parse(path.read_bytes())
    except (SyntaxError, ValueError, OSError):
        return []
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [_Import(0, alias.name, ()) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = tuple(alias.name for alias in node.names)
            found.append(_Import(node.level, node.module or "", names))
        elif isinstance(node, ast.Call) and _called(node) in _DYNAMIC:
            literal = _literal(node)
            if literal is None:
                return None
            found.append(_Import(0, literal, ()))
    return found


def _called(node: ast.Call) -> str:
    function = node.func
    return function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")


def _literal(node: ast.Call) -> str | None:
    first = node.args[0] if node.args else None
    return first.value if isinstance(first, ast.Constant) and isinstance(first.value, str) else None


def _files_of(imported: _Import, importer: Path, folders: Sequence[Path]) -> Iterator[Path]:
    bases: Sequence[Path] = folders
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


def _whole_tree(root: Path) -> tuple[str, ...]:
    return _relative(
        root,
        {
            path
            for path in root.rglob("*.py")
            if not any(
                part in _SKIPPED or part.startswith(".") for part in path.relative_to(root).parts
            )
        },
    )


def _relative(root: Path, files: set[Path]) -> tuple[str, ...]:
    return tuple(sorted(path.relative_to(root).as_posix() for path in files))
