"""A file descriptor that several may use."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


class OpenFile:
    """A descriptor that is closed once nobody has it any more.

    A thread goes on with a file whose request was cancelled, and a loop that is closed forgets what
    it was to call. Closed before them, its number could be another file's by then; by them only, it
    might stay open.
    """

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor

    def __del__(self, close: Callable[[int], None] = os.close) -> None:
        close(self.descriptor)
