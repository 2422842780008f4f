"""GPUs of a server: what it does not have is refused, and who waits is told who holds it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from integration.served import serve
from runpod_flash.engines.local.devices.gpus import Gpu

if TYPE_CHECKING:
    from pathlib import Path

    from integration.served import Served

L4 = Gpu(0, "GPU-made-up-0", "NVIDIA L4", 24_000_000_000, 0, "12.8")

FILES = {
    "app.py": """
        import time
        from runpod_flash import Endpoint, GpuType

        @Endpoint(name="big", gpu=GpuType.NVIDIA_A100_80GB_PCIe)
        def big():
            return "ran"

        @Endpoint(name="first", gpu=GpuType.NVIDIA_L4)
        def first():
            time.sleep(60)

        @Endpoint(name="second", gpu=GpuType.NVIDIA_L4)
        def second():
            return "had its turn"
    """
}


async def status(served: Served, name: str, job: str) -> dict[str, Any]:
    found: dict[str, Any] = (await served.get(f"/v2/{name}/status/{job}")).json()
    return found


async def until(served: Served, name: str, job: str, key: str, value: str) -> dict[str, Any]:
    while True:
        found = await status(served, name, job)
        if value in str(found.get(key)):
            return found
        await asyncio.sleep(0.02)


def test_a_gpu_that_no_node_has_is_refused_at_once_with_what_there_is(tmp_path: Path) -> None:
    async def scenario(served: Served) -> None:
        found = (await served.post("/v2/big/runsync", {"input": {}})).json()
        assert found["status"] == "FAILED"
        assert "NVIDIA A100 80GB PCIe" in found["error"]
        assert "this server has 1 x NVIDIA L4" in found["error"]

    serve(tmp_path, FILES, scenario, gpus=[L4], fallback="none")


def test_a_server_may_be_told_to_run_on_the_cpu_instead(tmp_path: Path) -> None:
    async def scenario(served: Served) -> None:
        found = (await served.post("/v2/big/runsync", {"input": {}})).json()
        assert found["output"] == "ran"

    serve(tmp_path, FILES, scenario, gpus=[L4])


def test_a_job_that_waits_for_a_gpu_names_the_holders_in_its_status(tmp_path: Path) -> None:
    async def scenario(served: Served) -> None:
        busy = (await served.post("/v2/first/run", {"input": {}})).json()["id"]
        await until(served, "first", busy, "status", "IN_PROGRESS")
        waiting = (await served.post("/v2/second/run", {"input": {}})).json()["id"]
        told = await until(served, "second", waiting, "waitsFor", "held by first-")
        assert told["status"] == "IN_QUEUE"
        assert "NVIDIA L4" in told["waitsFor"]
        await served.post(f"/v2/first/cancel/{busy}")
        await until(served, "second", waiting, "output", "had its turn")

    serve(tmp_path, FILES, scenario, gpus=[L4], fallback="none")
