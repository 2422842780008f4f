"""Has what workers start from ready before there is work: environments, images, what is forked."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from runpod_flash.plane.events import Notice

if TYPE_CHECKING:
    from collections.abc import Iterable

    from runpod_flash.plane.plane import Plane
    from runpod_flash.plane.pool import Pool

# So many are prepared at a time: requests that come meanwhile have the rest of the machine.
_TOGETHER = 2


async def prepare_all(plane: Plane, pools: Iterable[Pool]) -> None:
    """Prepare those that may come to have workers here, and have none; on the plane's loop.

    What fails is said in a notice: a request meets it as well.
    """
    room = asyncio.Semaphore(_TOGETHER)

    async def prepare(pool: Pool) -> None:
        async with room:
            if _is_due(pool):
                try:
                    await plane.prepare(pool)
                except Exception as error:  # a worker's start meets it again, where it is judged
                    text = f"cannot be prepared: {error or type(error).__name__}"
                    plane.events.publish(Notice(pool.spec.name, text, pool.spec.app))

    await asyncio.gather(*map(prepare, pools))


def _is_due(pool: Pool) -> bool:
    """Whether nothing else prepares it: a worker's own start does."""
    spec = pool.spec
    here = spec.scaling.workers_max > 0 and not spec.external
    return here and not pool.workers and not pool.withdrawn
