"""An image's mean colour, computed on workers that asked for an RTX 4090.

On a machine without that GPU, the workers run on the CPU, and Flash says so.
"""

import asyncio
import io

from runpod_flash import Endpoint, GpuType


@Endpoint(
    name="tensor-processor",
    gpu=GpuType.NVIDIA_GEFORCE_RTX_4090,
    workers=(0, 10),
    dependencies=["numpy", "pillow"],
)
async def process_data(payload: dict) -> dict:
    import numpy as np
    from PIL import Image

    image = Image.open(io.BytesIO(payload["image"]))
    pixels = np.asarray(image, dtype=np.float32)
    print(f"received {image.format} of {image.width} x {image.height}")
    return {"mean_color": pixels.mean(axis=(0, 1)).round(1).tolist(), "numpy": np.__version__}


def red_square() -> bytes:
    """A small bitmap file, made without any package."""
    size = 8
    header = b"BM" + (54 + size * size * 3).to_bytes(4, "little") + bytes(4) + b"\x36\0\0\0"
    info = b"\x28\0\0\0" + size.to_bytes(4, "little") * 2 + b"\x01\0\x18\0" + bytes(24)
    return header + info + b"\x20\x10\xc0" * (size * size)


async def main() -> None:
    print(await process_data({"image": red_square()}))


if __name__ == "__main__":
    asyncio.run(main())
