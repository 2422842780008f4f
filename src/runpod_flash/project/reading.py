"""From imported modules to the endpoints that they declare, and what is wrong with them."""

from __future__ import annotations

import hashlib
import inspect
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runpod_flash.errors import ConfigurationError
from runpod_flash.project.catalog import Discovered, Operation, Problem, Route
from runpod_flash.project.closure import closure_digest
from runpod_flash.project.collisions import collisions
from runpod_flash.project.entry import entry_kind
from runpod_flash.project.schemas import input_schema, output_schema, summary
from runpod_flash.spec import Entry

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from types import ModuleType


def read(root: Path, modules: Mapping[str, ModuleType]) -> tuple[list[Discovered], list[Problem]]:
    """The endpoints of these modules, by their files' POSIX paths below the root."""
    found: list[Discovered] = []
    problems: list[Problem] = []
    endpoints: dict[int, Any] = {}
    for file, module in modules.items():
        for value in list(vars(module).values()):
            config = _config(value)
            if config is None:
                continue
            endpoint = config["resource_config"]
            if config.get("is_lb_route_handler"):
                endpoints[id(endpoint)] = endpoint
            elif _is_here(value, file, root):
                _read_one(root, file, endpoint, value, found, problems)
    for endpoint in endpoints.values():
        _read_routes(root, endpoint, found, problems)
    found.sort(key=lambda each: (each.file, each.line))
    served, collided = collisions(found)
    return served, [*problems, *collided]


def _config(value: Any) -> dict[str, Any] | None:
    try:
        config = inspect.getattr_static(value, "__remote_config__", None)
    except Exception:
        return None
    return config if isinstance(config, dict) and "resource_config" in config else None


def _is_here(value: Any, file: str, root: Path) -> bool:
    """Whether the object is defined in this file, and not imported from another."""
    original = getattr(value, "__flash_target__", value)
    return _file_of(original) in (None, str(root / file))


def _file_of(target: Any) -> str | None:
    code = getattr(inspect.unwrap(target), "__code__", None)
    if code is not None:
        return str(code.co_filename)
    try:
        return inspect.getsourcefile(target)
    except (TypeError, OSError):
        return None


def _line_of(target: Any) -> int:
    code = getattr(target, "__code__", None)
    if code is not None:
        return int(code.co_firstlineno)
    try:
        return inspect.getsourcelines(target)[1]
    except (TypeError, OSError):
        return 0


# Functions and classes


def _read_one(
    root: Path,
    file: str,
    endpoint: Any,
    value: Any,
    found: list[Discovered],
    problems: list[Problem],
) -> None:
    original = getattr(value, "__flash_target__", value)
    line = _line_of(original)
    if any(each.file == file and each.line == line for each in found):
        return  # a second name of the same object
    try:
        found.append(_discovered(root, file, endpoint, original, line))
    except (ConfigurationError, TypeError, ValueError) as error:
        problems.append(Problem(file, f"{file}:{line}: {error}", line, endpoint=endpoint.name))


def _discovered(root: Path, file: str, endpoint: Any, original: Any, line: int) -> Discovered:
    if "<locals>" in original.__qualname__ or original.__name__ == "<lambda>":
        raise ConfigurationError(
            f"endpoint {endpoint.name!r}: {original.__qualname__} cannot be found by a worker; "
            "define it by `def` at the top level of its file"
        )
    entry = Entry(
        module=_module(file),
        qualname=original.__qualname__,
        kind=entry_kind(original),
        file=file,
        root=str(root),
        search_path=_search_path(file),
    )
    code = closure_digest(root, file, entry.search_path)
    is_class = isinstance(original, type)
    return Discovered(
        spec=endpoint.spec_of(entry, code),
        env=endpoint.worker_env,
        file=file,
        line=line,
        owner=original.__name__ if is_class else "",
        operations=tuple(_methods(original)) if is_class else (_operation(original),),
    )


def _module(file: str) -> str:
    return file.removesuffix(".py").replace("/", ".")


def _search_path(file: str) -> tuple[str, ...]:
    folder = file.rpartition("/")[0]
    return (".", folder) if folder else (".",)


def _operation(function: Any, method: str = "") -> Operation:
    streams = entry_kind(function) == "generator"
    return Operation(
        name=method or function.__name__,
        method=method,
        streams=streams,
        doc=summary(function),
        input=input_schema(function),
        output=output_schema(function, streams=streams),
        line=_line_of(function),
    )


def _methods(owner: type) -> Iterator[Operation]:
    from runpod_flash.functions import public_methods

    for name in public_methods(owner):
        yield _operation(inspect.unwrap(getattr(owner, name)), name)


# Routes


def _read_routes(
    root: Path, endpoint: Any, found: list[Discovered], problems: list[Problem]
) -> None:
    functions = [route["function"] for route in endpoint._routes]
    file = _relative(root, functions[0])
    line = _line_of(functions[0])
    if file is None:
        return  # of an installed package
    try:
        found.append(_discovered_routes(root, endpoint, functions, file, line))
    except (ConfigurationError, TypeError, ValueError) as error:
        problems.append(Problem(file, f"{file}:{line}: {error}", line, endpoint=endpoint.name))


def _discovered_routes(
    root: Path, endpoint: Any, functions: list[Any], file: str, line: int
) -> Discovered:
    files = dict.fromkeys(each for f in functions if (each := _relative(root, f)) is not None)
    entry = Entry(
        module=_module(file),
        qualname=functions[0].__qualname__,
        kind="routes",
        file=file,
        root=str(root),
        search_path=_search_path(file),
        others=tuple(each for each in files if each != file),
    )
    digests = [closure_digest(root, each, _search_path(each)) for each in files]
    code = (
        digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest()
    )
    return Discovered(
        spec=endpoint.spec_of(entry, code),
        env=endpoint.worker_env,
        file=file,
        line=line,
        routes=tuple(_route(each) for each in endpoint._routes),
    )


def _relative(root: Path, function: Any) -> str | None:
    path = Path(function.__code__.co_filename)
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else None


def _route(route: dict[str, Any]) -> Route:
    function = route["function"]
    return Route(
        method=route["method"],
        path=route["path"],
        function=route["function_name"],
        doc=summary(function),
        input=input_schema(function),
        output=output_schema(function, streams=entry_kind(function) == "generator"),
        line=_line_of(function),
    )
