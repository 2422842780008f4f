"""Which build of torch an environment gets, and which functions use torch without saying so."""

from __future__ import annotations

import ast
import re
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

from runpod_flash.engines.local.environments.index_settings import listing
from runpod_flash.engines.local.environments.requirement_lines import requirement_name

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from packaging.version import Version

    from runpod_flash.engines.local.environments.index_settings import IndexSettings
    from runpod_flash.engines.local.environments.requirement_lines import Requirements

TORCH_PACKAGES = ("torch", "torchvision", "torchaudio", "triton")
_TORCH_INDEX = re.compile(r"pytorch|/whl/(cpu|cu\d+|rocm[\d.]*|nightly|xpu)\b")


@dataclass(frozen=True)
class TorchBuild:
    """`backend` is a value of uv's --torch-backend, or None to leave uv alone; `constraint` a line.

    The constraint keeps uv to a build that a find-links directory offers: an index often has a
    later one, of gigabytes for a GPU that is not there.
    """

    backend: str | None = None
    constraint: str | None = None


def choose_torch_build(
    requirements: Requirements, settings: IndexSettings, python: tuple[int, int], cuda: str | None
) -> TorchBuild:
    """CPU builds where `cuda` (the driver's highest version) is None, else what the driver can run.

    What the user has chosen stays: UV_TORCH_BACKEND, an index of torch's builds, local wheels.
    """
    if settings.variables.get("UV_TORCH_BACKEND"):
        return TorchBuild()
    places = settings.find_links + requirements.values("--find-links")
    if local := _local_version(requirements, places, python, cuda):
        return TorchBuild(constraint=f"torch=={local}")
    indexes = settings.indexes + requirements.values("--index-url")
    indexes += requirements.values("--extra-index-url")
    if any(_TORCH_INDEX.search(place) for place in indexes + places):
        return TorchBuild()
    no_index = settings.no_index or ("--no-index", "") in requirements.options
    # macOS has one build for every machine, on the ordinary index.
    if no_index or sys.platform == "darwin":
        return TorchBuild()
    return TorchBuild(backend="auto" if cuda else "cpu")


def _local_version(
    requirements: Requirements, places: Iterable[str], python: tuple[int, int], cuda: str | None
) -> Version | None:
    """The latest torch in a local directory that runs here and that the requirements allow."""
    files = [line.rpartition(" ")[0] for place in places for line in listing(place).splitlines()]
    wheels = [name for name in files if name.startswith("torch-") and name.endswith(".whl")]
    if not wheels:
        return None  # the usual case: spare it the import of packaging
    found = [v for v in _versions(wheels, python) if _runs(v, cuda) and _allowed(v, requirements)]
    return max(found, default=None)


def _versions(wheels: list[str], python: tuple[int, int]) -> Iterator[Version]:
    from packaging.tags import cpython_tags
    from packaging.utils import InvalidWheelFilename, parse_wheel_filename

    supported = set(cpython_tags(python))
    for name in wheels:
        try:
            _, version, _, tags = parse_wheel_filename(name)
        except InvalidWheelFilename:
            continue
        if not supported.isdisjoint(tags):
            yield version


def _runs(version: Version, cuda: str | None) -> bool:
    """Whether a build, by its local version (`cpu`, `cu128`), suits the driver's CUDA."""
    local = version.local or ""
    if cuda is None:
        return local == "cpu"
    match = re.fullmatch(r"cu(\d+)(\d)", local)
    if not match:
        return False
    major, _, minor = cuda.partition(".")
    return (int(match[1]), int(match[2])) <= (int(major), int(minor or 0))


def _allowed(version: Version, requirements: Requirements) -> bool:
    from packaging.requirements import InvalidRequirement, Requirement

    for line in requirements.lines:
        if requirement_name(line) != "torch":
            continue
        try:
            requirement = Requirement(line.split(" --")[0])
        except InvalidRequirement:
            return False  # a path: it says which wheel
        if requirement.url or not requirement.specifier.contains(version, prereleases=True):
            return False
    return True


def undeclared_torch(source: str, qualname: str, declared: Sequence[str]) -> tuple[str, ...]:
    """Which of torch, torchvision, torchaudio, triton a function uses and does not declare.

    `source` is its module's text; `qualname` names a function or class in it. Counted are its own
    imports and the module's top-level imports that it uses by name, also through other functions
    and classes of the module. Empty where the text cannot be parsed or the name is not found.
    """
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError):
        return ()
    node = _find(tree, qualname)
    names = {requirement_name(line) for line in declared}
    used = _used(tree, node) if node is not None else set()
    return tuple(name for name in TORCH_PACKAGES if name in used and name not in names)


def _find(tree: ast.Module, qualname: str) -> ast.AST | None:
    node: ast.AST | None = tree
    for part in qualname.split("."):
        if part != "<locals>" and node is not None:
            node = next((d for d in _definitions(node) if d.name == part), None)
    return node


def _definitions(
    node: ast.AST,
) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef]:
    """The functions and classes defined directly in a scope, also under its `if` and `try`."""
    for child in _scope(node):
        if isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            yield child


def _scope(node: ast.AST) -> Iterator[ast.AST]:
    for child in ast.iter_child_nodes(node):
        yield child
        if not isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Lambda)):
            yield from _scope(child)


def _used(tree: ast.Module, start: ast.AST) -> set[str]:
    imported = {bound: package for n in _scope(tree) for bound, package in _imports(n)}
    defined = {definition.name: definition for definition in _definitions(tree)}
    used: set[str] = set()
    pending: list[ast.AST] = [start]
    seen: set[ast.AST] = set()
    while pending:
        node = pending.pop()
        seen.add(node)
        for child in ast.walk(node):
            used.update(package for _, package in _imports(child))
            if isinstance(child, ast.Name) and isinstance(child.ctx, ast.Load):
                used.add(imported.get(child.id, ""))
                if (other := defined.get(child.id)) and other not in seen:
                    pending.append(other)
    return used


def _imports(node: ast.AST) -> Iterator[tuple[str, str]]:
    """(name bound, top-level package) of an import statement."""
    if isinstance(node, ast.Import):
        for alias in node.names:
            package = alias.name.partition(".")[0]
            yield alias.asname or package, package
    elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
        for alias in node.names:
            yield alias.asname or alias.name, node.module.partition(".")[0]
