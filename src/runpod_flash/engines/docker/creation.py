"""What is asked of the engine for one worker: the body of its request for a container."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from runpod_flash.engines.docker.known import known
from runpod_flash.engines.local.variables import instance_size, platform_variables
from runpod_flash.engines.local.volumes import VOLUME_TARGET

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from runpod_flash.engines.base import StartOrder
    from runpod_flash.engines.docker.images import Image
    from runpod_flash.engines.local.devices.gpu_pool import GpuLease
    from runpod_flash.spec import EndpointSpec

PLANE_LABEL, HOST_LABEL, WORKER_LABEL = "flash.plane", "flash.host", "flash.worker"
_ENDPOINT_LABEL = "flash.endpoint"
# Where model caches are without a volume, for the root is read-only.
CACHE_TARGET = "/flash-cache"
_TEMPORARY = dict.fromkeys(("/tmp", "/run", "/var/tmp"), "rw,exec,nosuid,nodev,mode=1777")
_PROCESSES = 16384
_GIB = 1 << 30


@dataclass(frozen=True)
class Program:
    """What runs in the container, if not the image's own: and what it needs to be mounted.

    `mounts` are read-only, by their places in the container.
    """

    entrypoint: tuple[str, ...] = ()
    command: tuple[str, ...] = ()
    folder: str = ""
    mounts: Mapping[str, Path] = field(default_factory=dict)


@dataclass(frozen=True)
class Place:
    """What of this machine a container gets, on the engine that it is for.

    `published` are ports that are reached at this machine's own address.
    """

    plane: str
    podman: bool
    cores: int
    memory: int
    cache: Path
    volume: Path | None = None
    datacenter: str = ""
    published: tuple[int, ...] = ()


def container_body(
    order: StartOrder,
    image: Image,
    place: Place,
    lease: GpuLease | None,
    program: Program,
    extra: Mapping[str, str],
) -> dict[str, Any]:
    """As Docker's API takes it; `extra` are variables that the worker gets besides its own."""
    spec = order.spec
    found: dict[str, Any] = {
        "Image": image.id,
        "Env": [f"{k}={v}" for k, v in _variables(order, place, lease, extra).items()],
        "Labels": {
            PLANE_LABEL: place.plane,
            HOST_LABEL: platform.node(),
            WORKER_LABEL: order.worker_id,
            _ENDPOINT_LABEL: spec.name,
        },
        "ExposedPorts": {f"{port}/tcp": {} for port in place.published},
        "HostConfig": {
            "Binds": _binds(place, program),
            "NetworkMode": "bridge",
            "PidsLimit": _PROCESSES,
            "PortBindings": {
                f"{port}/tcp": [{"HostIp": "127.0.0.1", "HostPort": ""}] for port in place.published
            },
            **_confinement(spec),
            **_resources(spec, place),
            **_devices(lease, place),
        },
    }
    for name, words in (("Entrypoint", program.entrypoint), ("Cmd", program.command)):
        if words:
            found[name] = list(words)
    if program.folder:
        found["WorkingDir"] = program.folder
    return found


def _variables(
    order: StartOrder, place: Place, lease: GpuLease | None, extra: Mapping[str, str]
) -> dict[str, str]:
    container = order.spec.build.container
    secret = container.registry_auth if container is not None else ""
    base = VOLUME_TARGET if place.volume is not None else CACHE_TARGET
    return {
        "HF_HOME": f"{base}/huggingface-cache",
        "XDG_CACHE_HOME": f"{base}/cache",
        **platform_variables(order.spec, place.datacenter),
        "FLASH_ENDPOINT_NAME": order.spec.name,
        "FLASH_WORKER_ID": order.worker_id,
        **_visible(lease),
        # (What makes a worker known to its server is not for programs of others.)
        **({} if order.spec.is_image else order.identity),
        **extra,
        **{name: value for name, value in order.env.items() if name != secret},
    }


def _visible(lease: GpuLease | None) -> dict[str, str]:
    """(In a container, the devices that it has are all that there are, and are counted anew.)"""
    if lease is None:
        hidden = {"CUDA_VISIBLE_DEVICES": "", "NVIDIA_VISIBLE_DEVICES": "void"}
        return {"RUNPOD_GPU_COUNT": "0", **hidden}
    return {"RUNPOD_GPU_COUNT": str(len(lease.devices))}


def _binds(place: Place, program: Program) -> list[str]:
    found = [f"{path}:{target}:ro" for target, path in program.mounts.items()]
    if place.volume is not None:
        found.append(f"{place.volume}:{VOLUME_TARGET}")
    else:
        found.append(f"{place.cache}:{CACHE_TARGET}")
    return found


def _confinement(spec: EndpointSpec) -> dict[str, Any]:
    container = spec.build.container
    assert container is not None
    allowed = {*container.allow, *known(container.image).allow}
    capabilities = sorted(each for each in allowed if each.startswith("CAP_"))
    if os.geteuid():
        # Its root is to write what this user has, such as volumes.
        capabilities.append("CAP_DAC_OVERRIDE")
    found: dict[str, Any] = {"CapDrop": ["ALL"], "CapAdd": capabilities}
    if "writable-root" not in allowed:
        found |= {"ReadonlyRootfs": True, "Tmpfs": _TEMPORARY}
    if "new-privileges" not in allowed:
        found["SecurityOpt"] = ["no-new-privileges"]
    return found


def _resources(spec: EndpointSpec, place: Place) -> dict[str, Any]:
    container, placement = spec.build.container, spec.placement
    assert container is not None
    found: dict[str, Any] = {}
    memory = container.memory_gb * 1e9
    if placement.cpus:
        vcpus, ram_gb = instance_size(placement.cpus[0])
        found["NanoCpus"] = int(min(vcpus, place.cores) * 1e9)
        memory = memory or ram_gb * _GIB
    if memory:
        found["Memory"] = int(memory)
    found["ShmSize"] = shared_memory(spec, place.memory)
    return found


def shared_memory(spec: EndpointSpec, memory: int) -> int:
    """Bytes of /dev/shm: what processes of tensor parallelism pass to each other goes through it.

    No more than half of the machine's memory; it is taken only as it is used.
    """
    container, placement = spec.build.container, spec.placement
    if container is not None and container.shm_gb:
        return int(container.shm_gb * 1e9)
    wanted = 4 * _GIB * placement.gpu_count if placement.gpus else _GIB
    return min(wanted, memory // 2) if memory else wanted


def _devices(lease: GpuLease | None, place: Place) -> dict[str, Any]:
    if lease is None:
        return {}
    ids = [gpu.uuid for gpu in lease.devices]
    if place.podman:  # which knows devices by the names of the container device interface
        names = (f"nvidia.com/gpu={each}" for each in ids)
        return {"Devices": [{"PathOnHost": n, "PathInContainer": n} for n in names]}
    return {"DeviceRequests": [{"DeviceIDs": ids, "Capabilities": [["gpu"]]}]}
