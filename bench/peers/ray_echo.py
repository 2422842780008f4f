"""Ray Serve: `python ray_echo.py PORT`."""

from __future__ import annotations

import signal
import sys
from typing import Any

import ray
from ray import serve


@serve.deployment(num_replicas=1, max_ongoing_requests=32)
class Echo:
    async def __call__(self, request: Any) -> Any:
        return {"output": (await request.json())["input"]["value"]}


ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, _node_ip_address="127.0.0.1")
serve.start(http_options={"host": "127.0.0.1", "port": int(sys.argv[1])})
serve.run(Echo.bind())
try:
    signal.pause()
except KeyboardInterrupt:
    serve.shutdown()
    ray.shutdown()
