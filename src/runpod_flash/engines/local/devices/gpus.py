"""Which GPUs this machine has."""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterable


@dataclass(frozen=True)
class Gpu:
    """A device of this machine: memory in bytes, `cuda` the highest version its driver runs."""

    index: int
    uuid: str
    name: str
    memory_total: int
    memory_used: int
    cuda: str | None


@dataclass(frozen=True)
class Driver:
    """NVIDIA's driver: its version, or why it is of no use (both empty: there is none)."""

    version: str = ""
    problem: str = ""


class GpuInventory(Protocol):
    """Where devices come from."""

    def list(self) -> list[Gpu]: ...


class FixedInventory:
    """Devices as given, for tests and for machines that are made up."""

    def __init__(self, gpus: Iterable[Gpu] = ()) -> None:
        self._gpus = [*gpus]

    def list(self) -> list[Gpu]:
        return [*self._gpus]


class NvmlInventory:
    """The NVIDIA devices that this process may use; none without a driver.

    Devices are read once, the memory in use each time. CUDA is never initialised, so forked
    workers can. A `CUDA_VISIBLE_DEVICES` of the caller holds here too (see `visible_to`).
    """

    def __init__(self) -> None:
        self._devices: list[tuple[Any, Gpu]] | None = None

    def list(self) -> list[Gpu]:
        if self._devices is None:
            self._devices = _nvml_devices()
        gpus = [replace(gpu, memory_used=_nvml_memory(h)[1]) for h, gpu in self._devices]
        return visible_to(gpus, os.environ.get("CUDA_VISIBLE_DEVICES"))


def driver() -> Driver:
    """The NVIDIA driver of this machine."""
    import pynvml

    try:
        pynvml.nvmlInit()
        return Driver(version=pynvml.nvmlSystemGetDriverVersion())
    except pynvml.NVMLError_LibraryNotFound:
        return Driver()
    except pynvml.NVMLError as error:
        return Driver(problem=str(error))


def visible_to(gpus: list[Gpu], variable: str | None) -> list[Gpu]:
    """What a `CUDA_VISIBLE_DEVICES` leaves of `gpus`: like CUDA, up to the first unknown entry.

    Numbers are read in PCI order. (CUDA's own default, fastest first, differs on mixed machines
    and cannot be known without initialising CUDA.)
    """
    if variable is None:
        return gpus
    visible: list[Gpu] = []
    for entry in variable.split(","):
        found = [gpu for gpu in gpus if _named_by(gpu, entry.strip())]
        if len(found) != 1:
            break
        visible += found
    return visible


def _named_by(gpu: Gpu, entry: str) -> bool:
    return entry == str(gpu.index) or (entry.startswith("GPU-") and gpu.uuid.startswith(entry))


def _nvml_devices() -> list[tuple[Any, Gpu]]:
    import pynvml

    try:
        pynvml.nvmlInit()
        cuda = _nvml_cuda()
        count = pynvml.nvmlDeviceGetCount()
    except pynvml.NVMLError:
        return []
    devices = (_nvml_device(index, cuda) for index in range(count))
    return [device for device in devices if device is not None]


def _nvml_device(index: int, cuda: str | None) -> tuple[Any, Gpu] | None:
    import pynvml

    # One that fell off the bus, or that the container may not use, is no reason to lose the rest.
    with suppress(pynvml.NVMLError):
        handle = pynvml.nvmlDeviceGetHandleByIndex(index)
        uuid, name = pynvml.nvmlDeviceGetUUID(handle), pynvml.nvmlDeviceGetName(handle)
        total, used = _nvml_memory(handle)
        return handle, Gpu(index, uuid, name, total, used, cuda)
    return None


def _nvml_memory(handle: Any) -> tuple[int, int]:
    """Total and used bytes; zeros where a device shares the machine's memory."""
    import pynvml

    for version in (pynvml.nvmlMemory_v2, None):  # the first leaves out what the driver reserves
        with suppress(pynvml.NVMLError):
            memory = pynvml.nvmlDeviceGetMemoryInfo(handle, version=version)
            return memory.total, memory.used
    return 0, 0


def _nvml_cuda() -> str | None:
    import pynvml

    with suppress(pynvml.NVMLError):
        version = pynvml.nvmlSystemGetCudaDriverVersion_v2()
        return f"{version // 1000}.{version % 1000 // 10}"
    return None
