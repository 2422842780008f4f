"""Where people and programs log in: /oauth, loaded by the first of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from runpod_flash.control.keys import Keys
    from runpod_flash.gateway.messages import Answer, Receive, Scope
    from runpod_flash.gateway.oauth.app import Login

METADATA = "/.well-known/oauth-authorization-server"


class LoginPages:
    def __init__(self, keys: Keys) -> None:
        self._keys = keys
        self._login: Login | None = None

    def owns(self, path: str) -> bool:
        """Whether the path is one of these."""
        return path.startswith("/oauth/") or path == METADATA

    async def answer(self, scope: Scope, receive: Receive) -> Answer:
        """The answer to a request for a path that it owns."""
        if self._login is None:
            from runpod_flash.gateway.oauth.app import Login  # (oauthlib: most never log in)

            self._login = Login(self._keys)
        return await self._login.answer(scope, receive)
