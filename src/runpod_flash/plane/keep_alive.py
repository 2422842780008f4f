"""How long an idle worker is worth keeping, learned from how long the endpoint was idle before.

The histogram of idle times is that of "Serverless in the Wild" (Shahrad et al., USENIX ATC 2020).
Where that paper keeps a worker between two percentiles of it, this keeps one where keeping pays: a
cold start is `worth` so many seconds of an idle worker, and the expected sum of both is made least.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

# Shorter idle times are neither counted nor decided about; no worker is kept for longer ones.
SHORTEST, LONGEST = 1.0, 172_800.0
# Bins are a tenth wider than the one before: a timer's next call falls into one or two of them.
_RATIO = 1.1
_BINS = math.ceil(math.log(LONGEST / SHORTEST, _RATIO))
_EDGES = tuple(SHORTEST * _RATIO**number for number in range(_BINS + 1))
# What happened weighs half as much after so many idle times more.
_HALF_LIFE = 100
_DECAY = 0.5 ** (1 / _HALF_LIFE)
# Fewer tell nothing yet.
ENOUGH = 6


@dataclass(frozen=True, slots=True)
class KeepAlive:
    """Seconds since the endpoint's last work: a worker is kept until `keep`.

    One is there again from `prewarm` on, until `until`, ahead of the next call; both are infinite
    where that does not pay.
    """

    keep: float
    prewarm: float = math.inf
    until: float = math.inf


@dataclass(slots=True)
class IdleTimes:
    """A histogram of an endpoint's idle times, of which older ones count less."""

    counts: list[float] = field(default_factory=lambda: [0.0] * _BINS)
    longer: float = 0.0
    seen: int = 0
    _weight: float = 1.0

    def add(self, seconds: float) -> None:
        """Count the time between the end of an endpoint's last work and its next."""
        if seconds < SHORTEST:
            return
        self.seen += 1
        # The new one weighs more, which is as if all others weighed less.
        self._weight /= _DECAY
        if seconds >= LONGEST:
            self.longer += self._weight
        else:
            self.counts[_bin(seconds)] += self._weight
        if self._weight > 1e100:
            self._scale(1 / self._weight)

    def _scale(self, factor: float) -> None:
        self.counts = [count * factor for count in self.counts]
        self.longer *= factor
        self._weight *= factor

    def keep_alive(self, worth: float, start_seconds: float = 0.0) -> KeepAlive | None:
        """The cheapest way to be ready for the next call; None where too little is known.

        `worth`: the seconds of an idle worker that one cold start costs its caller. A worker that
        is to be there in time is ordered `start_seconds` before.
        """
        if self.seen < ENOUGH:
            return None
        gains = self._gains(worth)
        kept = _best_prefix(gains)
        first, last, gain = _best_window(gains, kept)
        keep = _EDGES[kept] if kept else SHORTEST
        prewarm = _EDGES[first] - start_seconds
        # Ending and starting a worker has to pay too.
        if gain <= start_seconds * self._total() or prewarm <= keep:
            return KeepAlive(keep if prewarm > keep or gain <= 0 else _EDGES[last])
        return KeepAlive(keep, prewarm, _EDGES[last])

    def _total(self) -> float:
        return sum(self.counts) + self.longer

    def _gains(self, worth: float) -> list[float]:
        """What a worker that is there during a bin gains, in seconds: saved starts, less idling."""
        gains, beyond = [], self.longer
        for number in reversed(range(_BINS)):
            count, width = self.counts[number], _EDGES[number + 1] - _EDGES[number]
            gains.append(count * worth - (beyond + count / 2) * width)
            beyond += count
        return gains[::-1]


@dataclass(slots=True)
class Learned:
    """What a pool has learned, and since when it has nothing to do (infinite while it has).

    `start_seconds` is what the last worker took to be ready.
    """

    start_seconds: float = 0.0
    quiet_since: float = math.inf
    keep_alive: KeepAlive | None = None
    idle_times: IdleTimes = field(default_factory=IdleTimes)

    def work(self, now: float, worth: float) -> None:
        """Work has come."""
        idle = now - self.quiet_since
        self.quiet_since = math.inf
        if idle >= SHORTEST:
            self.idle_times.add(idle)
            self.keep_alive = self.idle_times.keep_alive(worth, self.start_seconds)

    def quiet(self, now: float) -> None:
        """The last work has ended."""
        self.quiet_since = now

    def keep(self, otherwise: float) -> float:
        """Seconds that an idle worker is kept."""
        return otherwise if self.keep_alive is None else self.keep_alive.keep


def _bin(seconds: float) -> int:
    return min(int(math.log(seconds / SHORTEST, _RATIO)), _BINS - 1)


def _best_prefix(gains: list[float]) -> int:
    """How many of the first bins gain most together."""
    best, total, most = 0, 0.0, 0.0
    for number, gain in enumerate(gains):
        total += gain
        if total > most:
            best, most = number + 1, total
    return best


def _best_window(gains: list[float], start: int) -> tuple[int, int, float]:
    """The bins from `start` on that follow each other and gain most: first, end, and the gain."""
    best, total, first = (start, start, 0.0), 0.0, start
    for number in range(start, len(gains)):
        if total <= 0:
            total, first = 0.0, number
        total += gains[number]
        if total > best[2]:
            best = (first, number + 1, total)
    return best
