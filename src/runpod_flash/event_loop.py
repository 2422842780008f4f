"""The event loop of a command that runs until it is told to stop."""

from __future__ import annotations

import asyncio
import os
import signal
from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Coroutine
    from typing import Any


def run(work: Coroutine[Any, Any, int]) -> int:
    """Run to the end, on the fastest loop that is there; the exit code."""
    with suppress(ImportError):
        import uvloop

        return uvloop.run(work)
    return asyncio.run(work)


def stop_signal() -> asyncio.Event:
    """Set by Ctrl-C, SIGTERM or SIGHUP; a second one ends the process at once.

    (Its workers end with it, and a server's jobs are on disk.)
    """
    stop = asyncio.Event()

    def requested() -> None:
        if stop.is_set():
            os._exit(130)
        stop.set()

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(number, requested)
    return stop
