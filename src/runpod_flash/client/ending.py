"""The end of the program: what has to be done while its threads still work."""

from __future__ import annotations

import atexit
import sys
import threading
from typing import TYPE_CHECKING

from runpod_flash.errors import FlashError

if TYPE_CHECKING:
    from collections.abc import Callable

# A job whose result is here already may take so long until it counts as ended.
SETTLE_SECONDS = 0.3

_hooked = False


def refuse_first_call() -> None:
    """Raise `FlashError` where the program is ending, and no call before has prepared its end."""
    if not _hooked and not threading.main_thread().is_alive():
        raise FlashError(
            "the program is ending, which is too late for its first call of an endpoint: "
            "call one before its main thread ends"
        )


def at_thread_shutdown(callback: Callable[[], None]) -> None:
    """Call back when the program ends, while its thread pools still take work.

    `atexit` is too late: by then an event loop can start no thread that it needs, be it to look up
    the name of a host.
    """
    global _hooked
    import concurrent.futures.thread  # noqa: F401 - registers its own end first, to run after ours

    register = getattr(threading, "_register_atexit", atexit.register)
    register(callback)
    _hooked = True


def interrupted() -> bool:
    """Whether Ctrl-C is what ends the program."""
    return getattr(sys, "last_type", None) is KeyboardInterrupt


def jobs(count: int) -> str:
    return f"{count} job{'s' if count != 1 else ''}"
