"""Endpoints of a project that would get in each other's way: names and addresses."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

from runpod_flash.project.catalog import Problem

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence, Set

    from runpod_flash.project.catalog import Discovered

# What the server itself answers at the top of its address.
RESERVED = (
    "v1", "v2", "docs", "openapi.json", "ping", "health", "healthz", "readyz", "metrics", "d", "s",
    "setup", "oauth", "graphql",
)  # fmt: skip
# What stands at /v2/NAME in the place of an endpoint: resources of this server, and of the hosted
# service's REST API, which uses the same prefix.
RESERVED_NAMES = frozenset(
    (
        "account",
        "apps",
        "billing",
        "blobs",
        "catalog",
        "clusters",
        "flash",
        "global-volumes",
        "invitations",
        "keys",
        "network-volumes",
        "openapi.json",
        "platform",
        "pods",
        "registries",
        "serverless",
        "sessions",
        "templates",
    )
)
_JOB_VERBS = {"status": "GET", "stream": "GET", "cancel": "POST"}
_MEETS = {"{id}": "*", "*": "{id}"}


class _Address(NamedTuple):
    """A method and a path; "{id}" at its end is the id of a function's job, "*" a route's place
    where such an id could stand."""

    method: str
    path: str

    def met(self) -> _Address:
        """The address of another endpoint that cannot be told from this one."""
        base, _, last = self.path.rpartition("/")
        return _Address(self.method, f"{base}/{_MEETS.get(last, last)}")


def collisions(found: Sequence[Discovered]) -> tuple[list[Discovered], list[Problem]]:
    """Those that can be served together, the first one first, and why the others are not."""
    served: list[Discovered] = []
    problems: list[Problem] = []
    names: dict[str, Discovered] = {}
    addresses: dict[_Address, Discovered] = {}
    for each in found:
        own = set(_addresses(each, [other for other in found if other.file == each.file]))
        said = _reserved(each) or _same_name(each, names) or _same_address(own, addresses)
        if said:
            place = f"{each.file}:{each.line}"
            problems.append(
                Problem(each.file, f"{place}: {said}", each.line, endpoint=each.spec.name)
            )
            continue
        served.append(each)
        names[each.spec.name] = each
        addresses.update(dict.fromkeys(own, each))
    return served, problems


def _reserved(each: Discovered) -> str:
    name = each.spec.name
    if name in RESERVED_NAMES:
        return f"/v2/{name} is an address of the server itself; give the endpoint another name="
    top = each.file.removesuffix(".py").partition("/")[0]
    if top not in RESERVED:
        return ""
    return f"/{top} is an address of the server itself; give the file or folder another name"


def _same_name(each: Discovered, names: dict[str, Discovered]) -> str:
    other = names.get(each.spec.name)
    if other is None:
        return ""
    return (
        f"the endpoint {each.spec.name!r} is declared at {other.file}:{other.line} already; "
        "give one of them another name="
    )


def _same_address(own: Set[_Address], addresses: Mapping[_Address, Discovered]) -> str:
    for address in sorted({each.met() for each in own} & addresses.keys()):
        other = addresses[address]
        return (
            f"{address.method} {address.path} is an address of the endpoint {other.spec.name!r} "
            f"({other.file}:{other.line}) already; give the route another path"
        )
    return ""


def _addresses(each: Discovered, neighbours: Sequence[Discovered]) -> Iterator[_Address]:
    """What a path parameter is called makes no difference."""
    prefix = "/" + each.file.removesuffix(".py")
    if each.spec.is_image:
        yield _Address("", f"{prefix}/{each.spec.name}")
        return
    for route in each.routes:
        path = prefix + re.sub(r"{[^}]*}", "{}", route.path)
        yield _Address(route.method, path)
        yield from _like_a_job_s(route.method, path)
    for operation in each.operations:
        for base in _bases(prefix, each, operation.name, neighbours):
            yield from (_Address("POST", f"{base}/{verb}") for verb in ("run", "runsync"))
            for verb, method in _JOB_VERBS.items():
                yield _Address(method, f"{base}/{verb}/{{id}}")


def _like_a_job_s(method: str, path: str) -> Iterator[_Address]:
    base, _, _ = path.rpartition("/")
    if _JOB_VERBS.get(base.rpartition("/")[2]) == method:
        yield _Address(method, f"{base}/*")


def _bases(
    prefix: str, each: Discovered, name: str, neighbours: Sequence[Discovered]
) -> Iterator[str]:
    """Where a function is called: by its name, its class's too, and by none if it is the only."""
    others = [other for other in neighbours if not other.spec.is_image]
    file_s = [operation.name for other in others for operation in other.operations]
    yield f"{prefix}/{each.owner}/{name}" if each.owner else f"{prefix}/{name}"
    if file_s.count(name) == 1:
        yield f"{prefix}/{name}"
    if len(file_s) == 1:
        yield prefix
