"""What an operator may set of the queue API: how long jobs are kept, and where webhooks may go."""

from __future__ import annotations

from dataclasses import dataclass

from runpod_flash.errors import ConfigurationError

_HOUR_MS = 3_600_000


@dataclass(frozen=True)
class Settings:
    """The queue API's settings. Times are in milliseconds where their names say so, else seconds.

    An ended job is kept for `run_retention_ms`, or for `sync_retention_ms` where it was submitted
    by runsync (`waited_retention_ms`: by one that says how long it waits). Results that were
    delivered are let go earlier where they take more than `delivered_bytes`. `ttl_ms` is what a job
    without a ttl of its own gets.

    Webhooks are signed with `webhook_secret` (`whsec_` and base64), and tried again after each of
    `webhook_delays`. They may go to private networks or to this machine only where that is allowed.
    """

    run_retention_ms: int = _HOUR_MS // 2
    sync_retention_ms: int = 60_000
    waited_retention_ms: int = 300_000
    delivered_bytes: int = 64_000_000
    ttl_ms: int = 24 * _HOUR_MS
    webhook_secret: str = ""
    webhook_delays: tuple[float, ...] = (10, 20, 40, 80, 160)
    webhook_private: bool = False
    webhook_loopback: bool = False

    def __post_init__(self) -> None:
        for name in ("run_retention_ms", "sync_retention_ms", "waited_retention_ms", "ttl_ms"):
            value = getattr(self, name)
            if value < 1000:
                raise ConfigurationError(f"{name}={value} is below 1000 (milliseconds)")
        if any(delay < 0 for delay in self.webhook_delays):
            raise ConfigurationError(f"webhook_delays={self.webhook_delays} has one below 0")
