"""Try a program on hardware that is not there: a made-up node for embedded runs.

    use_node([GpuType.NVIDIA_L4, GpuType.NVIDIA_A100_80GB_PCIe])

Workers are real processes and are placed, limited and made to wait as they would be on such a
machine; the devices themselves do not exist.
"""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from runpod_flash import context
from runpod_flash.hardware import GpuType

if TYPE_CHECKING:
    from collections.abc import Sequence

    from runpod_flash.engines.local.devices.gpus import Gpu

_MEMORY = 80_000_000_000
_CUDA = "12.8"


def use_node(
    gpus: Sequence[Gpu | GpuType],
    lock_dir: Path | None = None,
    *,
    cores: int | None = None,
    memory: int | None = None,
    mounts: bool = True,
) -> None:
    """Take this machine for one with these devices, from the program's first call on.

    A `GpuType` stands for an idle device of 80 GB whose driver supports CUDA 12.8; a `Gpu` says
    all that itself. Programs that share `lock_dir` share the devices; without it nobody does.
    `cores`, `memory` (bytes for workers) and `mounts=False` (volumes cannot be mounted) describe
    the rest; by default it is as it really is. Inside a worker nothing happens.

    Raises `ConfigurationError` after the first call of an endpoint.
    """
    if context.current is not None:
        return
    from runpod_flash.client import embedded
    from runpod_flash.engines.local.node import made_up_node

    directory = lock_dir or _private_directory()
    devices = [_device(index, gpu) for index, gpu in enumerate(gpus)]
    node = made_up_node(devices, directory, cores, memory, mounts)
    embedded.use_machine(node)


def _private_directory() -> Path:
    """A lock directory of this program alone, removed at its end."""
    path = Path(tempfile.mkdtemp(prefix="flash-node-"))
    atexit.register(_remove, path, os.getpid())
    return path


def _remove(path: Path, owner: int) -> None:
    if os.getpid() == owner:  # not in a forked copy
        shutil.rmtree(path, ignore_errors=True)


def _device(index: int, gpu: Gpu | GpuType) -> Gpu:
    from runpod_flash.engines.local.devices.gpus import Gpu

    if isinstance(gpu, GpuType):
        return Gpu(index, f"GPU-made-up-{index}", gpu.value, _MEMORY, 0, _CUDA)
    return gpu
