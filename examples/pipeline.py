"""Endpoints that call each other: a pipeline that spreads its work over other workers."""

import asyncio

from runpod_flash import Endpoint, GpuGroup


@Endpoint(name="split", cpu="cpu3c-1-2")
def split(text: str) -> list[str]:
    return text.split(". ")


@Endpoint(name="embed", gpu=GpuGroup.ANY, workers=(0, 4))
async def embed(sentence: str) -> list[int]:
    return [len(word) for word in sentence.split()]


@Endpoint(name="pipeline", cpu="cpu3c-1-2")
async def pipeline(text: str) -> dict[str, list[int]]:
    # By name, as in one process. Each call goes to a worker of the other endpoint.
    sentences = await split(text)
    vectors = await asyncio.gather(*[embed(sentence) for sentence in sentences])
    print(f"embedded {len(vectors)} sentences")
    return dict(zip(sentences, vectors, strict=True))


async def main() -> None:
    print(await pipeline("Flash runs functions. Workers come and go"))


if __name__ == "__main__":
    asyncio.run(main())
