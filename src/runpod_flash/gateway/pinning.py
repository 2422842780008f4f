"""The images of a release: what their names mean when it is made is what its workers run."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING, Any

from runpod_flash.control.releases import as_read
from runpod_flash.errors import WorkerStartError
from runpod_flash.spec import EndpointSpec

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from runpod_flash.control.releases import Content, Variables
    from runpod_flash.engines.base import Engine


async def pinned(
    engine: Engine,
    content: Content,
    variables: Variables,
    tell: Callable[[str, str], None] | None = None,
) -> Content:
    """The same, with the digests of images that have none yet.

    Images that are not here are pulled, and `tell` is called with an endpoint's name and a line;
    without it they stay as they are. Endpoints that may have no workers do so, too. Raises
    `WorkerStartError` with a sentence for each image that cannot be had.
    """
    endpoints = content.catalog["endpoints"]
    pins = (_pinned(engine, each, variables, tell) for each in endpoints)
    found = await asyncio.gather(*pins, return_exceptions=True)
    failed = [each for each in found if isinstance(each, BaseException)]
    problems = dict.fromkeys(str(each) for each in failed if isinstance(each, WorkerStartError))
    if tell is not None and problems:
        raise WorkerStartError("\n".join(problems))
    for each in failed:
        if not isinstance(each, WorkerStartError):
            raise each
    kept = [old if new in failed else new for old, new in zip(endpoints, found, strict=True)]
    return content._replace(catalog={**content.catalog, "endpoints": kept})


async def _pinned(
    engine: Engine,
    endpoint: dict[str, Any],
    variables: Variables,
    tell: Callable[[str, str], None] | None,
) -> dict[str, Any]:
    spec = EndpointSpec.from_wire(endpoint["spec"])
    container = spec.build.container
    if container is None or container.digest or not spec.scaling.workers_max:
        return endpoint
    report = None if tell is None else partial(tell, spec.name)
    digest = await engine.pin(spec, _values(spec.name, endpoint["env"], variables), report)
    return {**endpoint, "spec": as_read(spec.pinned(digest).to_wire())}


def _values(name: str, declared: Mapping[str, str], variables: Variables) -> dict[str, str]:
    """The variables of its workers, among which are the credentials of registries."""
    return {**declared, **variables.get(name, {}), **variables.get("", {})}
