"""What an engine takes its machine for: the real one, or one that a program made up."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from runpod_flash.engines.local.capacity import Machine
from runpod_flash.engines.local.devices.gpu_pool import GpuPool
from runpod_flash.engines.local.devices.gpus import FixedInventory, NvmlInventory
from runpod_flash.engines.local.processes import namespaces

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from runpod_flash.engines.local.devices.gpus import Gpu, GpuInventory


@dataclass(frozen=True)
class Node:
    """Devices, where they are locked, cores and memory, and whether volumes can be mounted.

    `datacenter` is where it stands; where that is not said, every data center is this machine.
    `machine` is given the bytes of memory that this engine's own workers hold.
    """

    inventory: GpuInventory = field(default_factory=NvmlInventory)
    lock_dir: Path | None = None
    machine: Callable[[int], Machine] = lambda _: Machine.read()
    can_mount: Callable[[], bool] = namespaces.supported
    datacenter: str = ""

    def gpus(self) -> GpuPool:
        return GpuPool(self.inventory, self.lock_dir)


def made_up_node(
    gpus: Sequence[Gpu],
    lock_dir: Path,
    cores: int | None = None,
    memory: int | None = None,
    mounts: bool = True,
    datacenter: str = "",
) -> Node:
    """A node with these devices; cores and bytes of memory, where given, are made up as well."""

    def machine(held: int) -> Machine:
        real = Machine.read()
        free = real.memory_available if memory is None else max(memory - held, 0)
        return Machine(real.cores if cores is None else cores, free)

    def can_mount() -> bool:
        return mounts and namespaces.supported()

    return Node(FixedInventory(gpus), lock_dir, machine, can_mount, datacenter)
