"""Unmodified workers of RunPod's package, as processes that work for a test's server."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import textwrap
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any

from integration.foreign import QUICK_ANSWERS, RUNPOD, python_with
from integration.served import KEY
from runpod_flash.links.runpod_variables import runpod_variables

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping
    from pathlib import Path

    from integration.served import Served

OWNER = {"authorization": f"Bearer {KEY}"}
# Heartbeats come each second, and requests are held so long, that tests need not wait.
INTERVAL_MS, HOLD_MS = 1000, 3000
_PATIENCE_SECONDS = 60.0


async def register(served: Served, endpoint: str = "ext", *, external: bool = True) -> Any:
    """A new worker's `id` and `token`."""
    path = f"/v2/serverless/{endpoint}/workers"
    answer = await served.post(path, {"external": external}, headers=OWNER)
    assert answer.status_code == 201, answer.text
    return answer.json()


def variables(address: str, registered: Mapping[str, str]) -> dict[str, str]:
    found = runpod_variables(
        address, registered["endpoint"], registered["id"], registered["token"],
        interval_ms=INTERVAL_MS,
    )  # fmt: skip
    return {k: f"{v}&wait={HOLD_MS}" if "WEBHOOK" in k else v for k, v in found.items()}


class RunPodWorker:
    """A process that runs `runpod.serverless.start`; all that it starts ends with the test."""

    def __init__(self, root: Path, code: str, env: Mapping[str, str]) -> None:
        self.id = env["RUNPOD_POD_ID"]
        script = root / f"{self.id}.py"
        script.write_text(textwrap.dedent(code))
        self._log = root / f"{self.id}.log"
        with self._log.open("ab") as log:
            self.process = subprocess.Popen(
                [python_with(RUNPOD), script],
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                env={"PATH": os.environ["PATH"], "HOME": str(root), **QUICK_ANSWERS, **env},
                start_new_session=True,
            )

    @property
    def log(self) -> str:
        return self._log.read_text(errors="replace")

    def send(self, number: signal.Signals) -> None:
        """To the worker itself; its helper, which sends the heartbeats, goes on."""
        self.process.send_signal(number)

    async def exit_code(self) -> int:
        while self.process.poll() is None:
            await asyncio.sleep(0.05)
        return self.process.returncode

    def close(self) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


@asynccontextmanager
async def runpod_worker(
    served: Served, code: str, endpoint: str = "ext", address: str = "", count: int = 1
) -> AsyncIterator[RunPodWorker]:
    """A worker that is attached to the endpoint, next to `count` - 1 others."""
    registered = await register(served, endpoint)
    env = variables(address or served.address, registered)
    worker = RunPodWorker(served.root, code, env)
    try:
        await until(lambda: polling(served, endpoint), count)
        yield worker
    finally:
        worker.close()


def polling(served: Served, endpoint: str = "ext") -> int:
    """How many of the endpoint's workers wait for a job."""
    pools = [pool for pool in served.gateway.pools() if pool.spec.name == endpoint]
    return sum(bool(w.offered) for pool in pools for w in pool.workers.values())


async def until(found: Any, wanted: Any) -> None:
    """Wait until `found()` is what is wanted."""
    loop = asyncio.get_running_loop()
    end = loop.time() + _PATIENCE_SECONDS
    while (got := found()) != wanted:
        assert loop.time() < end, f"{got!r} did not become {wanted!r}"
        await asyncio.sleep(0.02)


async def run(served: Served, endpoint: str = "ext", /, **input_: Any) -> str:
    """The id of a new job."""
    answer = await served.post(f"/v2/{endpoint}/run", {"input": input_})
    assert answer.status_code == 200, answer.text
    return str(answer.json()["id"])


async def status(served: Served, job_id: str, endpoint: str = "ext") -> Any:
    return (await served.get(f"/v2/{endpoint}/status/{job_id}")).json()


async def end(served: Served, job_id: str, endpoint: str = "ext") -> Any:
    """The job object once the job has ended."""
    loop = asyncio.get_running_loop()
    limit = loop.time() + _PATIENCE_SECONDS
    while True:
        found = await status(served, job_id, endpoint)
        if found["status"] not in ("IN_QUEUE", "IN_PROGRESS"):
            return found
        assert loop.time() < limit, found
        await asyncio.sleep(0.05)


async def call(served: Served, endpoint: str = "ext", /, **input_: Any) -> Any:
    """The job object of a job that was waited for."""
    return await end(served, await run(served, endpoint, **input_), endpoint)
