"""The clock of planes whose store outlives them."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


def steady_clock() -> Callable[[], float]:
    """Seconds since 1970 as they pass: a clock that is set while the process runs moves nothing."""
    ahead = time.time() - time.monotonic()
    return lambda: time.monotonic() + ahead
