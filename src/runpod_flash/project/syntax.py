"""What the syntax of one file says of endpoints: names, where they come from, and their uses."""

from __future__ import annotations

import ast
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

PACKAGE = "runpod_flash"
_CLIENT_KEYWORDS = frozenset({"id"})

Chain = tuple[str, ...]  # `api.get` is ("api", "get")


class Use(NamedTuple):
    """A decorator, a call, or the call of what a call gave: `api.get("/")(function)`."""

    chain: Chain
    how: Literal["decorator", "call", "second call"]


class Value(NamedTuple):
    """Where an assigned name's value comes from, and whether by a call."""

    chain: Chain
    called: bool


@dataclass
class Look:
    """What the syntax of one file says. `imported` has a module and a name in it, or just "" """

    tree: ast.Module
    imported: dict[str, tuple[str, str]] = field(default_factory=dict)
    stars: list[str] = field(default_factory=list)
    values: dict[str, Value] = field(default_factory=dict)
    definitions: dict[str, ast.FunctionDef | ast.ClassDef] = field(default_factory=dict)
    uses: list[Use] = field(default_factory=list)


def look_at(tree: ast.Module) -> Look:
    """What is to be seen in a file."""
    found = Look(tree)
    _Walker(found).visit(tree)
    return found


def makes(look: Look, definition: ast.FunctionDef | ast.ClassDef) -> bool:
    """Whether a function or class has to do with `Endpoint`, by the names in it."""
    known = {
        local for local, (module, _) in look.imported.items() if module.partition(".")[0] == PACKAGE
    }
    inside: Sequence[ast.AST] = (
        definition.bases if isinstance(definition, ast.ClassDef) else definition.body
    )
    for node in (below for part in inside for below in ast.walk(part)):
        if isinstance(node, ast.Name) and node.id in known:
            return True
        if isinstance(node, ast.ImportFrom) and node.module == PACKAGE:
            return True
    return False


def chain_of(expression: ast.AST) -> Chain:
    """The names that an expression begins with; calls between them do not count."""
    names: list[str] = []
    while not isinstance(expression, ast.Name):
        if isinstance(expression, ast.Attribute):
            names.append(expression.attr)
            expression = expression.value
        elif isinstance(expression, ast.Call):
            expression = expression.func
        else:
            return ()
    return (expression.id, *reversed(names))


def _calls(call: ast.Call) -> Iterator[ast.Call]:
    """A call, and those that it begins with."""
    inner: ast.expr = call
    while isinstance(inner, ast.Call | ast.Attribute):
        if isinstance(inner, ast.Call):
            yield inner
        inner = inner.func if isinstance(inner, ast.Call) else inner.value


def _is_client(call: ast.Call) -> bool:
    """Whether it makes an `Endpoint` of something that runs elsewhere: `Endpoint(id="x")`."""
    return any(
        keyword.arg in _CLIENT_KEYWORDS
        and not (isinstance(keyword.value, ast.Constant) and keyword.value.value is None)
        for keyword in call.keywords
    )


class _Walker(ast.NodeVisitor):
    """Visits what runs when the file is imported: no function's body, and no `__main__` part."""

    def __init__(self, look: Look) -> None:
        self._look = look

    def visit_Import(self, node: ast.Import) -> None:
        for alias in node.names:
            name = alias.asname or alias.name.partition(".")[0]
            self._look.imported[name] = (alias.name if alias.asname else name, "")

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        module = "." * node.level + (node.module or "")
        for alias in node.names:
            if alias.name == "*":
                self._look.stars.append(module)
            else:
                self._look.imported[alias.asname or alias.name] = (module, alias.name)

    def visit_If(self, node: ast.If) -> None:
        names = {n.id for n in ast.walk(node.test) if isinstance(n, ast.Name)}
        for child in node.orelse if "__name__" in names else [*node.body, *node.orelse]:
            self.visit(child)

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        self._define(node, [*node.args.defaults, *filter(None, node.args.kw_defaults)])

    def visit_AsyncFunctionDef(self, node: ast.AsyncFunctionDef) -> None:
        self._decorate(node)

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        self._define(node, [*node.bases, *node.body])

    def visit_Lambda(self, node: ast.Lambda) -> None:
        """Its body does not run."""

    def visit_Assign(self, node: ast.Assign) -> None:
        self._assign(node.targets, node.value)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        if node.value is not None:
            self._assign([node.target], node.value)

    def visit_Call(self, node: ast.Call) -> None:
        chain = chain_of(node.func)
        if chain and not any(map(_is_client, _calls(node))):
            again = isinstance(node.func, ast.Call)
            self._look.uses.append(Use(chain, "second call" if again else "call"))
        self.generic_visit(node)

    def _define(self, node: ast.FunctionDef | ast.ClassDef, parts: Sequence[ast.AST]) -> None:
        if not self._decorate(node):
            self._look.definitions[node.name] = node
        for part in parts:
            self.visit(part)

    def _decorate(self, node: ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) -> bool:
        chains = [chain for each in node.decorator_list if (chain := chain_of(each))]
        self._look.uses += [Use(chain, "decorator") for chain in chains]
        return bool(chains)

    def _assign(self, targets: Sequence[ast.expr], value: ast.expr) -> None:
        called = isinstance(value, ast.Call)
        source = value.func if isinstance(value, ast.Call) else value
        is_client = isinstance(value, ast.Call) and _is_client(value)
        chain = chain_of(source)
        if chain and not isinstance(source, ast.Call) and not is_client:
            names = [target.id for target in targets if isinstance(target, ast.Name)]
            self._look.values.update(dict.fromkeys(names, Value(chain, called)))
        self.visit(value)
