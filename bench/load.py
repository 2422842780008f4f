"""`wrk` as the client of a benchmark: the same POST, again and again, from some connections."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import NamedTuple

_SCRIPT = """
wrk.method = "POST"
wrk.headers["Content-Type"] = "application/json"
wrk.body = %s
function done(summary, latency, requests)
    local failed = summary.errors
    io.write(string.format("\\nfigures %%f %%f %%f %%d\\n",
        latency:percentile(50) / 1000, latency:percentile(99) / 1000,
        1e6 * summary.requests / summary.duration,
        failed.status + failed.connect + failed.read + failed.write + failed.timeout))
end
"""


class Load(NamedTuple):
    """The median and the 99th percentile of round trips in milliseconds, and requests a second."""

    p50: float
    p99: float
    rate: float


def post(url: str, value: object, connections: int, seconds: int, folder: Path) -> Load:
    """Raises `RuntimeError` if a request was not answered with success."""
    script = Path(folder, "post.lua")
    script.write_text(_SCRIPT % json.dumps(json.dumps(value)))
    command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", f"-s{script}", url]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    *figures, failed = text.rpartition("figures ")[2].split()
    if failed != "0":
        raise RuntimeError(f"{failed} requests to {url} failed:\n{text}")
    return Load(*map(float, figures))
