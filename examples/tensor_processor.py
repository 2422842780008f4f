"""An image's mean colour, computed on workers that ask for an RTX 4090.

On a machine without that GPU the workers run on the CPU, and Flash says so.
"""

import asyncio
import io
from typing import Any

from runpod_flash import Endpoint, GpuType


@Endpoint(
    name="tensor-processor",
    gpu=GpuType.NVIDIA_GEFORCE_RTX_4090,
    workers=(0, 10),
    dependencies=["numpy", "pillow"],
)
async def process_data(payload: dict[str, Any]) -> dict[str, Any]:
    import numpy as np
    from PIL import Image

    image = Image.open(io.BytesIO(payload["image"]))
    pixels = np.asarray(image, dtype=np.float32)
    print(f"received {image.format}, {image.width} x {image.height} pixels")
    return {"mean_color": pixels.mean(axis=(0, 1)).tolist(), "numpy": np.__version__}


async def main() -> None:
    # Eight by eight red pixels, as a file in PPM format.
    red = b"P6 8 8 255\n" + bytes([192, 16, 32]) * 64
    print(await process_data({"image": red}))


if __name__ == "__main__":
    asyncio.run(main())
