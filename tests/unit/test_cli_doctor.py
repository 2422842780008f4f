"""What `flash doctor` says about devices, on machines that are made up."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import pynvml
import pytest

from runpod_flash.cli import doctor_machine
from runpod_flash.engines.local.devices.gpu_pool import GpuPool
from runpod_flash.engines.local.devices.gpus import Driver, FixedInventory, Gpu, driver
from runpod_flash.engines.local.node import Node, made_up_node
from runpod_flash.spec import Placement

if TYPE_CHECKING:
    from pathlib import Path

    from runpod_flash.cli.findings import Finding

GB = 1_000_000_000
IDLE = Gpu(0, "GPU-a", "NVIDIA L4", 24 * GB, 0, "12.8")
BUSY = Gpu(1, "GPU-b", "NVIDIA H200", 141 * GB, 60 * GB, "12.8")


@pytest.fixture
def works(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor_machine, "driver", lambda: Driver("570.1"))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


def found(node: Node) -> dict[str, Finding]:
    return {finding.name: finding for finding in doctor_machine.findings(node)}


@pytest.mark.usefixtures("works")
def test_devices_are_listed_with_their_memory_and_driver(tmp_path: Path) -> None:
    findings = found(made_up_node([IDLE, BUSY], tmp_path))
    assert findings["driver"].value == "570.1, for CUDA up to 12.8"
    assert findings["GPU 0"].value == "NVIDIA L4, 24 GB; free"
    assert findings["GPU 0"].state == "ok"
    assert findings["GPU 1"].value == "NVIDIA H200, 141 GB; programs outside Flash use 60 GB of it"
    assert (findings["GPU 1"].state, bool(findings["GPU 1"].remedy)) == ("warning", True)


@pytest.mark.usefixtures("works")
def test_who_holds_a_device_is_named_and_loses_nothing(tmp_path: Path) -> None:
    other = GpuPool(FixedInventory([IDLE]), tmp_path)
    lease = other.acquire(Placement(gpus=("any",)), "w-1")
    assert lease is not None
    findings = found(made_up_node([IDLE, BUSY], tmp_path))
    assert "; leased by process" in findings["GPU 0"].value
    assert findings["GPU 0"].state == "ok"
    assert GpuPool(FixedInventory([IDLE]), tmp_path).acquire(Placement(gpus=("any",)), "x") is None
    other.release("w-1")
    assert found(made_up_node([IDLE], tmp_path))["GPU 0"].value.endswith("free")


@pytest.mark.usefixtures("works")
def test_a_lock_directory_that_is_none_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    finding = found(made_up_node([IDLE], tmp_path / "file"))["GPU 0"]
    assert finding.state == "error"
    assert "1777" in finding.remedy


@pytest.mark.usefixtures("works")
def test_a_driver_without_devices_is_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = made_up_node([], tmp_path)
    assert found(node)["devices"].state == "warning"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    findings = found(node)
    assert findings["devices"].state == "ok"
    assert findings["visible"].source == "variable CUDA_VISIBLE_DEVICES"


def test_without_a_driver_functions_run_on_the_cpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor_machine, "driver", Driver)
    finding = found(made_up_node([], tmp_path))["devices"]
    assert (finding.state, finding.value) == (
        "ok",
        "none: functions that ask for one run on the CPU",
    )


def test_a_driver_that_does_not_work_is_a_warning_with_its_own_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails() -> None:
        raise pynvml.NVMLError(pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH)

    monkeypatch.setattr(pynvml, "nvmlInit", fails)
    assert driver().problem
    finding = found(made_up_node([], tmp_path))["driver"]
    assert finding.state == "warning"
    assert driver().problem in finding.value


def test_no_driver_at_all_is_no_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails() -> None:
        raise pynvml.NVMLError(pynvml.NVML_ERROR_LIBRARY_NOT_FOUND)

    monkeypatch.setattr(pynvml, "nvmlInit", fails)
    assert driver() == Driver()


def test_cores_and_memory_are_those_that_workers_may_use(tmp_path: Path) -> None:
    finding = found(made_up_node([], tmp_path, cores=3, memory=5 * GB))["for workers"]
    assert finding.value == "3 cores, 5 GB free"
    assert finding.data == {"cores": 3, "memory_available": 5 * GB}


@pytest.mark.parametrize("system", ["linux", "darwin"])
def test_volumes_that_cannot_be_mounted_have_a_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, system: str
) -> None:
    monkeypatch.setattr(sys, "platform", system)
    finding = found(made_up_node([], tmp_path, mounts=False))["/runpod-volume"]
    assert finding.state == "warning"
    assert "FLASH_VOLUME_PATH" in finding.remedy
