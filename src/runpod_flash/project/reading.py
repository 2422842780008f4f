"""From imported modules to the endpoints that they declare, and what is wrong with them."""

from __future__ import annotations

import contextlib
import hashlib
import inspect
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runpod_flash.errors import ConfigurationError
from runpod_flash.placeholders.inert import Inert
from runpod_flash.project.catalog import Discovered, Operation, Problem, Route, of_image
from runpod_flash.project.closure import closure_digest
from runpod_flash.project.collisions import collisions
from runpod_flash.project.entry import entry_kind
from runpod_flash.project.schemas import input_schema, output_schema, summary
from runpod_flash.spec import Entry
from runpod_flash.wire.module_names import module_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from types import ModuleType

    _Places = dict[int, tuple[str, str]]  # of routes' functions: file, and name in its module


def read(root: Path, modules: Mapping[str, ModuleType]) -> tuple[list[Discovered], list[Problem]]:
    """The endpoints of these modules, by their files' POSIX paths below the root."""
    found: list[Discovered] = []
    problems: list[Problem] = []
    endpoints: dict[int, Any] = {}
    places: _Places = {}
    for file, module in modules.items():
        for name, value in list(vars(module).items()):
            config = _config(value)
            if config is None:
                continue
            endpoint = _endpoint_of(value, config)
            is_here = _is_here(value, module, root / file)
            if not config.get("is_lb_route_handler"):
                if is_here:
                    _read_one(root, file, endpoint, value, found, problems)
                continue
            endpoints[id(endpoint)] = endpoint
            if is_here or id(value) not in places:
                places[id(value)] = (file, name)
    for endpoint in endpoints.values():
        _read_routes(root, endpoint, places, found, problems)
    _read_images(root, modules, found, problems)
    found.sort(key=lambda each: (each.file, each.line))
    served, collided = collisions(found)
    return served, [*problems, *collided]


def _config(value: Any) -> dict[str, Any] | None:
    try:
        config = inspect.getattr_static(value, "__remote_config__", None)
    except Exception:
        return None
    return config if isinstance(config, dict) and "resource_config" in config else None


def _endpoint_of(value: Any, config: dict[str, Any]) -> Any:
    """The `Endpoint` that declared it; the configuration may have a deprecated resource."""
    declared = getattr(value, "_flash_declared", None) or getattr(
        getattr(value, "__flash_reference__", None), "__self__", None
    )
    resource = config["resource_config"]
    return getattr(resource, "_shared", resource) if declared is None else declared.endpoint


def _is_here(value: Any, module: ModuleType, file: Path) -> bool:
    """Whether the object is defined in this file, and not imported from another."""
    original = getattr(value, "__flash_target__", value)
    place = _file_of(original)
    if place is None or place.startswith("<"):  # made by `exec`: by the module that it names
        return bool(original.__module__ == module.__name__)
    return place == str(file)


def _file_of(target: Any) -> str | None:
    code = getattr(inspect.unwrap(target), "__code__", None)
    if code is not None:
        return str(code.co_filename)
    try:
        return inspect.getsourcefile(target)
    except (TypeError, OSError):
        return None


def _line_of(target: Any) -> int:
    code = getattr(inspect.unwrap(target), "__code__", None)
    if code is not None:
        return int(code.co_firstlineno)
    try:
        return inspect.getsourcelines(target)[1]
    except (TypeError, OSError):
        return 0


# Programs of images


def _read_images(
    root: Path,
    modules: Mapping[str, ModuleType],
    found: list[Discovered],
    problems: list[Problem],
) -> None:
    """Endpoints with an image that decorate nothing: what they serve is in the image."""
    from runpod_flash.endpoint import Endpoint

    seen: set[int] = set()
    for file, module in modules.items():
        for value in list(vars(module).values()):
            if not isinstance(value, Endpoint) or id(value) in seen or value.image is None:
                continue
            seen.add(id(value))
            if value.is_client:
                _read_image(root, file, value, found, problems)


def _read_image(
    root: Path, file: str, endpoint: Any, found: list[Discovered], problems: list[Problem]
) -> None:
    declared, line = endpoint._place
    with contextlib.suppress(ValueError):  # else it is made by a package
        file = Path(declared).relative_to(root).as_posix()
    try:
        found.append(of_image(endpoint.image_spec(file), endpoint.worker_env, file, line))
    except (ConfigurationError, TypeError, ValueError) as error:
        problems.append(Problem(file, f"{file}:{line}: {error}", line, endpoint=endpoint.name))


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


def _check_place(endpoint: Any, original: Any) -> None:
    """Raise `ConfigurationError` where no worker could find it. The words are those of `locate`."""
    what = f"endpoint {endpoint.name!r}: {original.__qualname__}"
    if (_file_of(original) or "<").startswith("<"):
        raise ConfigurationError(
            f"{what} is in module {original.__module__!r}, which has no file that a worker could "
            "import; define it in a file"
        )
    if original.__name__ == "<lambda>":
        raise ConfigurationError(
            f"{what} has no name by which a worker could find it; define it by `def` at the top "
            "level of its module"
        )
    if "<locals>" in original.__qualname__:
        raise ConfigurationError(
            f"{what} is defined inside a function, where no worker can find it; move it to the "
            "top level of its module"
        )


def _discovered(root: Path, file: str, endpoint: Any, original: Any, line: int) -> Discovered:
    _check_place(endpoint, original)
    entry = Entry(
        module=module_of(file),
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
        method = inspect.unwrap(getattr(owner, name))
        if not isinstance(method, Inert):  # a value of an absent package's
            yield _operation(method, name)


# Routes


def _read_routes(
    root: Path, endpoint: Any, places: _Places, found: list[Discovered], problems: list[Problem]
) -> None:
    # Where the functions can be had from; a decorator's wrapper has another file for its own.
    named = [each["function"] for each in endpoint._routes if id(each["function"]) in places]
    if not named:
        return
    file, line = places[id(named[0])][0], _line_of(named[0])
    try:
        found.append(_discovered_routes(root, endpoint, [places[id(f)] for f in named], line))
    except (ConfigurationError, TypeError, ValueError) as error:
        problems.append(Problem(file, f"{file}:{line}: {error}", line, endpoint=endpoint.name))


def _discovered_routes(
    root: Path, endpoint: Any, places: Sequence[tuple[str, str]], line: int
) -> Discovered:
    (file, name), *_ = places
    files = list(dict.fromkeys(each for each, _ in places))
    entry = Entry(
        module=module_of(file),
        qualname=name,
        kind="routes",
        file=file,
        root=str(root),
        search_path=_search_path(file),
        others=tuple(files[1:]),
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
