"""What `flash doctor` finds out about this machine: cores, memory, GPUs, volumes."""

from __future__ import annotations

import os
import platform
import sys
from typing import TYPE_CHECKING

from runpod_flash.cli import output
from runpod_flash.cli.findings import Topic
from runpod_flash.engines.local.capacity import human_bytes
from runpod_flash.engines.local.devices.gpu_pool import IDLE_BYTES
from runpod_flash.engines.local.devices.gpus import driver
from runpod_flash.engines.local.node import Node
from runpod_flash.engines.local.volumes import VOLUME_TARGET
from runpod_flash.errors import ConfigurationError
from runpod_flash.volume_places import volumes_directory

if TYPE_CHECKING:
    from collections.abc import Iterator

    from runpod_flash.cli.findings import Finding
    from runpod_flash.engines.local.devices.gpu_pool import GpuPool
    from runpod_flash.engines.local.devices.gpus import Driver, Gpu

_MACHINE = Topic("Machine")
_GPUS = Topic("GPUs")


def findings(node: Node | None = None) -> Iterator[Finding]:
    """One after the other."""
    node = node or Node()
    yield from _machine(node)
    yield from _gpus(node, driver())


# The machine


def _machine(node: Node) -> Iterator[Finding]:
    yield _MACHINE.fine("system", f"{platform.system()} {platform.release()}, {platform.machine()}")
    machine = node.machine(0)
    text = f"{output.counted(machine.cores, 'core')}, {human_bytes(machine.memory_available)} free"
    facts = {"cores": machine.cores, "memory_available": machine.memory_available}
    yield _MACHINE.fine("for workers", text, "container limits included", **facts)
    yield _MACHINE.fine("volumes", str(volumes_directory()))
    yield _mounts(node)


def _mounts(node: Node) -> Finding:
    if node.can_mount():
        return _MACHINE.fine(VOLUME_TARGET, "volumes are mounted there, for workers only")
    text = "volumes cannot be mounted there: user namespaces are not allowed"
    remedy = "read FLASH_VOLUME_PATH in your functions, or allow user namespaces"
    if sys.platform != "linux":
        text, remedy = "only Linux can mount volumes there", "read FLASH_VOLUME_PATH instead"
    return _MACHINE.warning(VOLUME_TARGET, text, remedy)


# GPUs


def _gpus(node: Node, found: Driver) -> Iterator[Finding]:
    if found.problem:
        remedy = "restart the machine after an update of the driver, or install it again"
        yield _GPUS.warning("driver", f"NVIDIA's does not work: {found.problem}", remedy)
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        source = "variable CUDA_VISIBLE_DEVICES"
        yield _GPUS.fine("visible", visible or "none: the variable is empty", source)
    gpus = node.inventory.list()
    if found.version:
        yield _GPUS.fine("driver", _driver(found, gpus), version=found.version)
    pool = node.gpus()
    for gpu in gpus:
        yield _gpu(gpu, pool)
    if not gpus:
        yield _none(found, hidden=visible is not None)


def _driver(found: Driver, gpus: list[Gpu]) -> str:
    cuda = next((gpu.cuda for gpu in gpus if gpu.cuda), None)
    return f"{found.version}, for CUDA up to {cuda}" if cuda else found.version


def _gpu(gpu: Gpu, pool: GpuPool) -> Finding:
    name = f"GPU {gpu.index}"
    facts = {"uuid": gpu.uuid, "name": gpu.name, "memory_total": gpu.memory_total}
    text = f"{gpu.name}, {human_bytes(gpu.memory_total)}"
    try:
        holder = pool.holder(gpu)
    except ConfigurationError as error:
        remedy = "have whoever owns the directory make it so: chmod 1777"
        return _GPUS.error(name, f"{text}; {error}", remedy, **facts)
    if holder is not None:
        return _GPUS.fine(name, f"{text}; leased by {holder}", holder=holder, **facts)
    if gpu.memory_used > IDLE_BYTES:
        used = human_bytes(gpu.memory_used)
        remedy = "end those programs, or leave the device to them with CUDA_VISIBLE_DEVICES"
        text = f"{text}; programs outside Flash use {used} of it"
        return _GPUS.warning(name, text, remedy, holder=None, **facts)
    return _GPUS.fine(name, f"{text}; free", holder=None, **facts)


def _none(found: Driver, *, hidden: bool) -> Finding:
    text = "none: functions that ask for one run on the CPU"
    if found.version and not hidden:
        remedy = "in a container, start it with its devices (docker run --gpus all)"
        return _GPUS.warning("devices", f"{text}, though there is a driver", remedy)
    return _GPUS.fine("devices", text)
