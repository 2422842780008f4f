"""Endpoints of a project that would get in each other's way: names and addresses."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from runpod_flash.project.catalog import Problem

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from runpod_flash.project.catalog import Discovered

# What the server itself answers at the top of its address.
RESERVED = ("v2", "docs", "openapi.json", "ping", "health", "metrics")


def collisions(found: Sequence[Discovered]) -> tuple[list[Discovered], list[Problem]]:
    """Those that can be served together, the first one first, and why the others are not."""
    served: list[Discovered] = []
    problems: list[Problem] = []
    names: dict[str, Discovered] = {}
    addresses: dict[tuple[str, str], Discovered] = {}
    for each in found:
        said = _reserved(each) or _same_name(each, names) or _same_address(each, addresses)
        if said:
            place = f"{each.file}:{each.line}"
            problems.append(
                Problem(each.file, f"{place}: {said}", each.line, endpoint=each.spec.name)
            )
            continue
        served.append(each)
        names[each.spec.name] = each
        addresses.update(dict.fromkeys(_addresses(each), each))
    return served, problems


def _reserved(each: Discovered) -> str:
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


def _same_address(each: Discovered, addresses: dict[tuple[str, str], Discovered]) -> str:
    for method, path in _addresses(each):
        other = addresses.get((method, path))
        if other is not None:
            return (
                f"{method} {path} is an address of the endpoint {other.spec.name!r} "
                f"({other.file}:{other.line}) already; give the route another path"
            )
    return ""


def _addresses(each: Discovered) -> Iterator[tuple[str, str]]:
    """Methods and paths; what a path parameter is called makes no difference."""
    prefix = "/" + each.file.removesuffix(".py")
    for route in each.routes:
        yield route.method, prefix + re.sub(r"{[^}:]*", "{", route.path)
    for operation in each.operations:
        place = f"{prefix}/{each.owner}" if each.owner else prefix
        for verb in ("run", "runsync"):
            yield "POST", f"{place}/{operation.name}/{verb}"
