"""How soon does a new worker of `flash dev` answer: a fresh process beside a fork of a zygote?

    scripts/bench worker_start

Two `flash dev` take turns; in one of them every worker is a fresh process. A round kills the worker
and times the next request.
"""

from __future__ import annotations

import json
import os
import signal
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

from dev_server import dev
from harness import Result
from servers import ask
from workers import FRESH

APP = """
import os
from runpod_flash import Endpoint

api = Endpoint(name="api", cpu="cpu3c-1-2", workers=(0, 1))

@api.get("/pid")
async def pid():
    return os.getpid()

@Endpoint(name="work", cpu="cpu3c-1-2", workers=(0, 1))
async def work():
    return os.getpid()
"""
ROUNDS = 15


def route(address: str) -> int:
    return int(ask(f"{address}/app/pid"))


def function(address: str) -> int:
    return int(json.loads(ask(f"{address}/app/work/runsync", {"input": {}}))["output"])


def main() -> None:
    result = Result(__file__, str(__doc__))
    with ExitStack() as stack:
        root = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        (root / "app.py").write_text(APP)
        fresh, _ = stack.enter_context(dev(root, FRESH))
        forking, _ = stack.enter_context(dev(root))
        for name, pid_of in (("a function", function), ("a route", route)):
            pids = {"fresh process": pid_of(fresh), "fork of a zygote": pid_of(forking)}
            time.sleep(3)
            rounds: dict[str, list[float]] = {peer: [] for peer in pids}
            for _ in range(ROUNDS):
                for peer, address in (("fresh process", fresh), ("fork of a zygote", forking)):
                    os.kill(pids[peer], signal.SIGKILL)
                    time.sleep(0.2)
                    began = time.monotonic()
                    pids[peer] = pid_of(address)
                    rounds[peer].append(1000 * (time.monotonic() - began))
            result.compare(f"A new worker's first answer, {name}", "ms", rounds, "fresh process")
    result.save()


if __name__ == "__main__":
    main()
