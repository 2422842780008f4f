"""What becomes of an endpoint when Flash itself fails to look after its workers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from runpod_flash.errors import WorkerStartError
from runpod_flash.wire.failures import capture

if TYPE_CHECKING:
    from runpod_flash.wire.failures import Failure

# So often it is tried before the jobs that wait are told.
ATTEMPTS = 3
_FIRST_SECONDS, _LONGEST_SECONDS = 0.2, 60.0


@dataclass(slots=True)
class Faults:
    """Of one endpoint, since it was last looked after without one."""

    count: int = 0
    again_at: float = 0.0

    def met(self, clock: float) -> float:
        """Note one; how many seconds later it is to be tried again."""
        if clock >= self.again_at:  # what happens meanwhile is no attempt
            pause = min(_FIRST_SECONDS * 2**self.count, _LONGEST_SECONDS)
            self.count, self.again_at = min(self.count + 1, 20), clock + pause
        return self.again_at - clock

    @property
    def lasting(self) -> bool:
        """Whether nobody should wait for its end."""
        return self.count >= ATTEMPTS

    def failure(self, endpoint: str, error: Exception) -> Failure:
        """What jobs that wait fail with."""
        what = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
        text = (
            f"Flash could not look after the workers of {endpoint!r}, {self.count} times in a row: "
            f"{what}; this is a fault of Flash or of its machine, whose log has the details"
        )
        wrapped = WorkerStartError(text)
        wrapped.__cause__ = error
        return capture(wrapped, origin="system")
