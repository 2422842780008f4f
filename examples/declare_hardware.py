"""Ways to say where a function runs. On a machine without the GPU it runs on the CPU instead."""

import asyncio
import os

from runpod_flash import CpuInstanceType, Endpoint, GpuGroup, GpuType


def seen() -> str:
    """What a worker is told about its hardware."""
    cpus = os.environ.get("RUNPOD_CPU_COUNT", "all")
    gpus = os.environ.get("CUDA_VISIBLE_DEVICES") or "none"
    return f"CPUs: {cpus}, GPUs: {gpus}"


@Endpoint(name="cpu-by-name", cpu="cpu3c-1-2")
def cpu_by_name() -> str:
    return seen()


@Endpoint(name="cpu-by-enum", cpu=CpuInstanceType.CPU3G_2_8)
def cpu_by_enum() -> str:
    return seen()


@Endpoint(name="one-model", gpu=GpuType.NVIDIA_L4)
def one_model() -> str:
    return seen()


@Endpoint(name="one-group", gpu=GpuGroup.AMPERE_80)
def one_group() -> str:
    return seen()


# In order of preference: the first that is there is taken. Two of the same kind for each worker.
@Endpoint(name="preferred", gpu=[GpuType.NVIDIA_H100_80GB_HBM3, GpuGroup.AMPERE_80], gpu_count=2)
def preferred() -> str:
    return seen()


async def main() -> None:
    for function in (cpu_by_name, cpu_by_enum, one_model, one_group, preferred):
        print(function.__name__, await function())


if __name__ == "__main__":
    asyncio.run(main())
