"""Which GPUs this machine has, and leases on them that no two programs hold at once.

A lease is a locked file per GPU, in one directory that every user of the machine shares. The lock
belongs to the open file, not to a process: it is free once the plane, the process that minds the
worker, and everything else that holds a duplicate of the descriptor are gone, however they ended.
Containers that do not share that directory cannot see each other's leases.
"""

from __future__ import annotations

import fcntl
import os
import time
import weakref
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from runpod_flash.engines.local.capacity import human_bytes
from runpod_flash.errors import ConfigurationError
from runpod_flash.hardware import matches

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from runpod_flash.spec import Placement

# Not $TMPDIR: users set it to a place of their own, and this one has to be everybody's.
LOCK_DIR = Path("/tmp/runpod-flash-gpus")
# How long to wait for a program that is choosing devices. It takes microseconds, unless stopped.
GATE_PATIENCE = 0.5
# What drivers and idle contexts leave on a device does not count as use.
IDLE_BYTES = 256_000_000


@dataclass(frozen=True)
class Gpu:
    """A device of this machine: memory in bytes, `cuda` the highest version its driver runs."""

    index: int
    uuid: str
    name: str
    memory_total: int
    memory_used: int
    cuda: str | None


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
        self._locks = _LockDirectory(LOCK_DIR if lock_dir is None else lock_dir)
        self._leases: dict[str, GpuLease] = {}
        self._released: dict[str, str] = {}
        _call_in_forks(weakref.WeakMethod(self._forget_all))

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
            _write_pid(free[gpu])
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
        # A released device whose worker has not quite ended is that worker's still.
        if pid == os.getpid() and gpu.uuid in self._released:
            return self._released[gpu.uuid]
        command = _command(pid)
        return f"process {pid} ({command})" if command else "another program"

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


class _LockDirectory:
    """Locked files by name, made so that every user of the machine can open them.

    `fs.protected_regular` forbids O_CREAT on another user's file in a sticky directory, even to
    root: so an existing file is opened without it, and a new one is made exclusively.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def take(self, name: str) -> int | None:
        """A descriptor that holds the lock, or None where somebody else has it."""
        try:
            with closing(_Directory(self._path)) as directory:
                return directory.lock(_file_name(name))
        except OSError as error:
            raise ConfigurationError(
                f"GPUs cannot be locked in {self._path}: {error.strerror}; it has to be a"
                " directory that every user can write to (mode 1777)"
            ) from error

    def give_up(self, fd: int) -> None:
        """Free a lock that nobody else was given.

        Unlocking reaches the copies too that another thread's fork holds until it executes.
        """
        fcntl.flock(fd, fcntl.LOCK_UN)
        os.close(fd)

    @contextmanager
    def gate(self) -> Iterator[None]:
        """One program at a time chooses devices, so that none is refused by another's attempt."""
        deadline = time.monotonic() + GATE_PATIENCE
        while (fd := self.take("gate")) is None and time.monotonic() < deadline:
            time.sleep(0.002)
        try:
            yield
        finally:
            if fd is not None:
                self.give_up(fd)

    def pid(self, name: str) -> int | None:
        """The process that last took the lock, as it wrote itself."""
        with suppress(OSError, ValueError):
            return int((self._path / _file_name(name)).read_text())
        return None


class _Directory:
    """The lock directory, opened: a link put in its place is refused."""

    def __init__(self, path: Path) -> None:
        with suppress(FileExistsError):
            path.mkdir()
            path.chmod(0o1777)  # mkdir's own mode passes through the umask
        self._fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)

    def close(self) -> None:
        os.close(self._fd)

    def lock(self, name: str) -> int | None:
        while True:
            fd = self._open(name)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if self._is_current(fd, name):
                    return fd
                os.close(fd)
            except OSError as error:
                os.close(fd)
                if isinstance(error, BlockingIOError):
                    return None
                raise

    def _is_current(self, fd: int, name: str) -> bool:
        # Cleaners of temporary files may have removed it: then the lock is worth nothing.
        with suppress(FileNotFoundError):
            there = os.stat(name, dir_fd=self._fd, follow_symlinks=False)
            return os.path.samestat(os.fstat(fd), there)
        return False

    def _open(self, name: str) -> int:
        while True:
            # A lock needs no right to write; only the holder's pid does.
            for access in (os.O_RDWR, os.O_RDONLY):
                with suppress(FileNotFoundError, PermissionError):
                    return os.open(name, access | os.O_NOFOLLOW, dir_fd=self._fd)
            with suppress(FileExistsError):
                return self._create(name)
            # It exists: either it was made this moment, or this user may not even read it.
            os.close(os.open(name, os.O_RDONLY | os.O_NOFOLLOW, dir_fd=self._fd))

    def _create(self, name: str) -> int:
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
        fd = os.open(name, flags, 0o666, dir_fd=self._fd)
        os.fchmod(fd, 0o666)  # past the umask
        return fd


def _file_name(name: str) -> str:
    return name.replace("/", "_") + ".lock"


def _write_pid(fd: int) -> None:
    # Only a hint for `holders`: a file that this user cannot write keeps what it says.
    with suppress(OSError):
        os.ftruncate(fd, 0)
        os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)


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
