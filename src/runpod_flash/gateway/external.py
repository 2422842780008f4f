"""External endpoints: a queue without code, served by workers that are started elsewhere alone."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING

from runpod_flash.gateway.problems import invalid
from runpod_flash.project.catalog import Discovered, Operation
from runpod_flash.project.collisions import RESERVED_NAMES
from runpod_flash.spec import Build, EndpointSpec, Entry, Scaling

if TYPE_CHECKING:
    from collections.abc import Iterable

    from runpod_flash.project.catalog import Catalog

_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,62}[A-Za-z0-9])?")


def external_endpoint(name: str) -> Discovered:
    """The endpoint of that name; what its workers take as input is for them to say."""
    spec = EndpointSpec(
        name, Entry("", "", kind="external"), Build(code=""), scaling=Scaling(0, workers_max=0)
    )
    return Discovered(spec, {}, file="", operations=(Operation(name),))


def with_externals(catalog: Catalog, names: Iterable[str]) -> Catalog:
    """The catalog with external endpoints; one with code has precedence over its namesake."""
    taken = {each.spec.name for each in catalog.endpoints}
    added = [external_endpoint(name) for name in names if name not in taken]
    return replace(catalog, endpoints=(*catalog.endpoints, *added))


def check_name(name: str) -> None:
    """Raise the 422 of a name that no new endpoint may have."""
    if name in RESERVED_NAMES or not _NAME.fullmatch(name):
        raise invalid(
            f"$: {name!r} cannot be an endpoint's name: use up to 64 letters, digits, '-', '_' "
            f"and '.', and none of {', '.join(sorted(RESERVED_NAMES))}"
        )
