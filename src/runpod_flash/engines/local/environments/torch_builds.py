"""Which build of torch an environment gets, and which functions use torch without saying so."""

from __future__ import annotations

import ast
import re
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

from runpod_flash.engines.local.environments.index_settings import listing
from runpod_flash.engines.local.environments.platforms import tags_of
from runpod_flash.engines.local.environments.requirement_lines import requirement_name

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from packaging.version import Version

    from runpod_flash.engines.local.environments.index_settings import IndexSettings
    from runpod_flash.engines.local.environments.requirement_lines import Requirements

TORCH_PACKAGES = ("torch", "torchvision", "torchaudio", "triton")
# The builds for CUDA that uv knows, the latest first.
_CUDA_BUILDS = tuple(
    f"cu{version}"
    for version in (130, 129, 128, 126, 125, 124, 123, 122, 121, 120, 118, 117, 116, 115, 114)
)
_TORCH_INDEX = re.compile(r"pytorch|/whl/(cpu|cu\d+|rocm[\d.]*|nightly|xpu)\b")


@dataclass(frozen=True)
class TorchBuild:
    """`backend` is a value of uv's --torch-backend, or None to leave uv alone; `constraint` a line.

    The constraint keeps uv to a build that a find-links directory offers: an index often has a
    later one, of gigabytes for a GPU that is not there.
    """

    backend: str | None = None
    constraint: str | None = None

    @property
    def shown(self) -> str:
        """Both, to be compared."""
        return f"{self.backend or ''} {self.constraint or ''}"


def choose_torch_build(
    requirements: Requirements,
    settings: IndexSettings,
    python: tuple[int, int],
    cuda: str | None,
    platform: str = "",
) -> TorchBuild:
    """CPU builds where `cuda` (the driver's highest version) is None, else what the driver can run.

    `platform` is another machine's, in uv's words. What the user has chosen stays:
    UV_TORCH_BACKEND, an index of torch's builds, local wheels.
    """
    if settings.variables.get("UV_TORCH_BACKEND"):
        return TorchBuild()
    places = settings.find_links + requirements.values("--find-links")
    if local := _local_version(requirements, places, python, cuda, platform):
        return TorchBuild(constraint=f"torch=={local}")
    indexes = settings.indexes + requirements.values("--index-url")
    indexes += requirements.values("--extra-index-url")
    if any(_TORCH_INDEX.search(place) for place in indexes + places):
        return TorchBuild()
    no_index = settings.no_index or ("--no-index", "") in requirements.options
    # macOS has one build for every machine, on the ordinary index.
    if no_index or "darwin" in (platform or sys.platform):
        return TorchBuild()
    if cuda and platform:
        return TorchBuild(backend=_backend_for(cuda))
    return TorchBuild(backend="auto" if cuda else "cpu")


def locked_torch_build(requirements: Requirements, settings: IndexSettings) -> TorchBuild:
    """Where the locked build of torch, by its local version (`+cu128`), is to be had."""
    line = next((each for each in requirements.lines if requirement_name(each) == "torch"), "")
    version = re.match(r"[^=]+==(\S+\+(\w+))", line)
    if version is None:  # none, or a file
        return TorchBuild()
    local = "".join(map(listing, settings.find_links))
    return TorchBuild(backend=None if f"torch-{version[1]}-" in local else version[2])


def _backend_for(cuda: str) -> str:
    """uv's name of the latest build that a driver runs; "auto" would ask this machine's."""
    able = (build for build in _CUDA_BUILDS if _suits(build, cuda))
    return next(able, "cpu")


def _local_version(
    requirements: Requirements,
    places: Iterable[str],
    python: tuple[int, int],
    cuda: str | None,
    platform: str,
) -> Version | None:
    """The latest torch in a local directory that runs there and that the requirements allow."""
    files = [line.rpartition(" ")[0] for place in places for line in listing(place).splitlines()]
    wheels = [name for name in files if name.startswith("torch-") and name.endswith(".whl")]
    if not wheels:
        return None  # the usual case: spare it the import of packaging
    there = _versions(wheels, python, platform)
    return max((v for v in there if _runs(v, cuda) and _allowed(v, requirements)), default=None)


def _versions(wheels: list[str], python: tuple[int, int], platform: str) -> Iterator[Version]:
    from packaging.utils import InvalidWheelFilename, parse_wheel_filename

    supported = set(tags_of(python, platform))
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
    return local == "cpu" if cuda is None else _suits(local, cuda)


def _suits(build: str, cuda: str) -> bool:
    match = re.fullmatch(r"cu(\d+)(\d)", build)
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
