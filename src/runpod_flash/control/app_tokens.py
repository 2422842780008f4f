"""Tokens of deployed apps' workers: each is for the endpoints of its own app, and dies with it.

A worker has its token as `FLASH_API_KEY`, beside the server's address as `FLASH_TARGET`. Nobody
else's key is in any worker.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from runpod_flash.control.key import Key, digest, ending_of, new_id, new_secret

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from runpod_flash.control.key import KeyRing
    from runpod_flash.control.releases import AppEnv
    from runpod_flash.spec import EndpointSpec

TARGET, TOKEN = "FLASH_TARGET", "FLASH_API_KEY"


class AppTokens:
    """`Identities` of a server's workers. They reach it at `address`.

    `deployed` gives the environment that an app's text stands for, if it is a deployed one.
    """

    def __init__(
        self, ring: KeyRing, address: str, deployed: Callable[[str], AppEnv | None]
    ) -> None:
        self._ring = ring
        self._address = address
        self._deployed = deployed
        self._hashes: dict[str, bytes] = {}

    def variables(
        self, worker_id: str, spec: EndpointSpec, env: Mapping[str, str]
    ) -> Mapping[str, str]:
        """What a new worker has in its environment.

        One whose endpoint names a server of its own gets no token, for that would go there.
        """
        place = self._deployed(spec.app)
        if place is None:
            return {}
        names = {"FLASH_APP": place.app, "FLASH_ENV": place.environment}
        if TARGET in env or TOKEN in env:
            return names
        return {**names, TARGET: self._address, TOKEN: self._issue(worker_id, spec.app)}

    def ended(self, worker_id: str) -> None:
        """The worker is gone."""
        self._ring.take_back(self._hashes.pop(worker_id, b""))

    def _issue(self, worker_id: str, app: str) -> str:
        self.ended(worker_id)
        secret = new_secret()
        # (As its link: what it sends to its own app's workers may be pickles.)
        key = Key(new_id(), worker_id, "deploy", (), ending_of(secret), self._ring.clock(), app=app)
        self._hashes[worker_id] = hashed = digest(secret.encode())
        self._ring.lend(key, hashed)
        return secret
