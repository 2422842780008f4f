"""What an endpoint declares is in its spec, or among its workers' variables."""

from __future__ import annotations

from typing import Any

import pytest

from runpod_flash import CudaVersion, Endpoint, GpuType, NetworkVolume, PodTemplate
from runpod_flash.errors import ConfigurationError
from runpod_flash.spec import Entry

CPU = "cpu3c-1-2"
ENTRY = Entry("module", "function")


def test_a_cuda_version_is_for_gpus_only() -> None:
    gpu = Endpoint(gpu=GpuType.NVIDIA_L4, min_cuda_version=CudaVersion.V12_4)
    assert gpu.spec_of(ENTRY, "code").placement.min_cuda == "12.4"
    assert Endpoint(cpu=CPU).spec_of(ENTRY, "code").placement.min_cuda is None


@pytest.mark.parametrize(
    "given",
    [
        {"name": "other"},
        {"gpu": GpuType.NVIDIA_L4},
        {"cpu": CPU},
        {"workers": 7},
        {"idle_timeout": 7},
        {"dependencies": ["numpy"]},
        {"system_dependencies": ["ffmpeg"]},
        {"accelerate_downloads": False},
        {"volume": NetworkVolume(name="models")},
        {"datacenter": "US-KS-2"},
        {"env": {"A": "1"}},
        {"gpu_count": 2},
        {"execution_timeout_ms": 7},
        {"flashboot": False},
        {"scaler_type": "REQUEST_COUNT"},
        {"scaler_value": 7},
        {"template": PodTemplate(containerDiskInGb=7)},
        {"template": PodTemplate(env=[{"key": "A", "value": "1"}])},
        {"min_cuda_version": "12.0"},
        {"max_concurrency": 7},
        {"python_version": "3.12"},
        {"max_attempts": 7},
        {"restartable": True},
    ],
)
def test_every_parameter_reaches_the_spec_or_the_workers_variables(given: dict[str, Any]) -> None:
    usual, changed = Endpoint("x"), Endpoint(**{"name": "x", **given})
    assert (usual.spec_of(ENTRY, "code"), usual.worker_env) != (
        changed.spec_of(ENTRY, "code"),
        changed.worker_env,
    )


def test_code_without_a_file_runs_on_the_python_that_it_was_pickled_by_only() -> None:
    entry = Entry("", "function", value=b"pickled", value_python="3.12")
    for version in (None, "3.12"):
        assert Endpoint("x", python_version=version).spec_of(entry, "code").entry is entry
    with pytest.raises(ConfigurationError, match=r"python_version='3.11': function has no file"):
        Endpoint("x", python_version="3.11").spec_of(entry, "code")
