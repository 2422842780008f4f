"""How many workers an endpoint should have: a pure function of its scaling, counters and clock."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from runpod_flash.plane.keep_alive import KeepAlive
    from runpod_flash.spec import Scaling

# QUEUE_DELAY adds one worker a violation; a violation that lasts counts again after so long.
STEP_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Counters:
    """What the autoscaler looks at. Times are seconds of one clock.

    `workers` are those that run or start, of which `starting` are not ready yet; `nested` is how
    many more may run than the declared maximum, because workers of this endpoint wait for jobs of
    its own queue. `requests` are those of routes that a worker has; those that wait are queued.
    `keep_alive` counts instead of `idle_timeout` where it was learned; its times are those since
    `quiet_since`, when the endpoint's last work ended (infinite while there is some).
    """

    now: float
    queued: int = 0
    running: int = 0
    workers: int = 0
    starting: int = 0
    oldest_queued_at: float | None = None
    scaled_up_at: float = -math.inf
    idle_since: tuple[float, ...] = ()
    nested: int = 0
    requests: int = 0
    quiet_since: float = math.inf
    keep_alive: KeepAlive | None = None


@dataclass(frozen=True, slots=True)
class Desired:
    """The number of workers to have, and the clock at which to ask again (None: on an event)."""

    workers: int
    again_at: float | None = None


def desired(scaling: Scaling, counters: Counters) -> Desired:
    """Workers to have now, never under the minimum nor over the maximum."""
    needed, grow_at = _needed(scaling, counters)
    keep, shrink_at = _kept(scaling, counters)
    workers = max(needed, min(counters.workers, keep))
    low, high = scaling.workers_min, scaling.workers_max + counters.nested
    times = [at for at in (grow_at, shrink_at) if at is not None]
    return Desired(min(max(workers, low), high), min(times, default=None))


def _needed(scaling: Scaling, counters: Counters) -> tuple[int, float | None]:
    if counters.nested and counters.queued:
        # Whoever waits for the nested job holds a worker: only a further one can help.
        coming = counters.starting or counters.idle_since
        return counters.workers + (0 if coming else 1), None
    if not counters.queued and not counters.requests:
        return _forecast(counters)
    if scaling.scaler == "REQUEST_COUNT":
        work = counters.queued + counters.running + counters.requests
        return math.ceil(work / scaling.scaler_value), None
    return _queue_delay(scaling, counters)


def _queue_delay(scaling: Scaling, counters: Counters) -> tuple[int, float | None]:
    # More workers than jobs would help nobody, however long the first ones take to start.
    most = min(scaling.workers_max, counters.queued + counters.running)
    oldest = counters.now if counters.oldest_queued_at is None else counters.oldest_queued_at
    violated_at = max(oldest + scaling.scaler_value, counters.scaled_up_at + STEP_SECONDS)
    wanted = counters.workers
    if wanted < most and (wanted == 0 or counters.now >= violated_at):
        wanted += 1
        violated_at = max(oldest + scaling.scaler_value, counters.now + STEP_SECONDS)
    return wanted, violated_at if wanted < most else None


def _forecast(counters: Counters) -> tuple[int, float | None]:
    """The worker to have ahead of a call that is expected, and when that begins or ends."""
    if counters.keep_alive is None:
        return 0, None
    begins = counters.quiet_since + counters.keep_alive.prewarm
    ends = counters.quiet_since + counters.keep_alive.until
    if counters.now < begins:
        return 0, begins if begins < math.inf else None
    return (1, ends) if counters.now < ends else (0, None)


def _kept(scaling: Scaling, counters: Counters) -> tuple[int, float | None]:
    """How many workers their idle time leaves, and when the next one will have idled enough."""
    if counters.keep_alive is None:
        expiry = sorted(since + scaling.idle_timeout for since in counters.idle_since)
    else:
        # One that was there ahead of a call has idled as long as the endpoint has.
        quiet, keep = counters.quiet_since, counters.keep_alive.keep
        expiry = sorted(min(since, quiet) + keep for since in counters.idle_since)
    over = sum(at <= counters.now for at in expiry)
    coming = [at for at in expiry if at > counters.now]
    if counters.workers - over <= scaling.workers_min or not coming:
        return counters.workers - over, None
    return counters.workers - over, coming[0]
