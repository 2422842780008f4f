"""/v2/account: whose key a request has."""

from __future__ import annotations

from typing import TYPE_CHECKING

import runpod_flash
from runpod_flash.gateway.access import identity_of, require
from runpod_flash.gateway.keys_api import shown
from runpod_flash.gateway.messages import Answer, answer
from runpod_flash.gateway.problems import problem
from runpod_flash.gateway.resources import allow

if TYPE_CHECKING:
    from collections.abc import Sequence

    from runpod_flash.control.keys import Keys
    from runpod_flash.gateway.messages import Receive, Scope


class AccountApi:
    """A `Resource`."""

    def __init__(self, keys: Keys) -> None:
        self._keys = keys

    async def answer(self, rest: Sequence[str], scope: Scope, receive: Receive) -> Answer:
        if [each for each in rest if each]:
            raise problem(404, f"nothing is at {scope['path']}; /v2/account says whose key it is")
        allow(scope, "GET")
        require(scope, "invoke")
        key = identity_of(scope).key
        assert key is not None
        return answer(200, {"key": shown(self._keys, key), "version": runpod_flash.__version__})
