"""What REST v2 takes for endpoints, templates and registries, field by field."""

from __future__ import annotations

from typing import TYPE_CHECKING

from runpod_flash.gateway.bodies import Body, closed, listed

if TYPE_CHECKING:
    from runpod_flash.gateway.bodies import Schema

# (No text of the control API is long; what is longer is a mistake.)
TEXT: Schema = {"type": "string", "maxLength": 4096}
NAME: Schema = {"type": "string", "minLength": 1, "maxLength": 256}
FLAG: Schema = {"type": "boolean"}
_VERSION: Schema = {"type": "string", "pattern": r"^\d+\.\d+$"}
_VARIABLE: Schema = {"type": "string", "maxLength": 65_536, "pattern": r"^[^\x00]*$"}
_COUNT: Schema = {"type": "integer", "minimum": 0, "maximum": 100_000}
_SOME: Schema = {"type": "integer", "minimum": 1, "maximum": 100_000}

CONTAINER: dict[str, Schema] = {
    "image": TEXT,
    "args": TEXT,
    "disk": _SOME,
    "env": {
        "type": "object",
        "additionalProperties": _VARIABLE,
        "propertyNames": {"pattern": "^[A-Za-z_][A-Za-z0-9_]{0,127}$"},
    },
    "ports": listed({"type": "string", "pattern": r"^\d{1,5}/(http|tcp|udp)$"}),
    "registry": {"anyOf": [TEXT, {"type": "null"}]},
}
SCALING: Schema = closed(
    {
        "type": {"type": "string", "enum": ["QUEUE_DELAY", "REQUEST_COUNT"]},
        "queueDelay": {"type": "number", "minimum": 0.5, "maximum": 86_400},
        "requestCount": _SOME,
    },
    ["type"],
)
WORKERS: Schema = closed(
    {
        "min": _COUNT,
        "max": _COUNT,
        "idleTimeout": {"type": "integer", "minimum": 1, "maximum": 3600},
    }
)
_GPU: dict[str, Schema] = {
    "pools": listed(NAME, minItems=1),
    "excludedTypes": listed({**NAME, "pattern": r"^\s*[^-\s]"}, uniqueItems=True),
    "count": _SOME,
    "allowedCudaVersions": listed(_VERSION),
}
_GPU_CREATED = closed({**_GPU, "minCudaVersion": _VERSION}, ["pools"])
_GPU_UPDATED = closed({**_GPU, "minCudaVersion": {"type": "string", "pattern": r"^(\d+\.\d+)?$"}})
_CPU = listed(
    closed(
        {"id": NAME, "vcpuCount": {"type": "integer", "minimum": 1, "maximum": 1024}},
        ["id", "vcpuCount"],
    ),
    minItems=1,
    uniqueItems=True,
)
_ENDPOINT: dict[str, Schema] = {
    **CONTAINER,
    "name": NAME,
    "cpu": _CPU,
    "workers": WORKERS,
    "scaling": SCALING,
    "timeout": {"type": "integer", "minimum": 0, "maximum": 2**31},
    "flashboot": {"type": "string", "enum": ["OFF", "FLASHBOOT", "PRIORITY_FLASHBOOT"]},
    "dataCenterIds": listed(NAME),
    "networkVolumes": listed(NAME),
    "templateId": NAME,
}

ENDPOINT_CREATED = Body(
    {
        **_ENDPOINT,
        "type": {"type": "string", "enum": ["QUEUE", "LOAD_BALANCER"]},
        "gpu": _GPU_CREATED,
    },
    ["name", "type", "scaling"],
)
ENDPOINT_UPDATED = Body({**_ENDPOINT, "gpu": _GPU_UPDATED})

_MOUNTS = closed(
    {
        "persistent": closed(
            {"size": {"type": "integer", "minimum": 10}, "path": NAME}, ["size", "path"]
        )
    }
)
_TEMPLATE: dict[str, Schema] = {
    **CONTAINER,
    "name": NAME,
    "mounts": _MOUNTS,
    "serverless": FLAG,
    "public": FLAG,
    "category": {"type": "string", "enum": ["CPU", "NVIDIA", "AMD"]},
    "startSsh": FLAG,
    "startJupyter": FLAG,
    "allowedCudaVersions": listed(_VERSION),
}
TEMPLATE_CREATED = Body(_TEMPLATE, ["name", "image"])
TEMPLATE_UPDATED = Body(_TEMPLATE)
REGISTRY_CREATED = Body(
    {"name": NAME, "username": NAME, "password": {**NAME, "maxLength": 65_536}},
    ["name", "username", "password"],
)
