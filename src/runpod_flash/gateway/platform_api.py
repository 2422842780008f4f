"""/v2/platform: what packages have to fit that workers of this server get."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

from runpod_flash.gateway.access import require
from runpod_flash.gateway.messages import Answer, answer
from runpod_flash.gateway.problems import problem
from runpod_flash.gateway.resources import allow

if TYPE_CHECKING:
    from collections.abc import Sequence

    from runpod_flash.gateway.messages import Receive, Scope
    from runpod_flash.plane.plane import Plane


class PlatformApi:
    """A `Resource`."""

    def __init__(self, plane: Plane) -> None:
        self._plane = plane

    async def answer(self, rest: Sequence[str], scope: Scope, receive: Receive) -> Answer:
        if [each for each in rest if each]:
            raise problem(404, f"nothing is at {scope['path']}; /v2/platform is all there is")
        allow(scope, "GET")
        require(scope, "deploy")
        return answer(200, asdict(self._plane.engine.platform()))
