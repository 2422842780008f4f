"""How soon the next worker of an endpoint may be started, after one that could not be."""

from __future__ import annotations

from dataclasses import dataclass

# A worker process that dies before it is ready is tried so often before its jobs fail.
START_ATTEMPTS = 3
# Another program may free a device without this plane hearing of it.
CAPACITY_RETRY_SECONDS = 1.0
# A worker that only the minimum asks for is less urgent.
KEEP_RETRY_SECONDS = 10.0
_BACKOFF_SECONDS = 0.2
_MAX_BACKOFF_SECONDS = 60.0


@dataclass(slots=True)
class StartPace:
    """Of one endpoint; `clock` is the plane's, in seconds.

    `failed_starts` failed in a row. What stands in the way of a worker that is kept for the minimum
    alone counts longer: such workers are tried more and more slowly, jobs are not kept waiting.
    """

    failed_starts: int = 0
    _setbacks: int = 0
    _retry_at: float = 0.0
    _keep_at: float = 0.0

    def not_before(self, *, awaited: bool) -> float:
        """When a worker may be started; `awaited` by a job or request that has no other."""
        return self._retry_at if awaited else max(self._retry_at, self._keep_at)

    def refused(self, clock: float) -> None:
        """There was no room."""
        self._retry_at = clock + CAPACITY_RETRY_SECONDS
        self._keep_at = clock + KEEP_RETRY_SECONDS

    def died_early(self, clock: float) -> bool:
        """A worker ended before it was ready; whether another is to be tried."""
        self.failed_starts += 1
        self._retry_at = clock + _BACKOFF_SECONDS * 2**self.failed_starts
        return self.failed_starts < START_ATTEMPTS

    def gave_up(self, clock: float) -> None:
        """Those who waited were told: for those who come now it begins anew."""
        self.failed_starts = 0
        self._retry_at = clock + _BACKOFF_SECONDS
        self.set_back(clock)

    def set_back(self, clock: float) -> None:
        """A worker has ended too soon by itself."""
        self._setbacks = min(self._setbacks + 1, 20)
        self._keep_at = clock + min(_BACKOFF_SECONDS * 2**self._setbacks, _MAX_BACKOFF_SECONDS)

    def started(self) -> None:
        """A worker is ready."""
        self.failed_starts = 0

    def lasted(self) -> None:
        """A worker has ended that had been ready for long, or whose end was asked for."""
        self._setbacks = 0

    def hurry(self) -> None:
        """Something has become free that the endpoint may be waiting for."""
        self._retry_at = self._keep_at = 0.0

    def begin_anew(self) -> None:
        """New workers are started otherwise than those that failed."""
        self.failed_starts = self._setbacks = 0
        self.hurry()
