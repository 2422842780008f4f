"""Ways to say where a function runs. Embedded, a missing GPU means the CPU, and one line says so."""

import asyncio
import os

from runpod_flash import CpuInstanceType, Endpoint, GpuGroup, GpuType


def seen() -> dict[str, str]:
    """What a worker is told about its hardware."""
    names = ("RUNPOD_CPU_COUNT", "RUNPOD_MEM_GB", "RUNPOD_GPU_COUNT")
    return {name: os.environ[name] for name in names if name in os.environ}


@Endpoint(name="cpu-by-name", cpu="cpu3c-1-2")
def cpu_by_name() -> dict[str, str]:
    return seen()


@Endpoint(name="cpu-by-enum", cpu=CpuInstanceType.CPU3G_2_8)
def cpu_by_enum() -> dict[str, str]:
    return seen()


@Endpoint(name="one-model", gpu=GpuType.NVIDIA_L4)
def one_model() -> dict[str, str]:
    return seen()


@Endpoint(name="one-group", gpu=GpuGroup.AMPERE_80)
def one_group() -> dict[str, str]:
    return seen()


# In order of preference: the first that is there is taken. Two of the same kind for each worker.
@Endpoint(name="preferred", gpu=[GpuType.NVIDIA_H100_80GB_HBM3, GpuGroup.AMPERE_80], gpu_count=2)
def preferred() -> dict[str, str]:
    return seen()


async def main() -> None:
    for function in (cpu_by_name, cpu_by_enum, one_model, one_group, preferred):
        print(function.__name__, await function())


if __name__ == "__main__":
    asyncio.run(main())
