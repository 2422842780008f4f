"""Clients that leave before their request is answered."""

from __future__ import annotations

import asyncio
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from runpod_flash.links.http_proxy import Receive


async def left(receive: Receive) -> None:
    """Return once the client has left; what else it sends is dropped."""
    while (await receive())["type"] != "http.disconnect":
        pass


@contextmanager
def leaving(receive: Receive) -> Iterator[asyncio.Task[None]]:
    """A task that is done once the client has left; it ends with the block."""
    task = asyncio.ensure_future(left(receive))
    try:
        yield task
    finally:
        task.cancel()
