"""Tells the plane which libraries were imported, so that the next worker has them ahead."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

from runpod_flash.wire.frames import Frame

if TYPE_CHECKING:
    from collections.abc import Callable

_PACKAGES = sys.prefix + os.sep
_STANDARD = os.path.dirname(os.__file__) + os.sep  # noqa: PTH120


class Imported:
    """What is there when it is made needs no telling."""

    def __init__(self, send: Callable[..., None]) -> None:
        self._send = send
        self.skip()

    def skip(self) -> None:
        """What is there now needs no telling either."""
        self._seen = set(sys.modules)
        self._count = len(self._seen)

    def tell(self, *first: Frame, always: bool = False) -> None:
        """Send what is new since the last time; nearly free where nothing is.

        `first` goes before it, in one write.
        """
        names = [name for name in self._new() if _is_library(name)]
        if names or always:
            self._send(*first, Frame("imported", {"modules": names}))

    def _new(self) -> list[str]:
        # To look at each name copies its page, in a fork.
        if len(sys.modules) == self._count:
            return []
        new = [name for name in list(sys.modules) if name not in self._seen]
        self._count = len(sys.modules)
        self._seen.update(new)
        return new


def _is_library(name: str) -> bool:
    """Whether it is of the environment's packages or the standard library, and not the user's."""
    spec = getattr(sys.modules.get(name), "__spec__", None)
    origin = getattr(spec, "origin", None)
    if not isinstance(origin, str):
        return False
    if name.partition(".")[0] in sys.stdlib_module_names:
        return origin in ("built-in", "frozen") or origin.startswith(_STANDARD)
    return origin.startswith(_PACKAGES)
