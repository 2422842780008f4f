"""A control socket: the plane sends an order, and hears in lines of JSON what became of it."""

from __future__ import annotations

import json
import socket
import struct
from contextlib import suppress
from typing import Any


def read_order(control: socket.socket) -> dict[str, Any] | None:
    """The plane's order, or None when the plane ended before it was complete."""
    (length,) = struct.unpack("!I", head) if (head := _receive(control, 4)) else (0,)
    body = _receive(control, length)
    return dict(json.loads(body)) if body else None


def _receive(control: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        part = control.recv(size - len(data))
        if not part:
            return b""
        data += part
    return data


def send(control: socket.socket, message: dict[str, Any]) -> None:
    with suppress(OSError):  # the plane is gone: nobody to tell
        control.sendall(json.dumps(message).encode() + b"\n")


def end(control: socket.socket) -> None:
    # Also where a process that the plane's program forked has a copy of the other side.
    with suppress(OSError):
        control.shutdown(socket.SHUT_RDWR)
    control.close()
