"""BentoML: `bentoml serve bentoml_echo:Echo`."""

from __future__ import annotations

from typing import Any

import bentoml


@bentoml.service(workers=1, logging={"access": {"enabled": False}})
class Echo:
    @bentoml.api
    async def echo(self, input: dict[str, Any]) -> dict[str, Any]:
        return {"output": input["value"]}
