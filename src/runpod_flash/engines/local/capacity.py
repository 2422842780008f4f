"""How many workers of an endpoint this machine can hold: its cores, memory and matching GPUs."""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from runpod_flash.spec import EndpointSpec

CGROUP = Path("/sys/fs/cgroup")

# Where cgroup v2 and v1 keep the same facts. A container sees its own limits at the mount's root.
_MEMORY_FILES = (
    ("memory.max", "memory.current", "memory.stat", "inactive_file"),
    (
        "memory/memory.limit_in_bytes",
        "memory/memory.usage_in_bytes",
        "memory/memory.stat",
        "total_inactive_file",
    ),
)


@dataclass(frozen=True)
class Machine:
    """What this process may use: cores, and bytes of memory that are free now."""

    cores: int
    memory_available: int

    @classmethod
    def read(cls, cgroup: Path = CGROUP) -> Machine:
        """As the system and the container's limits say; a pod on a large host gets its share."""
        import psutil

        memory: int = psutil.virtual_memory().available
        room = _container_memory(cgroup)
        return cls(
            cores=min(_allowed_cores(), _container_cores(cgroup) or _allowed_cores()),
            memory_available=memory if room is None else min(memory, room),
        )


def worker_limit(
    spec: EndpointSpec,
    machine: Machine,
    gpus_compatible: int,
    running: int,
    peak_worker_bytes: int,
) -> tuple[int, str]:
    """How many workers of `spec` fit at most (at least 1), and which limit says so.

    `running` workers of the endpoint have their part of the memory, which does not count as free;
    `peak_worker_bytes` is the most that one was seen to take (0: not known, memory is no limit).
    """
    # Hardware comes first: of two equal limits it is the one that waiting does not change.
    limits = [_device_limit(spec, machine, gpus_compatible)]
    if peak_worker_bytes > 0:
        fits = running + max(0, machine.memory_available) // peak_worker_bytes
        free, each = human_bytes(machine.memory_available), human_bytes(peak_worker_bytes)
        limits.append(
            (fits, f"{free} of memory is free and a worker of {spec.name!r} takes {each}")
        )
    count, reason = min(limits, key=lambda limit: limit[0])
    return max(1, count), reason


def worker_bytes(pid: int) -> int:
    """Resident memory of a process in bytes, 0 if it is gone or may not be read."""
    import psutil

    try:
        resident: int = psutil.Process(pid).memory_info().rss
    except psutil.Error:
        return 0
    return resident


def peak_bytes(pid: int) -> int:
    """The most resident memory that a process has had so far; where nothing tells, what it has."""
    for line in _text(Path(f"/proc/{pid}/status")).splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return worker_bytes(pid)


def human_bytes(count: int) -> str:
    """In decimal units, as device vendors count: "900 MB", "1.2 GB"."""
    if count < 1_000_000_000:
        return f"{count / 1_000_000:.0f} MB"
    return f"{count / 1_000_000_000:.1f}".removesuffix(".0") + " GB"


def _device_limit(spec: EndpointSpec, machine: Machine, gpus: int) -> tuple[int, str]:
    each = max(1, spec.placement.gpu_count)
    # Too few devices serve no worker at all: then the endpoint runs on the CPU, like one without.
    if not spec.uses_gpu or gpus < each:
        return machine.cores, f"this machine has {_counted(machine.cores, 'core')}"
    reason = _counted(gpus, "matching GPU")
    if each > 1:
        reason += f", and a worker of {spec.name!r} takes {each}"
    return gpus // each, reason


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def _allowed_cores() -> int:
    # macOS knows no affinity.
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _container_cores(cgroup: Path) -> int | None:
    quota, period = _number(cgroup / "cpu/cpu.cfs_quota_us"), None
    if quota is not None:
        period = _number(cgroup / "cpu/cpu.cfs_period_us")
    else:
        words = _text(cgroup / "cpu.max").split()
        if len(words) == 2 and words[0].isdigit() and words[1].isdigit():
            quota, period = int(words[0]), int(words[1])
    # v1 writes -1 for "no limit".
    if not quota or not period or quota < 0:
        return None
    return max(1, quota // period)


def _container_memory(cgroup: Path) -> int | None:
    for limit_file, used_file, stat_file, cache_name in _MEMORY_FILES:
        limit, used = _number(cgroup / limit_file), _number(cgroup / used_file)
        if limit is not None and used is not None:
            # Page cache counts as used, but the kernel drops it when a worker needs the room.
            cache = _field(_text(cgroup / stat_file), cache_name)
            return max(0, limit - max(0, used - cache))
    return None


def _field(table: str, name: str) -> int:
    for line in table.splitlines():
        key, _, value = line.partition(" ")
        if key == name and value.isdigit():
            return int(value)
    return 0


def _number(path: Path) -> int | None:
    with suppress(ValueError):
        return int(_text(path))
    return None


def _text(path: Path) -> str:
    try:
        with open(path) as file:  # noqa: PTH123 (each start of a worker reads some)
            return file.read().strip()
    except OSError:
        return ""
