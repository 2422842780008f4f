"""What a local worker finds in its environment, and what it is told about its hardware."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from runpod_flash.engines.base import StartOrder
    from runpod_flash.spec import EndpointSpec

# The documented list (docs/workers.md): everything else of the caller stays with the caller.
_PASSED = frozenset(
    [
        "PATH",
        "HOME",
        "USER",
        "LOGNAME",
        "SHELL",
        "LANG",
        "LANGUAGE",
        "TZ",
        "TMPDIR",
        "TEMP",
        "TMP",
        "HTTP_PROXY",
        "HTTPS_PROXY",
        "NO_PROXY",
        "ALL_PROXY",
        "http_proxy",
        "https_proxy",
        "no_proxy",
        "all_proxy",
        "SSL_CERT_FILE",
        "SSL_CERT_DIR",
        "REQUESTS_CA_BUNDLE",
        "CURL_CA_BUNDLE",
        "LD_LIBRARY_PATH",
        "CUDA_HOME",
        "CUDA_PATH",
        "CUDA_CACHE_PATH",
        "CUDA_MODULE_LOADING",
        "XDG_CACHE_HOME",
        "HF_HOME",
        "HF_HUB_CACHE",
        "HF_HUB_OFFLINE",
        "TRANSFORMERS_CACHE",
        "TORCH_HOME",
        "LOG_LEVEL",
        "PYTHONBREAKPOINT",
    ]
)
_PASSED_PREFIXES = ("LC_",)
_THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


def worker_variables(
    spec: EndpointSpec,
    order: StartOrder,
    caller: Mapping[str, str],
    environment: Path,
    datacenter: str = "",
) -> dict[str, str]:
    """The caller's passed variables, then the platform's, then the endpoint's own `env`."""
    passed = {k: v for k, v in caller.items() if k in _PASSED or k.startswith(_PASSED_PREFIXES)}
    path = passed.get("PATH", os.defpath)
    return {
        **passed,
        "PATH": f"{environment / 'bin'}{os.pathsep}{path}",
        "VIRTUAL_ENV": str(environment),
        "FLASH_ENDPOINT_NAME": spec.name,
        "FLASH_WORKER_ID": order.worker_id,
        **platform_variables(spec, datacenter),
        **order.identity,
        **order.env,
    }


def platform_variables(spec: EndpointSpec, datacenter: str) -> dict[str, str]:
    """What the platform tells a worker about its place and size."""
    placement = spec.placement
    found: dict[str, str] = {}
    if placement.accelerate_downloads:
        found["HF_XET_HIGH_PERFORMANCE"] = "1"
    if not placement.flashboot:
        # Without it every start compiles afresh and leaves nothing behind for the next one.
        found["PYTHONDONTWRITEBYTECODE"] = "1"
    if here := datacenter or next(iter(placement.datacenters), ""):
        found["RUNPOD_DC_ID"] = here
    if placement.cpus:
        vcpus, ram = instance_size(placement.cpus[0])
        found["RUNPOD_CPU_COUNT"], found["RUNPOD_MEM_GB"] = str(vcpus), str(ram)
        found.update(dict.fromkeys(_THREAD_VARIABLES, str(vcpus)))
    return found


def instance_size(instance: str) -> tuple[int, int]:
    """Cores, and gigabytes of memory."""
    from runpod_flash.hardware import CpuInstanceType

    kind = CpuInstanceType(instance)
    return kind.vcpu, kind.ram_gb


def cpu_set(spec: EndpointSpec, taken: Mapping[int, int]) -> frozenset[int]:
    """The cores of a CPU endpoint's worker: as many as its instance has, where there are more.

    Those that the fewest workers have, by `taken`, come first. Empty means all.
    """
    if not spec.placement.cpus or not hasattr(os, "sched_getaffinity"):
        return frozenset()
    vcpus, _ = instance_size(spec.placement.cpus[0])
    cores = os.sched_getaffinity(0)
    if vcpus >= len(cores):
        return frozenset()
    return frozenset(sorted(cores, key=lambda core: (taken.get(core, 0), core))[:vcpus])


def wanted_gpus(spec: EndpointSpec, *, cuda: bool = True) -> str:
    """The asked-for devices as a phrase: "NVIDIA L4 with CUDA 12.8", "2 x GPU"."""
    placement = spec.placement
    names = " or ".join("GPU" if name == "any" else name for name in placement.gpus[:3])
    if len(placement.gpus) > 3:
        names += " or a like one"
    if cuda and placement.min_cuda is not None:
        names += f" with CUDA {placement.min_cuda} or later"
    return f"{placement.gpu_count} x {names}" if placement.gpu_count > 1 else names


def no_gpu_note(wanted: str, endpoint: str, system: str = sys.platform) -> str:
    """The note on an exception of a function that wanted a GPU and ran without."""
    if wanted.startswith("GPU"):
        wanted = f"a {wanted}"
    note = (
        f"flash: {endpoint!r} asks for {wanted}, and this machine has none, so its "
        "worker ran on the CPU; to run it on a GPU, set FLASH_TARGET to a server that has one"
    )
    if system == "darwin":
        note += "; on Apple silicon, PyTorch's device 'mps' is this machine's own GPU"
    return note
