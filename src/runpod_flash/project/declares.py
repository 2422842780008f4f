"""Which files declare endpoints, told from their syntax alone: no other file is ever run."""

from __future__ import annotations

import ast
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

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
_CLIENT_KEYWORDS = frozenset({"id", "image"})


@dataclass
class _Module:
    """What the static look at one file gives.

    `decorators` are the names that decorators begin with, `imported` maps names to the project
    modules and names that they come from.
    """

    declares: bool = False
    endpoints: set[str] = field(default_factory=set)
    decorators: set[str] = field(default_factory=set)
    imported: dict[str, tuple[str, str]] = field(default_factory=dict)


def mentions(source: bytes) -> bool:
    """Whether a look at the syntax is worth while."""
    return b"runpod_flash" in source or b"@" in source


def declaring(sources: Mapping[str, ast.Module]) -> list[str]:
    """The files, of these by their POSIX paths, that declare endpoints or routes."""
    modules = {name: _look(tree) for name, tree in sources.items()}
    changed = True
    while changed:  # an endpoint may come through several files
        changed = False
        for name, module in modules.items():
            for endpoint in _borrowed(name, module, modules):
                changed = changed or endpoint not in module.endpoints
                module.endpoints.add(endpoint)
    return [
        name
        for name, module in modules.items()
        if module.declares or module.decorators & module.endpoints
    ]


def _borrowed(name: str, module: _Module, modules: Mapping[str, _Module]) -> Iterator[str]:
    """The names under which the file has another file's endpoints."""
    for local, (source, original) in module.imported.items():
        for candidate in _files_of(name, source):
            if candidate in modules and original in modules[candidate].endpoints:
                yield local


def _files_of(importer: str, module: str) -> list[str]:
    folder = importer.rpartition("/")[0]
    path = module.replace(".", "/")
    near = f"{folder}/{path}" if folder else path
    return [f"{path}.py", f"{near}.py"]


def _look(tree: ast.Module) -> _Module:
    module = _Module()
    names: set[str] = set()  # what of this file is Endpoint or the like
    packages: set[str] = set()
    for node in _outside_of_functions(tree.body):
        if isinstance(node, ast.ImportFrom):
            _note_import(node, module, names)
        elif isinstance(node, ast.Import):
            packages |= {a.asname or "runpod_flash" for a in node.names if a.name == "runpod_flash"}
        else:
            _note_use(node, module, names, packages)
    return module


def _note_import(node: ast.ImportFrom, module: _Module, names: set[str]) -> None:
    for alias in node.names:
        if node.module == "runpod_flash" and alias.name in _DECLARING:
            names.add(alias.asname or alias.name)
        elif node.module and node.module != "runpod_flash":
            module.imported[alias.asname or alias.name] = (node.module, alias.name)


def _note_use(node: ast.stmt, module: _Module, names: set[str], packages: set[str]) -> None:
    for decorator in getattr(node, "decorator_list", ()):
        called = decorator.func if isinstance(decorator, ast.Call) else decorator
        if _is_declaring(called, names, packages):
            module.declares = True
        module.decorators.add(_first_name(called))
    for call in _calls(node):
        if _is_declaring(call.func, names, packages) and not _is_client(call):
            module.endpoints |= set(_targets(node))
            # An endpoint alone serves nothing; called with a function it decorates that.
            module.declares = module.declares or _is_decorating(node, call)
    if isinstance(node, ast.Assign | ast.Expr) and isinstance(node.value, ast.Call):
        called = node.value.func
        first = _first_name(called)
        if first in module.endpoints:
            module.decorators.add(first)


def _is_decorating(node: ast.stmt, call: ast.Call) -> bool:
    """Whether the statement calls what `call` gives: `f = Endpoint(...)(f)`."""
    return any(outer.func is call for outer in _calls(node))


def _calls(node: ast.stmt) -> Iterable[ast.Call]:
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return ()
    return (found for found in ast.walk(node) if isinstance(found, ast.Call))


def _is_client(call: ast.Call) -> bool:
    return any(keyword.arg in _CLIENT_KEYWORDS for keyword in call.keywords)


def _is_declaring(called: ast.expr, names: set[str], packages: set[str]) -> bool:
    if isinstance(called, ast.Name):
        return called.id in names
    if isinstance(called, ast.Attribute) and isinstance(called.value, ast.Name):
        return called.value.id in packages and called.attr in _DECLARING
    return False


def _first_name(expression: ast.expr) -> str:
    while isinstance(expression, ast.Attribute | ast.Call):
        expression = expression.func if isinstance(expression, ast.Call) else expression.value
    return expression.id if isinstance(expression, ast.Name) else ""


def _targets(node: ast.stmt) -> Iterator[str]:
    targets: list[ast.expr] = []
    if isinstance(node, ast.Assign):
        targets = node.targets
    elif isinstance(node, ast.AnnAssign):
        targets = [node.target]
    yield from (target.id for target in targets if isinstance(target, ast.Name))


def _outside_of_functions(body: Iterable[ast.stmt]) -> Iterator[ast.stmt]:
    """Every statement that runs when the file is imported, those of blocks included."""
    for node in body:
        yield node
        if isinstance(node, ast.If) and _is_main_guard(node):
            continue
        for block in ("body", "orelse", "finalbody"):
            if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                yield from _outside_of_functions(getattr(node, block, ()))
        for handler in getattr(node, "handlers", ()):
            yield from _outside_of_functions(handler.body)


def _is_main_guard(node: ast.If) -> bool:
    test = node.test
    return (
        isinstance(test, ast.Compare)
        and isinstance(test.left, ast.Name)
        and test.left.id == "__name__"
    )
