"""A volume that two endpoints share: one writes what the other reads."""

import asyncio
import os
from pathlib import Path

from runpod_flash import DataCenter, Endpoint, NetworkVolume

models = NetworkVolume(name="example-models", size=10, datacenter=DataCenter.EU_RO_1)


def volume() -> Path:
    """The volume's directory. The variable is there where /runpod-volume cannot be."""
    return Path(os.environ.get("FLASH_VOLUME_PATH", "/runpod-volume"))


@Endpoint(name="trainer", cpu="cpu3c-1-2", volume=models)
def train(steps: int) -> int:
    weights = volume() / "weights.txt"
    weights.write_text(" ".join(str(step * step) for step in range(steps)))
    return weights.stat().st_size


@Endpoint(name="predictor", cpu="cpu3c-1-2", volume=models)
def predict() -> int:
    weights = (volume() / "weights.txt").read_text().split()
    return sum(int(weight) for weight in weights)


async def main() -> None:
    print(await train(5), "bytes written")
    print("prediction:", await predict())


if __name__ == "__main__":
    asyncio.run(main())
