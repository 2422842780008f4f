"""How many workers fit, and the sentence that says why."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from runpod_flash.engines.local.capacity import (
    Machine,
    human_bytes,
    peak_bytes,
    worker_bytes,
    worker_limit,
)
from runpod_flash.spec import Build, EndpointSpec, Entry, Placement

if TYPE_CHECKING:
    from pathlib import Path

MB, GB = 1_000_000, 1_000_000_000
ROOMY = Machine(cores=16, memory_available=64 * GB)


def endpoint(gpus: tuple[str, ...] = (), gpu_count: int = 1) -> EndpointSpec:
    placement = Placement(gpus=gpus, gpu_count=gpu_count)
    return EndpointSpec("x", Entry("module", "function"), Build(code="0"), placement)


@pytest.mark.parametrize(
    ("gpus", "gpu_count", "matching", "limit", "reason"),
    [
        ((), 1, 0, 16, "this machine has 16 cores"),
        ((), 1, 4, 16, "this machine has 16 cores"),
        (("any",), 1, 8, 8, "8 matching GPUs"),
        (("any",), 1, 1, 1, "1 matching GPU"),
        (("any",), 2, 5, 2, "5 matching GPUs, and a worker of 'x' takes 2"),
        (("any",), 1, 0, 16, "this machine has 16 cores"),
        (("any",), 4, 2, 16, "this machine has 16 cores"),
    ],
)
def test_devices_limit_gpu_endpoints_and_cores_the_others(
    gpus: tuple[str, ...], gpu_count: int, matching: int, limit: int, reason: str
) -> None:
    assert worker_limit(endpoint(gpus, gpu_count), ROOMY, matching, 0, 0) == (limit, reason)


@pytest.mark.parametrize(
    ("free", "running", "limit"), [(1_200 * MB, 0, 1), (1_200 * MB, 2, 3), (0, 2, 2), (0, 0, 1)]
)
def test_memory_limits_what_comes_on_top_of_running_workers(
    free: int, running: int, limit: int
) -> None:
    machine = Machine(cores=16, memory_available=free)
    assert worker_limit(endpoint(), machine, 0, running, 900 * MB)[0] == limit


def test_the_sentence_names_free_memory_and_a_workers_need() -> None:
    machine = Machine(cores=16, memory_available=1_200 * MB)
    _, reason = worker_limit(endpoint(("any",)), machine, 8, 0, 900 * MB)
    assert reason == "1.2 GB of memory is free and a worker of 'x' takes 900 MB"


def test_of_equal_limits_the_hardware_is_named() -> None:
    machine = Machine(cores=2, memory_available=2 * GB)
    assert worker_limit(endpoint(), machine, 0, 0, GB) == (2, "this machine has 2 cores")


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 MB"), (900 * MB, "900 MB"), (1_249 * MB, "1.2 GB"), (80 * GB, "80 GB")],
)
def test_sizes_are_decimal(count: int, text: str) -> None:
    assert human_bytes(count) == text


def test_the_machine_is_what_this_process_may_use(tmp_path: Path) -> None:
    machine = Machine.read(cgroup=tmp_path)
    if hasattr(os, "sched_getaffinity"):
        assert machine.cores == len(os.sched_getaffinity(0))
    assert machine.memory_available > 0


def test_affinity_counts_as_few_cores(tmp_path: Path) -> None:
    if not hasattr(os, "sched_setaffinity"):
        pytest.skip("no affinity on this system")
    before = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(before)})
        assert Machine.read(cgroup=tmp_path).cores == 1
    finally:
        os.sched_setaffinity(0, before)


@pytest.mark.parametrize(
    "files",
    [
        {
            "cpu.max": "150000 100000\n",
            "memory.max": "50000000\n",
            "memory.current": "40000000\n",
            "memory.stat": "anon 1\ninactive_file 10000000\n",
        },
        {
            "cpu/cpu.cfs_quota_us": "150000\n",
            "cpu/cpu.cfs_period_us": "100000\n",
            "memory/memory.limit_in_bytes": "50000000\n",
            "memory/memory.usage_in_bytes": "40000000\n",
            "memory/memory.stat": "inactive_file 1\ntotal_inactive_file 10000000\n",
        },
    ],
    ids=["v2", "v1"],
)
def test_a_containers_limits_hold(tmp_path: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    assert Machine.read(cgroup=tmp_path) == Machine(cores=1, memory_available=20_000_000)


def test_a_container_without_limits_has_the_whole_machine(tmp_path: Path) -> None:
    (tmp_path / "cpu.max").write_text("max 100000\n")
    (tmp_path / "memory.max").write_text("max\n")
    (tmp_path / "memory.current").write_text("40000000\n")
    whole = Machine.read(cgroup=tmp_path / "absent")
    assert Machine.read(cgroup=tmp_path).cores == whole.cores
    assert Machine.read(cgroup=tmp_path).memory_available > 0


def test_a_process_is_measured_while_it_lives() -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        assert worker_bytes(process.pid) > 0
        assert peak_bytes(process.pid) > 0
    assert worker_bytes(process.pid) == peak_bytes(process.pid) == 0


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a process's highest use")
def test_memory_that_was_given_back_counts_for_the_peak() -> None:
    program = "b'x' * 10**8; print(flush=True); input()"
    command = [sys.executable, "-c", program]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        assert worker_bytes(process.pid) < 10**8 < peak_bytes(process.pid)
