"""A queue function on a CPU: await its result, or queue a job and look at it later."""

import asyncio
from collections import Counter

from runpod_flash import Endpoint


@Endpoint(name="count-words", cpu="cpu3c-1-2", workers=(0, 3))
async def count_words(text: str, most: int = 2) -> dict[str, int]:
    words = Counter(text.lower().split())
    return dict(words.most_common(most))


async def main() -> None:
    print(await count_words("the cat saw the dog"))

    job = count_words.run("one two two", most=1)
    await job.wait()
    print(job.done, job.output)


if __name__ == "__main__":
    asyncio.run(main())
    # In code without an event loop:
    print(count_words.call("so so"))
