"""GPUs: which are chosen, how they are shared, and that no two programs hold one at once."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from runpod_flash.engines.local.devices import gpus as gpus_module
from runpod_flash.engines.local.devices.gpu_pool import GpuLease, GpuPool, choose, visible_devices
from runpod_flash.engines.local.devices.gpus import FixedInventory, Gpu, NvmlInventory, visible_to
from runpod_flash.errors import ConfigurationError
from runpod_flash.spec import Placement

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

RTX_4090 = "NVIDIA GeForce RTX 4090"
A40 = "NVIDIA A40"
A100_PCIE = "NVIDIA A100 80GB PCIe"
A100_SXM = "NVIDIA A100-SXM4-80GB"
H100 = "NVIDIA H100 80GB HBM3"
AMPERE_80 = (A100_PCIE, A100_SXM)

EIGHT = (RTX_4090, RTX_4090, A40, A100_PCIE, A100_PCIE, A100_SXM, H100, H100)


def made_up(*names: str, cuda: str | None = "12.8") -> list[Gpu]:
    return [
        Gpu(index, f"GPU-{index}aaa", name, 80_000_000_000, 0, cuda)
        for index, name in enumerate(names)
    ]


@pytest.fixture
def pool(tmp_path: Path) -> GpuPool:
    return GpuPool(FixedInventory(made_up(*EIGHT)), tmp_path / "locks")


@pytest.fixture
def single(tmp_path: Path) -> GpuPool:
    return GpuPool(FixedInventory(made_up(RTX_4090)), tmp_path / "locks")


def indices(lease: GpuLease | None) -> list[int] | None:
    return None if lease is None else [gpu.index for gpu in lease.devices]


# Choice


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        ((H100,), [6, 7]),
        (AMPERE_80, [3, 4, 5]),
        ((A100_SXM, A100_PCIE), [5, 3, 4]),
        ((A40, "any"), [2, 0, 1, 3, 4, 5, 6, 7]),
        (("any",), [0, 1, 2, 3, 4, 5, 6, 7]),
        (("NVIDIA A100",), []),
        ((), []),
    ],
)
def test_devices_match_by_exact_name_in_order_of_preference(
    pool: GpuPool, wanted: tuple[str, ...], found: list[int]
) -> None:
    assert [gpu.index for gpu in pool.compatible(Placement(gpus=wanted))] == found


@pytest.mark.parametrize(
    ("driver", "minimum", "fits"),
    [
        ("12.8", "12.8", True),
        ("12.8", "12.9", False),
        ("12.10", "12.9", True),
        ("13.0", "12.9", True),
        ("12.8", None, True),
        (None, None, True),
        (None, "12.1", False),
    ],
)
def test_min_cuda_is_compared_as_a_version(
    tmp_path: Path, driver: str | None, minimum: str | None, fits: bool
) -> None:
    pool = GpuPool(FixedInventory(made_up(A40, cuda=driver)), tmp_path)
    assert bool(pool.compatible(Placement(gpus=(A40,), min_cuda=minimum))) is fits


def test_a_kind_with_too_few_devices_for_one_worker_counts_as_absent(pool: GpuPool) -> None:
    assert pool.compatible(Placement(gpus=(H100,), gpu_count=3)) == []
    assert pool.acquire(Placement(gpus=(H100,), gpu_count=3), "w1") is None


def test_workers_take_the_first_free_device_until_none_is_left(pool: GpuPool) -> None:
    placement = Placement(gpus=(A100_SXM, A100_PCIE))
    taken = [indices(pool.acquire(placement, f"w{n}")) for n in range(4)]
    assert taken == [[5], [3], [4], None]
    pool.release("w1")
    assert indices(pool.acquire(placement, "w4")) == [3]


def test_several_devices_are_of_one_kind_if_a_kind_has_enough(pool: GpuPool) -> None:
    placement = Placement(gpus=(A40, A100_SXM, H100, A100_PCIE), gpu_count=2)
    assert indices(pool.acquire(placement, "w1")) == [6, 7]
    assert indices(pool.acquire(placement, "w2")) == [3, 4]
    assert indices(pool.acquire(placement, "w3")) == [2, 5], "mixed, where no kind has enough"
    assert pool.acquire(placement, "w4") is None


def test_devices_that_were_not_chosen_stay_free(pool: GpuPool) -> None:
    assert indices(pool.acquire(Placement(gpus=(A40, H100), gpu_count=2), "w1")) == [6, 7]
    assert indices(pool.acquire(Placement(gpus=(A40,)), "w2")) == [2]


def test_a_refused_set_leaves_its_members_free(pool: GpuPool) -> None:
    assert indices(pool.acquire(Placement(gpus=(H100,)), "w1")) == [6]
    assert pool.acquire(Placement(gpus=(H100,), gpu_count=2), "w2") is None
    assert indices(pool.acquire(Placement(gpus=(H100,)), "w3")) == [7]


def test_choose_gives_nothing_rather_than_too_little() -> None:
    assert choose(made_up(A40, H100), 3) == []


def test_memory_used_by_others_puts_a_device_last_and_is_reported(tmp_path: Path) -> None:
    devices = made_up(A40, A40, H100)
    devices[0] = replace(devices[0], memory_used=3_200_000_000)
    pool = GpuPool(FixedInventory(devices), tmp_path)
    first, second = (pool.acquire(Placement(gpus=(A40, H100)), w) for w in ("w1", "w2"))
    assert (indices(first), indices(second)) == ([1], [0]), "the preferred kind still comes first"
    assert first
    assert second
    assert pool.in_use_by_others(first) is None
    assert pool.in_use_by_others(second) == (
        "other programs already use 3.2 GB of 80 GB on GPU 0 (NVIDIA A40)"
    )


def test_one_worker_has_one_lease(pool: GpuPool) -> None:
    assert pool.acquire(Placement(gpus=("any",)), "w1")
    with pytest.raises(ValueError, match="'w1' has a lease already"):
        pool.acquire(Placement(gpus=("any",)), "w1")


def test_releasing_a_worker_without_a_lease_does_nothing(pool: GpuPool) -> None:
    pool.release("never-seen")


def test_holders_are_the_workers_with_compatible_devices(pool: GpuPool) -> None:
    pool.acquire(Placement(gpus=(H100,)), "w1")
    pool.acquire(Placement(gpus=(A40,)), "w2")
    assert pool.holders(Placement(gpus=(H100,))) == ("w1",)
    assert pool.holders(Placement(gpus=("any",))) == ("w1", "w2")


# Sharing with waiting callers


def test_every_device_is_told_with_who_has_it(pool: GpuPool, tmp_path: Path) -> None:
    pool.acquire(Placement(gpus=(A40,)), "w-1")
    elsewhere = GpuPool(FixedInventory(made_up(*EIGHT)), tmp_path / "locks")
    told = [(gpu.index, holders) for gpu, holders in pool.devices() if holders]
    assert told == [(2, ("w-1",))]
    ((index, (holder,)),) = [(gpu.index, h) for gpu, h in elsewhere.devices() if h]
    assert index == 2
    assert holder.startswith("another program")
    assert str(os.getpid()) not in holder


def test_a_shared_device_is_told_with_both_its_workers(single: GpuPool) -> None:
    wanted = Placement(gpus=("any",))
    single.acquire(wanted, "outer-1")
    single.acquire(wanted, "inner-1", near=("outer-1",))
    assert [holders for _, holders in single.devices()] == [("outer-1", "inner-1")]


def test_what_there_is_is_summed_up_by_kind(tmp_path: Path) -> None:
    def summary(*names: str) -> str:
        return GpuPool(FixedInventory(made_up(*names)), tmp_path / "locks").summary()

    assert summary() == "no GPU"
    assert summary(A40) == "1 x NVIDIA A40"
    assert summary(A40, H100, A40) == "2 x NVIDIA A40 and 1 x NVIDIA H100 80GB HBM3"


def test_a_worker_shares_the_device_of_a_caller_that_waits_for_it(single: GpuPool) -> None:
    placement = Placement(gpus=("any",))
    outer = single.acquire(placement, "outer")
    assert single.acquire(placement, "stranger") is None
    inner = single.acquire(placement, "inner", near=("cpu-worker", "outer"))
    assert outer
    assert inner
    assert inner.shared_from == "outer"
    assert inner.devices == outer.devices
    assert os.path.sameopenfile(inner.fds[0], outer.fds[0])


def test_a_free_device_is_taken_before_one_is_shared(pool: GpuPool) -> None:
    pool.acquire(Placement(gpus=(H100,)), "outer")
    inner = pool.acquire(Placement(gpus=(H100,)), "inner", near=("outer",))
    assert inner is not None
    assert (indices(inner), inner.shared_from) == ([7], None)


def test_only_a_compatible_device_is_shared(pool: GpuPool) -> None:
    pool.acquire(Placement(gpus=(RTX_4090,)), "outer")
    pool.acquire(Placement(gpus=(A40,)), "stranger")
    assert pool.acquire(Placement(gpus=(A40,)), "inner", near=("outer",)) is None


def test_free_and_shared_devices_make_up_a_number_or_nothing_is_taken(pool: GpuPool) -> None:
    pair = Placement(gpus=(H100,), gpu_count=2)
    pool.acquire(Placement(gpus=(H100,)), "outer")
    inner = pool.acquire(pair, "inner", near=("outer",))
    assert inner is not None
    assert (indices(inner), inner.shared_from) == ([7, 6], "outer")
    pool.release("inner")
    pool.acquire(Placement(gpus=(H100,)), "stranger")
    assert pool.acquire(pair, "inner", near=("outer",)) is None


def test_a_shared_device_is_locked_until_both_workers_are_gone(
    single: GpuPool, tmp_path: Path
) -> None:
    placement = Placement(gpus=("any",))
    single.acquire(placement, "outer")
    single.acquire(placement, "inner", near=("outer",))
    single.release("outer")
    other = GpuPool(FixedInventory(made_up(RTX_4090)), tmp_path / "locks")
    assert other.acquire(placement, "w1") is None
    assert indices(single.acquire(placement, "third", near=("inner",))) == [0]
    single.release("third")
    single.release("inner")
    assert other.acquire(placement, "w1")


# What a worker sees


def test_a_worker_sees_its_devices_only(pool: GpuPool) -> None:
    lease = pool.acquire(Placement(gpus=(H100,), gpu_count=2), "w1")
    assert visible_devices(lease) == {
        "RUNPOD_GPU_COUNT": "2",
        "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
        "CUDA_VISIBLE_DEVICES": "6,7",
        "NVIDIA_VISIBLE_DEVICES": "GPU-6aaa,GPU-7aaa",
    }
    none = visible_devices(None)
    assert (none["RUNPOD_GPU_COUNT"], none["CUDA_VISIBLE_DEVICES"]) == ("0", "")


@pytest.mark.parametrize(
    ("variable", "left"),
    [
        (None, [0, 1, 2, 3, 4, 5, 6, 7]),
        ("", []),
        ("-1", []),
        ("6, 2", [6, 2]),
        ("1,99,2", [1]),
        ("GPU-3", [3]),
        ("GPU-", []),
        ("MIG-1", []),
    ],
)
def test_the_callers_own_cuda_visible_devices_bounds_the_inventory(
    variable: str | None, left: list[int]
) -> None:
    assert [gpu.index for gpu in visible_to(made_up(*EIGHT), variable)] == left


# Machine-wide: real programs

PROGRAM = """
import os, subprocess, sys
from pathlib import Path
from runpod_flash.engines.local.devices.gpu_pool import GpuPool
from runpod_flash.engines.local.devices.gpus import FixedInventory, Gpu
from runpod_flash.spec import Placement

locks, count, uid, then = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
devices = [Gpu(n, f"GPU-{n}aaa", "NVIDIA GeForce RTX 4090", 80, 0, "12.8") for n in range(count)]
pool = GpuPool(FixedInventory(devices), locks)
if uid:
    os.setuid(uid)
print("ready", flush=True)
sys.stdin.readline()
lease = pool.acquire(Placement(gpus=("any",)), "theirs")
child = 0
if then == "spawn":
    child = subprocess.Popen(["sleep", "60"], pass_fds=lease.fds, stdout=subprocess.DEVNULL).pid
if then == "fork":
    child = os.fork()
    if not child:
        sys.stdin.readline()
        os._exit(0)
print(lease.devices[0].index if lease else "none", child, flush=True)
sys.stdin.readline()
"""


class Program:
    """Another program with a pool of its own over the same lock directory."""

    def __init__(self, locks: Path, count: int = 1, uid: int = 0, then: str = "") -> None:
        source = Path(gpus_module.__file__).parents[3]
        self.process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, str(locks), str(count), str(uid), then],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(source)},
        )
        assert self._line() == "ready"

    def acquire(self) -> str:
        self.go()
        return self.answer()

    def go(self) -> None:
        assert self.process.stdin
        self.process.stdin.write("\n")
        self.process.stdin.flush()

    def answer(self) -> str:
        device, child = self._line().split()
        self.child = int(child)
        return device

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def close(self) -> None:
        with self.process:
            self.process.kill()

    def _line(self) -> str:
        assert self.process.stdout
        return self.process.stdout.readline().strip()


@contextmanager
def programs(number: int, locks: Path, count: int = 1, uid: int = 0) -> Iterator[list[Program]]:
    started: list[Program] = []
    try:
        for _ in range(number):
            started.append(Program(locks, count, uid))
        yield started
    finally:
        for program in started:
            program.close()


def eventually(done: Callable[[], object]) -> None:
    deadline = time.monotonic() + 2
    while not done():
        assert time.monotonic() < deadline, "not within two seconds"
        time.sleep(0.01)


def test_programs_that_start_at_once_never_share_a_device(tmp_path: Path) -> None:
    with programs(5, tmp_path / "locks", count=3) as rivals:
        for rival in rivals:
            rival.go()
        answers = sorted(rival.answer() for rival in rivals)
    assert answers == ["0", "1", "2", "none", "none"]


def test_of_two_that_want_every_device_at_once_one_gets_them(tmp_path: Path) -> None:
    devices = FixedInventory(made_up(*[H100] * 8))
    everything = Placement(gpus=(H100,), gpu_count=8)
    rivals = [GpuPool(devices, tmp_path / "locks") for _ in range(2)]
    start = threading.Barrier(2)

    def attempt(pool: GpuPool) -> bool:
        start.wait()
        return pool.acquire(everything, "w1") is not None

    with ThreadPoolExecutor(2) as threads:
        for _ in range(100):
            assert sorted(threads.map(attempt, rivals)) == [False, True]
            for pool in rivals:
                pool.release("w1")


def test_kill_9_of_the_holder_frees_the_device(single: GpuPool, tmp_path: Path) -> None:
    placement = Placement(gpus=("any",))
    with programs(1, tmp_path / "locks") as (other,):
        assert other.acquire() == "0"
        assert single.acquire(placement, "w1") is None
        name = Path(sys.executable).name
        assert single.holders(placement) == (f"process {other.process.pid} ({name})",)
        other.kill()
        assert indices(single.acquire(placement, "w1")) == [0]


def test_the_device_stays_taken_while_the_killed_programs_worker_lives(
    single: GpuPool, tmp_path: Path
) -> None:
    placement = Placement(gpus=("any",))
    with closing(Program(tmp_path / "locks", then="spawn")) as other:
        assert other.acquire() == "0"
        other.kill()
        assert single.acquire(placement, "w1") is None
        assert single.holders(placement) == ("another program",)
        os.kill(other.child, 9)
        eventually(lambda: single.acquire(placement, "w1"))


def test_a_released_device_is_its_workers_until_that_has_ended(single: GpuPool) -> None:
    placement = Placement(gpus=("any",))
    lease = single.acquire(placement, "w1")
    assert lease
    with subprocess.Popen(["sleep", "60"], pass_fds=lease.fds) as worker:
        single.release("w1")
        assert single.acquire(placement, "w2") is None
        assert single.holders(placement) == ("w1",)
        worker.kill()
    assert single.acquire(placement, "w2")


def test_a_fork_of_the_program_does_not_keep_its_devices(single: GpuPool, tmp_path: Path) -> None:
    with closing(Program(tmp_path / "locks", then="fork")) as other:
        assert other.acquire() == "0"
        other.process.kill()
        eventually(lambda: single.acquire(Placement(gpus=("any",)), "w1"))
        os.kill(other.child, 9)  # fails if the fork was gone already


def test_a_lock_file_that_a_cleaner_removed_is_made_again(single: GpuPool, tmp_path: Path) -> None:
    placement = Placement(gpus=("any",))
    for _ in range(2):
        assert single.acquire(placement, "w1")
        single.release("w1")
        (tmp_path / "locks" / "GPU-0aaa.lock").unlink()


def test_a_program_stopped_while_it_chooses_blocks_nobody(single: GpuPool, tmp_path: Path) -> None:
    rival = GpuPool(FixedInventory(), tmp_path / "locks")
    with rival._locks.gate():
        assert single.acquire(Placement(gpus=("any",)), "w1")


@pytest.mark.skipif(os.geteuid() != 0, reason="changing the user needs root")
@pytest.mark.parametrize("mode", [0o666, 0o644])
def test_another_user_is_kept_out_and_let_in(mode: int) -> None:
    placement = Placement(gpus=("any",))
    with tempfile.TemporaryDirectory(dir="/tmp") as above:
        Path(above).chmod(0o755)
        locks = Path(above) / "locks"
        pool = GpuPool(FixedInventory(made_up(RTX_4090)), locks)
        assert pool.acquire(placement, "w1")
        assert stat.S_IMODE(locks.stat().st_mode) == 0o1777
        lock = locks / "GPU-0aaa.lock"
        assert stat.S_IMODE(lock.stat().st_mode) == 0o666
        lock.chmod(mode)
        with programs(2, locks, uid=65534) as (first, second):
            assert first.acquire() == "none"
            pool.release("w1")
            assert second.acquire() == "0"
            assert pool.acquire(placement, "w2") is None


def test_a_link_in_place_of_the_lock_directory_is_refused(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "locks").symlink_to(tmp_path / "elsewhere")
    pool = GpuPool(FixedInventory(made_up(A40)), tmp_path / "locks")
    with pytest.raises(ConfigurationError, match=r"GPUs cannot be locked in .*mode 1777"):
        pool.acquire(Placement(gpus=(A40,)), "w1")


def test_without_a_driver_there_are_no_devices_and_no_lock_directory(tmp_path: Path) -> None:
    pool = GpuPool(FixedInventory(), tmp_path / "locks")
    assert pool.acquire(Placement(gpus=("any",)), "w1") is None
    assert not (tmp_path / "locks").exists()


@pytest.mark.gpu
def test_nvml_lists_the_real_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    inventory = NvmlInventory()
    devices = inventory.list()
    if not devices:
        pytest.skip("no NVIDIA driver, or no device, on this machine")
    assert [gpu.index for gpu in devices] == sorted({gpu.index for gpu in devices})
    for gpu in devices:
        assert gpu.uuid.startswith("GPU-")
        assert gpu.name
        assert gpu.cuda is not None
        assert 0 <= gpu.memory_used <= gpu.memory_total
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert inventory.list() == []
