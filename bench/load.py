"""`wrk` as the client of a benchmark: the same request, again and again, from some connections."""

from __future__ import annotations

import json
import subprocess
import tempfile
from typing import NamedTuple

from harness import need

_SCRIPT = """
function done(summary, latency, requests)
    local failed = summary.errors
    io.write(string.format("\\nfigures %f %f %f %d\\n",
        latency:percentile(50) / 1000, latency:percentile(99) / 1000,
        1e6 * summary.requests / summary.duration,
        failed.status + failed.connect + failed.read + failed.write + failed.timeout))
end
"""
_POST = """
wrk.method = "POST"
wrk.headers["Content-Type"] = "application/json"
wrk.body = %s
"""


class Load(NamedTuple):
    """The median and the 99th percentile of round trips in milliseconds, and requests a second."""

    p50: float
    p99: float
    rate: float


def load(url: str, connections: int, seconds: int, value: object = None) -> Load:
    """Ask for so long; a value is sent as JSON in a POST.

    Raises `RuntimeError` if a request was not answered with success.
    """
    need("wrk")
    with tempfile.NamedTemporaryFile("w", suffix=".lua") as script:
        script.write(_SCRIPT if value is None else _SCRIPT + _POST % json.dumps(json.dumps(value)))
        script.flush()
        command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", f"-s{script.name}", url]
        text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    *figures, failed = text.rpartition("figures ")[2].split()
    if failed != "0":
        raise RuntimeError(f"{failed} requests to {url} failed:\n{text}")
    return Load(*map(float, figures))
