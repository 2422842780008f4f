"""Which files declare endpoints, told from their syntax alone: no other file is ever run.

A file declares if, outside of its functions, it makes an `Endpoint` that is no mere client, or
decorates with one: its own, another file's, or what a function or class of the project makes of it.
"""

from __future__ import annotations

import ast
import re
import traceback
import warnings
from typing import TYPE_CHECKING, Literal

from runpod_flash.project.catalog import Problem
from runpod_flash.project.syntax import PACKAGE, Chain, chain_of, look_at, makes

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from runpod_flash.project.syntax import Look, Use, Value

_DECLARING = frozenset(
    {
        "Endpoint",
        "remote",
        "LiveServerless",
        "CpuLiveServerless",
        "LiveLoadBalancer",
        "CpuLiveLoadBalancer",
        "ServerlessEndpoint",
        "CpuServerlessEndpoint",
        "LoadBalancerSlsResource",
        "CpuLoadBalancerSlsResource",
    }
)

Kind = Literal["class", "instance", "maker"]
_Found = tuple[Kind, Chain] | None


def declaring(root: Path, files: Iterable[str]) -> tuple[list[str], list[Problem]]:
    """The files, of these by their POSIX paths, that declare endpoints; and what is wrong."""
    found = _Files(root)
    others: dict[str, bytes] = {}
    for file in files:
        source = found.read(file)
        if PACKAGE.encode() in source:
            found.parse(file, source)
        elif b"import" in source:
            others[file] = source
    wanted = {*found.looks, *others}
    found.follow(others)
    result = sorted(file for file in wanted & found.looks.keys() if found.declares(file))
    hidden = [problem for file in result for problem in found.hidden(file)]
    return result, [*found.problems, *hidden]


class _Files:
    """The looks at the files that may have to do with endpoints; the others are not even parsed."""

    def __init__(self, root: Path) -> None:
        self.looks: dict[str, Look] = {}
        self.problems: list[Problem] = []
        self._root = root
        self._missing: set[str] = set()
        self._known: dict[tuple[str, Chain], _Found] = {}

    def read(self, file: str) -> bytes:
        """Its bytes; none of a file that is gone meanwhile, or not for us."""
        try:
            return (self._root / file).read_bytes()
        except OSError:
            return b""

    def parse(self, file: str, source: bytes) -> Look | None:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # the import will tell
                tree = ast.parse(source, file)
        except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
            if PACKAGE.encode() in source and (b"Endpoint" in source or b"remote" in source):
                self.problems.append(syntax_problem(file, error))
            self._missing.add(file)
            return None
        self._known.clear()
        self.looks[file] = found = look_at(tree)
        return found

    def follow(self, sources: dict[str, bytes]) -> None:
        """Parse those that may use the endpoints of others: they have the name of one."""
        known: set[str] = set()
        while names := self._names() - known:
            known |= names
            any_name = re.compile(rb"\b(?:%s)\b" % b"|".join(n.encode() for n in sorted(names)))
            for file in [file for file, source in sources.items() if any_name.search(source)]:
                self.parse(file, sources.pop(file))

    def _names(self) -> set[str]:
        return {
            name
            for file, look in list(self.looks.items())
            for name in (*look.imported, *look.values, *look.definitions)
            if (found := self._kind(file, (name,))) and (found[0] != "class" or name in look.values)
        }

    # What a file has to do with endpoints

    def declares(self, file: str) -> bool:
        return any(self._is_declaring(file, use) for use in self.looks[file].uses)

    def _is_declaring(self, file: str, use: Use) -> bool:
        found = self._kind(file, use.chain)
        if found is None:
            return False
        kind, rest = found
        # (To call a function that has an endpoint inside is what any script may do.)
        return use.how != "call" or (kind != "maker" and not rest)

    def hidden(self, file: str) -> Iterator[Problem]:
        """Endpoints whose function's name is defined again: no worker could find them."""
        last = {getattr(node, "name", ""): node.lineno for node in self.looks[file].tree.body}
        for node in self.looks[file].tree.body:
            if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                continue
            name = next((n for d in node.decorator_list if (n := self._named(file, d))), "")
            if name and last[node.name] > node.lineno:
                text = (
                    f"{file}:{node.lineno}: {node.name} is defined again in line "
                    f"{last[node.name]}, which hides it; give one of them another name"
                )
                yield Problem(file, text, node.lineno, endpoint=name.replace("()", node.name))

    def _named(self, file: str, decorator: ast.expr) -> str:
        """The name of the queue endpoint that the decorator declares; "()" where it gives none."""
        chain = chain_of(decorator)
        found = self._kind(file, chain) if chain else None
        if found is None or found[1] or not isinstance(decorator, ast.Call):
            return ""
        named = [k.value for k in decorator.keywords if k.arg == "name"]
        given = [value for value in [*named, *decorator.args] if isinstance(value, ast.Constant)]
        return str(given[0].value) if given else "()"

    def _kind(self, file: str, chain: Chain) -> _Found:
        """What of an endpoint the first names stand for, and the names that are left."""
        key = file, chain
        if key not in self._known:
            self._known[key] = None  # files may import each other
            self._known[key] = self._find_kind(file, chain)
        return self._known[key]

    def _find_kind(self, file: str, chain: Chain) -> _Found:
        look = self._look(file)
        if look is None:
            return None
        head, rest = chain[0], chain[1:]
        if head in look.values:
            kind = self._kind_of_value(file, look.values[head])
            return (kind, rest) if kind else None
        if head in look.definitions:
            return ("maker", rest) if makes(look, look.definitions[head]) else None
        if head in look.imported:
            module, name = look.imported[head]
            return self._kind_in(file, module, (name, *rest) if name else rest)
        found = (self._kind_in(file, module, chain) for module in look.stars)
        return next((kind for kind in found if kind), None)

    def _kind_of_value(self, file: str, value: Value) -> Kind | None:
        found = self._kind(file, value.chain)
        if found is None or found[1]:
            return None
        if not value.called:
            return found[0]
        return None if found[0] == "instance" else "instance"  # (that gave a decorated function)

    def _kind_in(self, importer: str, module: str, names: Chain) -> _Found:
        if module.partition(".")[0] == PACKAGE:
            at = next((i for i, name in enumerate(names) if name in _DECLARING), None)
            return None if at is None else ("class", names[at + 1 :])
        if not names:
            return None
        for candidate in _files_of(importer, module):
            found = self._kind(candidate, names)
            if found:
                return found
        below = f"{module}{'' if module.endswith('.') else '.'}{names[0]}"
        return self._kind_in(importer, below, names[1:])

    def _look(self, file: str) -> Look | None:
        if file not in self.looks and file not in self._missing:
            source = self.read(file) if file.endswith("__init__.py") else b""
            if not source or self.parse(file, source) is None:
                self._missing.add(file)
        return self.looks.get(file)


def syntax_problem(file: str, error: Exception) -> Problem:
    """Why the file cannot be parsed, with the line and the place in it."""
    line = getattr(error, "lineno", None) or 0
    said = getattr(error, "msg", None) or str(error) or type(error).__name__
    shown = traceback.format_exception_only(type(error), error)
    where = f"{file}:{line}" if line else file
    text = said if said.startswith("invalid syntax") else f"invalid syntax: {said}"
    return Problem(file, f"{where}: {text}", line, "".join(shown[:-1]))


def _files_of(importer: str, module: str) -> Iterator[str]:
    """The files that an imported module may be: below the root, or beside the importer."""
    name = module.lstrip(".")
    level = len(module) - len(name)
    beside = importer.split("/")[:-1]
    bases = [beside[: len(beside) - level + 1]] if level else [[], beside]
    for base in bases:
        parts = [*base, *filter(None, name.split("."))]
        if name:
            yield "/".join(parts) + ".py"
        yield "/".join([*parts, "__init__.py"])
