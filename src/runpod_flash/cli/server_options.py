"""What the command line of `flash server` said."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal
from urllib.parse import urlsplit

from platformdirs import user_data_path

from runpod_flash.control.data_dir import DataDirectory
from runpod_flash.control.releases import KEPT
from runpod_flash.errors import ConfigurationError
from runpod_flash.gateway.settings import Settings
from runpod_flash.hardware import DataCenter

if TYPE_CHECKING:
    from runpod_flash.cli.server_isolation import Apart
    from runpod_flash.cli.server_log import LogFormat
    from runpod_flash.engines.local.devices.leasing import GpuFallback
    from runpod_flash.gateway.rate_limit import RateLimit

Webhooks = Literal["public", "private", "any"]


@dataclass(frozen=True)
class Options:
    """What the command line said."""

    host: str
    port: int
    app: Path | None
    database: Path
    max_gb: float
    datacenter: str
    tls: tuple[Path, Path] | None
    grace: float
    require_key: bool = False
    log_format: LogFormat | None = None
    log_level: str = "info"
    gpu_fallback: GpuFallback = "none"
    retention_minutes: float = 30.0
    webhooks: Webhooks = "public"
    isolation: Apart = "apps"
    worker_user: str = "nobody"
    rate_limit: RateLimit | None = None
    keep_releases: int = KEPT

    def settings(self, secret: str) -> Settings:
        """The queue API's."""
        return Settings(
            run_retention_ms=int(self.retention_minutes * 60_000),
            webhook_secret=secret,
            webhook_private=self.webhooks != "public",
            webhook_loopback=self.webhooks == "any",
        )


def datacenter_id(given: str | None) -> str:
    """The id of a data center; raises `ConfigurationError` for one that is not known."""
    try:
        return DataCenter(given).value if given else ""
    except ValueError as error:
        raise ConfigurationError(f"--datacenter {given}: {error}") from None


def database_path(data_dir: Path | None, store: str | None) -> Path:
    """The file that jobs are in. Raises `ConfigurationError` for a store that is none of ours."""
    if store is not None:
        parts = urlsplit(store)
        if parts.scheme != "sqlite" or not parts.path.strip("/") or parts.netloc:
            raise ConfigurationError(
                f"--store {store!r} is not known; give one such as sqlite:///var/lib/flash/flash.db"
            )
        return Path(parts.path)
    directory = data_dir or user_data_path("flash", appauthor=False) / "server"
    return DataDirectory(directory.absolute()).database
