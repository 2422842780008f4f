"""Leases on GPUs: no two programs hold a device at once.

A lease is a locked file per GPU, in one directory that every user of the machine shares (see
gpu_locks.py): free once the plane, the process that minds the worker, and everything else that
holds a duplicate of the descriptor are gone.
"""

from __future__ import annotations

import os
import weakref
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from runpod_flash.engines.local.capacity import human_bytes
from runpod_flash.engines.local.devices.gpu_locks import LockDirectory, write_pid
from runpod_flash.hardware import matches

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from runpod_flash.engines.local.devices.gpus import Gpu, GpuInventory
    from runpod_flash.spec import Placement

# Not $TMPDIR: users set it to a place of their own, and this one has to be everybody's.
LOCK_DIR = Path("/tmp/runpod-flash-gpus")
# What drivers and idle contexts leave on a device does not count as use.
IDLE_BYTES = 256_000_000


@dataclass(frozen=True)
class GpuLease:
    """Devices held by the worker `holder`, with the locked descriptor of each, in that order.

    `shared_from` is the worker whose devices they are as well.
    """

    devices: tuple[Gpu, ...]
    fds: tuple[int, ...]
    holder: str
    shared_from: str | None = None


@dataclass(frozen=True)
class _Lent:
    gpu: Gpu
    fd: int
    worker: str


class GpuPool:
    """Gives devices to the workers of one plane; called from the plane's thread only.

    Whoever starts a worker passes duplicates of `lease.fds` to the process that minds it, and calls
    `release` when that process is gone. A fork of this process gives up its copies by itself.
    """

    def __init__(self, inventory: GpuInventory, lock_dir: Path | None = None) -> None:
        self._inventory = inventory
        self._locks = LockDirectory(LOCK_DIR if lock_dir is None else lock_dir)
        self._leases: dict[str, GpuLease] = {}
        self._released: dict[str, str] = {}
        _call_in_forks(weakref.WeakMethod(self._forget_all))

    def has_devices(self) -> bool:
        """Whether this machine has any GPU at all."""
        return bool(self._inventory.list())

    def summary(self) -> str:
        """A phrase of what there is: "2 x NVIDIA L4 and 1 x NVIDIA A40", "no GPU"."""
        counts = Counter(gpu.name for gpu in self._inventory.list())
        *others, last = [f"{count} x {name}" for name, count in counts.items()] or ["no GPU"]
        return f"{', '.join(others)} and {last}" if others else last

    def compatible(self, placement: Placement) -> list[Gpu]:
        """Devices that could serve a worker, best first; [] where there are too few for even one.

        In order of the names in `placement.gpus`; among equals, devices with memory in use by
        others come last, then by index.
        """
        ranked = [
            (rank, gpu.memory_used > IDLE_BYTES, gpu.index, gpu)
            for gpu in self._inventory.list()
            if (rank := _rank(gpu.name, placement.gpus)) is not None
            and _cuda_suffices(gpu.cuda, placement.min_cuda)
        ]
        devices = [gpu for *_, gpu in sorted(ranked, key=lambda entry: entry[:3])]
        return devices if len(devices) >= placement.gpu_count else []

    def acquire(
        self, placement: Placement, holder: str, near: Sequence[str] = ()
    ) -> GpuLease | None:
        """Devices for one worker, or None where the compatible ones are taken now.

        Several devices are of one kind where a kind has enough free ones (the most preferred such
        kind), else the most preferred free ones. Where too few are free, devices of the workers in
        `near` make up the number: those workers wait for this one, so waiting for them could
        never end.
        """
        if holder in self._leases:
            raise ValueError(f"worker {holder!r} has a lease already")
        devices = self.compatible(placement)
        if not devices:
            return None
        with self._locks.gate():
            lease = self._lease(devices, placement.gpu_count, holder, near)
        if lease is not None:
            self._leases[holder] = lease
        return lease

    def release(self, holder: str) -> None:
        """Close this process's descriptors; nothing happens for a worker without a lease.

        The lock itself is never undone: others may hold the same open file, and it is theirs.
        """
        lease = self._leases.pop(holder, None)
        if lease is not None:
            self._released.update((gpu.uuid, holder) for gpu in lease.devices)
            _close_all(lease.fds)

    def holders(self, placement: Placement) -> tuple[str, ...]:
        """Who has compatible devices: workers of this plane by id, other programs by process."""
        devices = self.compatible(placement)
        wanted = {gpu.uuid for gpu in devices}
        leased = {gpu.uuid for lease in self._leases.values() for gpu in lease.devices}
        workers = [
            holder
            for holder, lease in self._leases.items()
            if any(gpu.uuid in wanted for gpu in lease.devices)
        ]
        with self._locks.gate():
            locked = [g for g in devices if g.uuid not in leased and not self._is_free(g)]
        return tuple(dict.fromkeys([*workers, *map(self._other_holder, locked)]))

    def holder(self, gpu: Gpu) -> str | None:
        """Which other program has the device leased now, if any."""
        with self._locks.gate():
            return None if self._is_free(gpu) else self._other_holder(gpu)

    def devices(self) -> list[tuple[Gpu, tuple[str, ...]]]:
        """Every device, and who has it."""
        found = self._inventory.list()
        with self._locks.gate():
            return [(gpu, self._holders_of(gpu)) for gpu in found]

    def _holders_of(self, gpu: Gpu) -> tuple[str, ...]:
        ours = tuple(
            holder
            for holder, lease in self._leases.items()
            if any(gpu.uuid == leased.uuid for leased in lease.devices)
        )
        if ours or self._is_free(gpu):
            return ours
        command = _command(self._locks.pid(gpu.uuid))
        other = f"another program ({command})" if command else "another program"
        return (self._still_ending(gpu) or other,)

    def in_use_by_others(self, lease: GpuLease) -> str | None:
        """A sentence on memory that programs outside Flash took before the lease, if any."""
        busy = [gpu for gpu in lease.devices if gpu.memory_used > IDLE_BYTES]
        if lease.shared_from is not None or not busy:
            return None
        return "other programs already use " + " and ".join(
            f"{human_bytes(gpu.memory_used)} of {human_bytes(gpu.memory_total)}"
            f" on GPU {gpu.index} ({gpu.name})"
            for gpu in busy
        )

    def _lease(
        self, devices: list[Gpu], count: int, holder: str, near: Sequence[str]
    ) -> GpuLease | None:
        free: dict[Gpu, int] = {}
        lease = None
        try:
            self._lock_free(devices, count, free)
            lease = self._assemble(free, self._lent_by(near, devices), count, holder)
            return lease
        finally:
            kept = lease.fds if lease else ()
            for fd in free.values():
                if fd not in kept:
                    self._locks.give_up(fd)

    def _lock_free(self, devices: list[Gpu], count: int, free: dict[Gpu, int]) -> None:
        leased = {gpu.uuid for lease in self._leases.values() for gpu in lease.devices}
        for gpu in devices:
            if gpu.uuid not in leased and (fd := self._locks.take(gpu.uuid)) is not None:
                free[gpu] = fd
            if count == 1 and free:
                return

    def _assemble(
        self, free: dict[Gpu, int], lent: list[_Lent], count: int, holder: str
    ) -> GpuLease | None:
        own = choose([*free], count) or [*free][:count]
        lent = lent[: count - len(own)]
        if len(own) + len(lent) < count:
            return None
        for gpu in own:
            write_pid(free[gpu])
        return GpuLease(
            devices=(*own, *(loan.gpu for loan in lent)),
            # A duplicate is the same open file: the lock lives until both workers are gone.
            fds=(*(free[gpu] for gpu in own), *(os.dup(loan.fd) for loan in lent)),
            holder=holder,
            shared_from=lent[0].worker if lent else None,
        )

    def _lent_by(self, near: Sequence[str], devices: list[Gpu]) -> list[_Lent]:
        held = {
            gpu.uuid: (fd, lease.holder)
            for lease in map(self._leases.get, near)
            if lease is not None
            for gpu, fd in zip(lease.devices, lease.fds, strict=True)
        }
        return [_Lent(gpu, *held[gpu.uuid]) for gpu in devices if gpu.uuid in held]

    def _is_free(self, gpu: Gpu) -> bool:
        fd = self._locks.take(gpu.uuid)
        if fd is not None:
            self._locks.give_up(fd)
        return fd is not None

    def _other_holder(self, gpu: Gpu) -> str:
        pid = self._locks.pid(gpu.uuid)
        command = _command(pid)
        other = f"process {pid} ({command})" if command else "another program"
        return self._still_ending(gpu) or other

    def _still_ending(self, gpu: Gpu) -> str:
        """The worker of a released device that has not quite ended: it is that worker's still."""
        ours = self._locks.pid(gpu.uuid) == os.getpid()
        return self._released.get(gpu.uuid, "") if ours else ""

    def _forget_all(self) -> None:
        leases = [*self._leases.values()]
        self._leases.clear()
        _close_all(fd for lease in leases for fd in lease.fds)


def choose(free: Sequence[Gpu], count: int) -> list[Gpu]:
    """`count` of the `free` devices (best first): of the best kind that has enough, else mixed."""
    for name in dict.fromkeys(gpu.name for gpu in free):
        same = [gpu for gpu in free if gpu.name == name]
        if len(same) >= count:
            return same[:count]
    return [*free[:count]] if len(free) >= count else []


def visible_devices(lease: GpuLease | None) -> dict[str, str]:
    """The environment variables that show a worker the devices of its lease, and no other.

    CUDA gets numbers in PCI order, NVML's order: it takes UUIDs as well, but libraries that parse
    the variable as integers do not. Without a lease every device is hidden.
    """
    if lease is None:
        return {
            "RUNPOD_GPU_COUNT": "0",
            "CUDA_VISIBLE_DEVICES": "",
            "NVIDIA_VISIBLE_DEVICES": "void",
        }
    return {
        "RUNPOD_GPU_COUNT": str(len(lease.devices)),
        "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
        "CUDA_VISIBLE_DEVICES": ",".join(str(gpu.index) for gpu in lease.devices),
        "NVIDIA_VISIBLE_DEVICES": ",".join(gpu.uuid for gpu in lease.devices),
    }


def _command(pid: int | None) -> str:
    """The program and script of a process, "" if it is gone. Options may hold secrets: left out."""
    import psutil

    try:
        words = psutil.Process(pid).cmdline() if pid else []
    except psutil.Error:
        return ""
    scripts = [word for word in words[1:] if word.endswith(".py")]
    others = [word for word in words[1:2] if not word.startswith("-")]
    return " ".join(Path(word).name for word in (*words[:1], *(scripts or others)[:1]))


def _close_all(fds: Iterable[int]) -> None:
    for fd in fds:
        with suppress(OSError):
            os.close(fd)


def _call_in_forks(forget: weakref.WeakMethod[Callable[[], None]]) -> None:
    """In children by `os.fork` (not those of `subprocess`), as long as the object lives."""

    def after_fork() -> None:
        if (call := forget()) is not None:
            call()

    os.register_at_fork(after_in_child=after_fork)


def _rank(name: str, wanted: Sequence[str]) -> int | None:
    return next((rank for rank, want in enumerate(wanted) if matches(name, want)), None)


def _cuda_suffices(driver: str | None, minimum: str | None) -> bool:
    # A driver of unknown version is no match for a stated minimum.
    if minimum is None or driver is None:
        return minimum is None
    return _version(driver) >= _version(minimum)


def _version(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split("."))
