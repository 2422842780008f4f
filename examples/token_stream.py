"""A generator: its values arrive one by one, as the worker yields them."""

import asyncio
from collections.abc import AsyncIterator

from runpod_flash import Endpoint


@Endpoint(name="storyteller", cpu="cpu3c-1-2")
async def tell(prompt: str, tokens: int = 5) -> AsyncIterator[str]:
    for number in range(tokens):
        await asyncio.sleep(0.05)  # a model computes the next token here
        yield f"{prompt}-{number}"


async def main() -> None:
    async for token in tell("token"):
        print(token, end=" ", flush=True)
    print()

    # Leaving the loop early cancels the job.
    async for token in tell("again", tokens=1_000_000):
        print(token)
        break


if __name__ == "__main__":
    asyncio.run(main())
