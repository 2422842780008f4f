"""Tells the plane which packages of the environment were imported, so that they may be ahead."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

from runpod_flash.wire.frames import Frame

if TYPE_CHECKING:
    from collections.abc import Callable


class Imported:
    """What is there when it is made needs no telling."""

    def __init__(self, send: Callable[[Frame], None]) -> None:
        self._send = send
        self._seen = set(sys.modules)
        self._count = len(self._seen)

    def tell(self) -> None:
        """Send what is new since the last time; nearly free where nothing is."""
        if len(sys.modules) == self._count:
            return
        new = [name for name in list(sys.modules) if name not in self._seen]
        self._count = len(sys.modules)
        self._seen.update(new)
        names = [name for name in new if _is_of_environment(name)]
        if names:
            self._send(Frame("imported", {"modules": names}))


def _is_of_environment(name: str) -> bool:
    spec = getattr(sys.modules.get(name), "__spec__", None)
    origin = getattr(spec, "origin", None)
    return isinstance(origin, str) and origin.startswith(sys.prefix + os.sep)
