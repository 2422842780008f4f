"""From a declaration's image and template to what its containers are made like."""

from __future__ import annotations

import json
import re
import shlex
from typing import TYPE_CHECKING, Any

from runpod_flash.errors import ConfigurationError
from runpod_flash.spec import Container
from runpod_flash.suggest import refuse_unknown

if TYPE_CHECKING:
    from collections.abc import Mapping

    from runpod_flash.template import PodTemplate

# What `template=PodTemplate(config={...})` takes, with the type of each.
_CONFIG: dict[str, Any] = {
    "allow": list,
    "health": str,
    "memory_gb": (int, float),
    "python": str,
    "shm_gb": (int, float),
    "start_seconds": (int, float),
}
_IMAGE = re.compile(r"[a-z0-9][\w.:/@-]*", re.ASCII)
# What is forbidden to a container unless `allow` names it. Capabilities that amount to the whole
# machine are not to be had.
ALLOWANCES = (
    "writable-root",
    "new-privileges",
    "CAP_AUDIT_WRITE",
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_IPC_LOCK",
    "CAP_KILL",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_RAW",
    "CAP_SETFCAP",
    "CAP_SETGID",
    "CAP_SETPCAP",
    "CAP_SETUID",
    "CAP_SYS_CHROOT",
    "CAP_SYS_NICE",
)


def container_of(image: str | None, template: PodTemplate | None) -> Container | None:
    """The container of these; None where no image is named.

    Raises `ConfigurationError` for a field that cannot be read, or that needs an image.
    """
    image = image or (template.imageName if template else "") or None
    if image is None:
        _refuse_fields(template)
        return None
    # (A digest is in lower case as well.)
    if not _IMAGE.fullmatch(image) or image.endswith((":", "/", "@")):
        raise ConfigurationError(
            f"image={image!r} is no image's name; write it as a registry has it, such as "
            "'vllm/vllm-openai:latest'"
        )
    if template is None:
        return Container(image)
    config = _config(template.config)
    entrypoint, command = _command(template)
    return Container(
        image=image,
        entrypoint=entrypoint,
        command=command,
        ports=_ports(template.ports),
        health=_health(config.get("health", "")),
        start_seconds=_positive("start_seconds", config.get("start_seconds", 0)),
        shm_gb=_positive("shm_gb", config.get("shm_gb", 0)),
        memory_gb=_positive("memory_gb", config.get("memory_gb", 0)),
        python=config.get("python", ""),
        allow=_allowances(config.get("allow", [])),
        registry_auth=template.containerRegistryAuthId,
    )


# Fields of a template that say something of a container; the others have their effect without.
_FIELDS = (
    "advancedStart",
    "config",
    "containerRegistryAuthId",
    "dockerArgs",
    "ports",
    "startScript",
)


def _refuse_fields(template: PodTemplate | None) -> None:
    for field in _FIELDS if template is not None else ():
        if getattr(template, field):
            raise ConfigurationError(
                f"template: PodTemplate({field}=...) is about a container; give the endpoint an "
                "image= as well"
            )


def _command(template: PodTemplate) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """What is run in the place of the image's entrypoint and command; empty: its own."""
    arguments = template.dockerArgs.strip()
    if template.advancedStart or arguments.startswith("{"):
        return _advanced(arguments)
    try:
        command = tuple(shlex.split(arguments))
    except ValueError as error:
        raise ConfigurationError(
            f"template.dockerArgs={arguments!r} cannot be split into words: {error}"
        ) from None
    if not template.startScript:
        return (), command
    if command:
        raise ConfigurationError("template: give dockerArgs= or startScript=, not both")
    return ("/bin/sh", "-c"), (template.startScript,)


def _advanced(arguments: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    try:
        given = json.loads(arguments)
        found = {"entrypoint": [], "cmd": [], **given}
        words = [*found["entrypoint"], *found["cmd"]]
        if given.keys() <= {"entrypoint", "cmd"} and all(isinstance(w, str) for w in words):
            return tuple(found["entrypoint"]), tuple(found["cmd"])
    except (ValueError, TypeError, AttributeError):
        pass
    raise ConfigurationError(
        f"template.dockerArgs={arguments!r}: with advancedStart it is a JSON object such as "
        '{"entrypoint": ["python3"], "cmd": ["serve.py"]}'
    )


def _ports(text: str) -> tuple[int, ...]:
    """Those of HTTP servers, or all where none is said to be one: "8000/http,22/tcp"."""
    found: list[tuple[int, str]] = []
    for part in filter(None, (part.strip() for part in text.split(","))):
        number, _, kind = part.partition("/")
        if not number.isascii() or not number.isdigit() or not 0 < int(number) < 65536:
            raise ConfigurationError(
                f"template.ports={text!r}: {part!r} is no port; write them as '8000/http,22/tcp'"
            )
        if kind not in ("", "http", "tcp"):
            raise ConfigurationError(f"template.ports={text!r}: {part!r} is neither /http nor /tcp")
        found.append((int(number), kind))
    http = tuple(number for number, kind in found if kind == "http")
    return http or tuple(number for number, _ in found)


def _config(given: Mapping[str, Any]) -> dict[str, Any]:
    refuse_unknown("template.config", given, _CONFIG)
    for name, value in given.items():
        kind = _CONFIG[name]
        if not isinstance(value, kind) or isinstance(value, bool):
            wanted = kind.__name__ if isinstance(kind, type) else "number"
            raise ConfigurationError(f"template.config[{name!r}]={value!r} is no {wanted}")
    return dict(given)


def _positive(name: str, value: float) -> float:
    if value < 0:
        raise ConfigurationError(f"template.config[{name!r}]={value!r} is less than nothing")
    return float(value)


def _health(path: str) -> str:
    if path and not path.startswith("/"):
        raise ConfigurationError(f"template.config['health']={path!r} is no path: it starts with /")
    return path


def _allowances(given: list[Any]) -> tuple[str, ...]:
    for each in given:
        if each not in ALLOWANCES:
            raise ConfigurationError(
                f"template.config['allow'] has {each!r}: there are {', '.join(ALLOWANCES)}"
            )
    return tuple(sorted(given))
