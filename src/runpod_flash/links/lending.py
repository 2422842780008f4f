"""Who reads a link: the plane's loop, or for a short while the loop of a caller.

A warm call is over in a fraction of a millisecond, and the hop from the plane's thread to the
caller's would take most of it. So the caller's own loop reads the answers while its calls follow
each other closely. A caller that awaits something long, blocks its loop or stops calling loses
the link to the plane's loop again, which never waits for user code.
"""

from __future__ import annotations

import os
import threading
from contextlib import suppress
from typing import TYPE_CHECKING

from runpod_flash.descriptor import OpenFile

if TYPE_CHECKING:
    import asyncio
    import socket
    from collections.abc import Callable

# A loan ends when it saw no new call for so long.
LOAN_SECONDS = 0.02


class Reading:
    """Calls `readable` whenever the socket has something, on `home` or on a borrower's loop."""

    def __init__(
        self, sock: socket.socket, home: asyncio.AbstractEventLoop, readable: Callable[[], None]
    ) -> None:
        self._sock = sock
        self._home = home
        self._readable = readable
        self._lock = threading.Lock()
        self._borrower: asyncio.AbstractEventLoop | None = None
        self._copy: OpenFile | None = None
        self._used = False
        self._ended = False

    def start(self) -> None:
        """Begin, on the home loop's thread."""
        self._home.add_reader(self._sock.fileno(), self._readable)

    def lend(self, loop: asyncio.AbstractEventLoop) -> None:
        """Let `loop`, which runs on this thread, read; nothing happens if another one does."""
        if loop is self._borrower:
            self._used = True
            return
        with self._lock:
            if self._borrower is not None or self._ended or loop is self._home:
                return
            try:
                # One of its own, which stays in the borrower's selector until that loop lets go.
                copy = OpenFile(os.dup(self._sock.fileno()))
                loop.add_reader(copy.descriptor, self._readable)
            except (NotImplementedError, RuntimeError, OSError):  # no more descriptors, perhaps
                return
            self._borrower, self._copy, self._used = loop, copy, True
        self._home.call_soon_threadsafe(self._lent)

    def end(self) -> None:
        """Stop reading, on the home loop's thread."""
        with self._lock:
            self._ended = True
        self._home.remove_reader(self._sock.fileno())
        self._recall()

    def _lent(self) -> None:
        if not self._ended:
            self._home.remove_reader(self._sock.fileno())
            self._home.call_later(LOAN_SECONDS, self._look)

    def _look(self) -> None:
        if self._used and not self._ended:
            self._used = False
            self._home.call_later(LOAN_SECONDS, self._look)
        else:
            self._recall()

    def _recall(self) -> None:
        with self._lock:
            loop, self._borrower = self._borrower, None
            copy, self._copy = self._copy, None
        if loop is None or copy is None:
            return
        if not self._ended:
            self.start()
        with suppress(RuntimeError):  # the borrower's loop is closed, and its selector with it
            loop.call_soon_threadsafe(_let_go, loop, copy)


def _let_go(loop: asyncio.AbstractEventLoop, copy: OpenFile) -> None:
    with suppress(RuntimeError):
        loop.remove_reader(copy.descriptor)
