"""Who a worker is to the server that it belongs to, where it may ask that."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping

    from runpod_flash.spec import EndpointSpec


class Identities(Protocol):
    """Gives workers what they show to their server."""

    def variables(
        self, worker_id: str, spec: EndpointSpec, env: Mapping[str, str]
    ) -> Mapping[str, str]:
        """The variables by which a new worker is known; `env` are those that it has anyway."""

    def ended(self, worker_id: str) -> None:
        """The worker is gone, and with it what it was known by."""


class Nobody:
    """Workers that there is no server for."""

    def variables(
        self, worker_id: str, spec: EndpointSpec, env: Mapping[str, str]
    ) -> Mapping[str, str]:
        return {}

    def ended(self, worker_id: str) -> None:
        pass
