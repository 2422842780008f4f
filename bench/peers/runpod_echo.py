"""The `runpod` package's local API server: `python runpod_echo.py --rp_serve_api ...`."""

from __future__ import annotations

from typing import Any

import runpod


async def handler(job: Any) -> Any:
    return job["input"]["value"]


runpod.serverless.start({"handler": handler})
