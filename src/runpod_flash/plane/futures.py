"""Futures whose waiters may have left."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import asyncio


def complete(future: asyncio.Future[Any], result: Any, error: Exception | None = None) -> None:
    """Give it its result, or its error; nothing where it has one, or was cancelled."""
    if future.done():
        return
    if error is None:
        future.set_result(result)
    else:
        future.set_exception(error)
