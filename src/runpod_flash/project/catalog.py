"""What discovery found in a project: its endpoints, what can be called, and what is wrong."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from runpod_flash.spec import EndpointSpec
from runpod_flash.suggest import did_you_mean

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass(frozen=True)
class Operation:
    """A function, or a public method of a class, that jobs can call.

    `input` is the JSON schema of a job's `input` object (its properties are the parameters),
    `output` that of the result. `method` is the method's name, for classes only.
    """

    name: str
    method: str = ""
    streams: bool = False
    doc: str = ""
    input: dict[str, Any] = field(default_factory=dict)
    output: dict[str, Any] = field(default_factory=dict)
    line: int = 0


def choose_method(owner: str, methods: Sequence[str], value: Any) -> tuple[str, Any]:
    """Which method of a class an `input` means, and what is left for its parameters.

    A single method needs no name; one of several is named by the key `method`. Raises `TypeError`
    for an input that names none.
    """
    named = value.get("method") if isinstance(value, dict) else None
    if len(methods) == 1 and named not in methods:
        return methods[0], value
    if named not in methods:
        if not methods:
            raise TypeError(f"{owner} has no public methods")
        if named is None:
            raise TypeError(
                f"{owner} has several methods, and the input names one by the key 'method': one of "
                f"{', '.join(methods)} (`flash call` has --method for that)"
            )
        hint = did_you_mean(str(named), methods)
        raise TypeError(f"{owner} has no method {named!r:.80}.{hint} It has: {', '.join(methods)}")
    return str(named), {key: item for key, item in value.items() if key != "method"}


@dataclass(frozen=True)
class Route:
    """A route of a load-balanced endpoint; `method` is "WEBSOCKET" for a WebSocket.

    `input` is the JSON schema of an object with the function's parameters, those of the path
    included.
    """

    method: str
    path: str
    function: str
    doc: str = ""
    input: dict[str, Any] = field(default_factory=dict)
    output: dict[str, Any] = field(default_factory=dict)
    line: int = 0


@dataclass(frozen=True)
class Discovered:
    """One endpoint of a project. It has operations or routes; one of an image has both.

    `file` is its POSIX path below the root, `line` where it is declared. `owner` is the class whose
    methods the operations are; empty for a function.
    """

    spec: EndpointSpec
    env: dict[str, str]
    file: str
    line: int = 0
    owner: str = ""
    operations: tuple[Operation, ...] = ()
    routes: tuple[Route, ...] = ()


# An image says itself which paths it has.
_ANY_PATH = "/{path:path}"
_METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "WEBSOCKET")


def of_image(spec: EndpointSpec, env: dict[str, str], file: str, line: int = 0) -> Discovered:
    """The endpoint of an image's own program, whatever that turns out to be."""
    routes = tuple(Route(method, _ANY_PATH, spec.name) for method in _METHODS)
    operations = (Operation(spec.name),)
    return Discovered(spec, env, file, line, operations=operations, routes=routes)


@dataclass(frozen=True)
class Problem:
    """Why a file, or one endpoint of it, is not served: a sentence, and the lines that led to it.

    `endpoint` is the endpoint's name where the rest of the file is served.
    """

    file: str
    message: str
    line: int = 0
    detail: str = ""
    endpoint: str = ""


@dataclass(frozen=True)
class Catalog:
    """Everything in a project that can be served, in the order of files and lines."""

    root: str
    endpoints: tuple[Discovered, ...] = ()
    problems: tuple[Problem, ...] = ()

    def to_wire(self) -> dict[str, Any]:
        """As JSON values."""
        wire = asdict(self)
        for each, found in zip(wire["endpoints"], self.endpoints, strict=True):
            each["spec"] = found.spec.to_wire()
        return wire

    @classmethod
    def from_wire(cls, wire: dict[str, Any]) -> Catalog:
        """The inverse of `to_wire`."""
        return cls(
            root=wire["root"],
            endpoints=tuple(map(cls.endpoint_from_wire, wire["endpoints"])),
            problems=tuple(Problem(**each) for each in wire["problems"]),
        )

    @staticmethod
    def endpoint_from_wire(wire: dict[str, Any]) -> Discovered:
        """One of its endpoints."""
        return Discovered(
            **{
                **wire,
                "spec": EndpointSpec.from_wire(wire["spec"]),
                "operations": tuple(Operation(**each) for each in wire["operations"]),
                "routes": tuple(Route(**each) for each in wire["routes"]),
            }
        )
