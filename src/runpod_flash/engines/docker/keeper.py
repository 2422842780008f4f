"""A process that outlives its plane for a moment: it removes the containers that are left.

    python -m runpod_flash.engines.docker.keeper ADDRESS PLANE CACHE

Its standard input ends with the plane, however that ended. Until then it does nothing, and has
imported nothing.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

# An engine that has gone as well may come back.
_PATIENCE_SECONDS = 600.0
_PAUSE_SECONDS = 0.5


def start_keeper(address: str, plane: str, cache: Path) -> subprocess.Popen[bytes]:
    """Start the keeper of a plane; it goes when its standard input is closed."""
    command = [sys.executable, "-m", __name__, address, plane, str(cache)]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    return subprocess.Popen(command, stdin=subprocess.PIPE, env=env, start_new_session=True)


def main(address: str, plane: str, cache: str) -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    sys.stdin.buffer.read()
    from runpod_flash.engines.docker.connection import connect
    from runpod_flash.engines.docker.marks import Marks
    from runpod_flash.engines.docker.sweeping import has_ended, remove_all

    until = time.monotonic() + _PATIENCE_SECONDS
    while time.monotonic() < until:
        with suppress(Exception):
            remove_all(connect(address), plane)
            has_ended(plane)
            Marks(Path(cache)).remove(plane)
            return
        time.sleep(_PAUSE_SECONDS)


if __name__ == "__main__":
    main(*sys.argv[1:])
