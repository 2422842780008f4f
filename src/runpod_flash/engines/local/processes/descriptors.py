"""What a launcher holds open, so that a forked copy of its process can let go of it."""

from __future__ import annotations

import os
import socket


class Descriptors:
    """What this side holds open, so that a forked copy of this process can let go of it."""

    def __init__(self) -> None:
        self._open: set[socket.socket | int] = set()

    def socketpair(self) -> tuple[socket.socket, socket.socket]:
        pair = socket.socketpair()
        for each in pair:
            each.setblocking(True)  # whatever the program's default timeout is
        self._open.update(pair)
        return pair

    def pipe(self) -> tuple[int, int]:
        pair = os.pipe()
        self._open.update(pair)
        return pair

    def close(self, *ends: socket.socket | int) -> None:
        """Close what is not closed yet."""
        for each in ends:
            if each in self._open:
                self._open.remove(each)
                os.close(each if isinstance(each, int) else each.detach())

    def abandon(self) -> None:
        self.close(*self._open)
