"""The name of the device that PyTorch sees. A download of PyTorch comes first.

Without an NVIDIA GPU this ends with PyTorch's own error and a note that says why.
"""

import asyncio

from runpod_flash import Endpoint, GpuType


# fmt: off
@Endpoint(name="tensor-processor", gpu=GpuType.NVIDIA_GEFORCE_RTX_4090,
          workers=(0, 10), dependencies=["torch>=2.4.0", "numpy", "pillow"])
async def process_data(payload):
    import torch
    return {"device": str(torch.cuda.get_device_name(0))}
# fmt: on


async def main() -> None:
    print(await process_data({}))


if __name__ == "__main__":
    asyncio.run(main())
