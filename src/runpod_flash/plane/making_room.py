"""Which worker ends for an endpoint that waits for what workers of others hold."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from runpod_flash.plane.pool import WorkerState

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from runpod_flash.plane.pool import Pool, Worker

# A worker whose device an older job of another endpoint waits for runs younger ones so long.
TURN_SECONDS = 30.0


def who_makes_room(
    pool: Pool,
    holders: Iterable[Worker],
    waiting_since: Callable[[Pool], float],
    clock: float,
) -> Worker | None:
    """The one of `holders` that is to end; None where one does already, or none has to yet."""
    oldest = waiting_since(pool)
    others = [w for w in holders if w.pool is not pool]
    if oldest == math.inf or any(w.state is WorkerState.DRAINING for w in others):
        return None
    younger = [w for w in others if waiting_since(w.pool) > oldest]
    idle = [w for w in younger if w.idle]
    # (A busy one's own younger jobs would keep it busy for ever.)
    willing = idle or [w for w in younger if _had_its_turn(w, clock)]
    return min(willing, key=lambda w: w.idle_since, default=None)


def _had_its_turn(worker: Worker, clock: float) -> bool:
    return worker.ready_at is not None and clock - worker.ready_at >= TURN_SECONDS
