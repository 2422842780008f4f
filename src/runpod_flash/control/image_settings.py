"""What REST v2 calls an endpoint's image, arguments, ports and registry, and what they are here."""

from __future__ import annotations

import json
import shlex
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from runpod_flash.container import container_of
from runpod_flash.errors import ConfigurationError
from runpod_flash.spec import Build, Container, EndpointSpec, Entry, Placement, Scaling
from runpod_flash.template import PodTemplate

if TYPE_CHECKING:
    from collections.abc import Mapping

    Fields = dict[str, Any]

# The variable with the credentials of a registry of that id. Its containers do not see it.
_REGISTRY = "FLASH_REGISTRY_"
NAMES = ("image", "args", "ports", "registry")
NO_IMAGE = "this endpoint runs the code that it was deployed with, and no image's"


def image_settings(container: Container) -> Fields:
    """The fields of a container."""
    words = {"entrypoint": list(container.entrypoint), "cmd": list(container.command)}
    return {
        "image": container.image,
        "args": json.dumps(words) if container.entrypoint else shlex.join(container.command),
        "ports": [f"{port}/http" for port in container.ports],
        "registry": container.registry_auth.removeprefix(_REGISTRY)
        if is_registry(container.registry_auth)
        else None,
    }


def edited_container(container: Container, fields: Mapping[str, Any]) -> Container:
    """With the fields of an update. A named image is looked up anew, also where it has that name.

    Raises `ConfigurationError` for those that cannot be read.
    """
    template = PodTemplate(
        dockerArgs=fields.get("args", ""), ports=",".join(fields.get("ports", ()))
    )
    read = container_of(fields.get("image") or container.image, template)
    assert read is not None
    if fields.get("image"):
        container = replace(container, image=read.image, digest="")
    if "args" in fields:
        container = replace(container, entrypoint=read.entrypoint, command=read.command)
    if "ports" in fields:
        container = replace(container, ports=read.ports)
    if "registry" in fields:
        given = fields["registry"]
        container = replace(container, registry_auth=registry_variable(given) if given else "")
    return container


def with_server_of(container: Container, env: Mapping[str, str]) -> Container:
    """With what a load balancer's workers are told by variables: port, and path of readiness."""
    port, health = env.get("PORT", ""), env.get("HEALTH_CHECK_PATH", "")
    if env.get("PORT_HEALTH", port) != port:
        raise ConfigurationError("env: PORT_HEALTH is another port than PORT; one server has both")
    if health and not health.startswith("/"):
        raise ConfigurationError(f"env: HEALTH_CHECK_PATH={health!r:.80} does not start with /")
    if port and not container.ports:
        container = edited_container(container, {"ports": [f"{port}/http"]})
    return replace(container, health=health or container.health)


def new_spec(fields: Mapping[str, Any]) -> EndpointSpec:
    """An endpoint of an image, before the other fields are in it; CPUs are among these."""
    if not fields.get("image"):
        raise ConfigurationError("image: name one, or a template that does, by templateId")
    return EndpointSpec(
        fields["name"],
        Entry("", "", kind="image"),
        Build("", container=edited_container(Container(fields["image"]), fields)),
        Placement(gpus=("any",) if "gpu" in fields else (), flashboot=False),
        Scaling(workers_max=3, idle_timeout=10),
    )


def registry_variable(registry_id: str) -> str:
    """The variable with the user and password of that registry."""
    return f"{_REGISTRY}{registry_id}"


def is_registry(variable: str) -> bool:
    """Whether a variable is one of those."""
    return variable.startswith(_REGISTRY)
