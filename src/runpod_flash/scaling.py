"""How many workers an endpoint may have, and by which measure they are scaled."""

from __future__ import annotations

from runpod_flash.errors import ConfigurationError
from runpod_flash.suggest import SuggestingEnum

DEFAULT_WORKERS_MIN = 0
DEFAULT_WORKERS_MAX = 1

# As an `idle_timeout`: workers are kept as the endpoint's idle times so far say. A cold start is
# then worth so many seconds of an idle worker (chosen by simulation: docs/scaling.md).
LEARNED = "learned"
LEARNED_WORTH = 300


class ServerlessScalerType(SuggestingEnum):
    """What the autoscaler looks at: how long jobs wait, or how many requests there are."""

    QUEUE_DELAY = "QUEUE_DELAY"
    REQUEST_COUNT = "REQUEST_COUNT"


class ServerlessType(SuggestingEnum):
    """How requests reach workers: through a queue (QB) or load-balanced routes (LB)."""

    QB = "QB"
    LB = "LB"


def parse_workers(value: object) -> tuple[int, int]:
    """The smallest and the largest number of workers that `workers=value` declares.

    `None` gives the defaults, an int `n` gives `(0, n)`, a tuple or list of two ints is taken as
    `(min, max)`; a bool counts as an int. Raises `ConfigurationError` (a `ValueError`) for anything
    else, for a negative number, and for a minimum above the maximum.
    """
    if value is None:
        return DEFAULT_WORKERS_MIN, DEFAULT_WORKERS_MAX
    least, most = _bounds(value)
    if least < 0 or most < 0:
        raise ConfigurationError(f"workers={value!r}: workers cannot be negative; use 0 or more.")
    if least > most:
        raise ConfigurationError(
            f"workers={value!r}: min cannot exceed max; write the smaller number first."
        )
    return least, most


def _bounds(value: object) -> tuple[int, int]:
    if isinstance(value, int):
        return DEFAULT_WORKERS_MIN, int(value)
    if isinstance(value, (tuple, list)) and len(value) == 2:
        least, most = value
        if isinstance(least, int) and isinstance(most, int):
            return int(least), int(most)
    raise ConfigurationError(
        f"workers must be an int or a (min, max) tuple of ints, not {value!r}."
    )
