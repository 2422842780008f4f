"""The usage patterns that need a server (reference, section 9), under `flash dev`."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import httpx
import pytest

from e2e.dev_server import dev

if TYPE_CHECKING:
    from pathlib import Path

CPU_WORKER = """
    from runpod_flash import Endpoint

    @Endpoint(name="prepare", cpu="cpu3c-1-2")
    async def prepare(input_data: dict) -> dict:
        return {"text": input_data["text"].strip()}
"""
GPU_WORKER = """
    from runpod_flash import Endpoint, GpuType

    @Endpoint(name="infer", gpu=GpuType.NVIDIA_GEFORCE_RTX_4090)
    async def infer(input_data: dict) -> dict:
        return {"label": input_data["text"].upper()}
"""
MIXED = """
    from runpod_flash import Endpoint, GpuGroup

    @Endpoint(name="on-gpu", gpu=GpuGroup.ANY)
    async def on_gpu(x: int) -> dict:
        return {"gpu": x}

    @Endpoint(name="on-cpu", cpu="cpu3c-1-2")
    async def on_cpu(x: int) -> dict:
        return {"cpu": x}
"""
SERVICE = """
    from runpod_flash import Endpoint

    api = Endpoint(name="service", cpu="cpu3c-1-2", workers=(0, 3))

    @api.get("/health")
    async def health() -> dict:
        return {"status": "ok"}

    @api.post("/compute")
    async def compute(numbers: list[float], operation: str = "sum") -> dict:
        return {operation: sum(numbers)}

    @api.get("/images/{file_name}")
    async def image(file_name: str) -> dict:
        return {"file": file_name}

    @api.post("/classify")
    async def classify(text: str) -> dict:
        from cpu_worker import prepare
        from gpu_worker import infer
        return await infer(await prepare({"text": text}))
"""


FILES = {
    "cpu_worker.py": CPU_WORKER,
    "gpu_worker.py": GPU_WORKER,
    "mixed.py": MIXED,
    "service.py": SERVICE,
    "01_getting_started/03_mixed_workers/gpu-worker.py": GPU_WORKER.replace("infer", "deep"),
}


def test_files_routes_and_pipelines_are_served_as_the_documents_say(tmp_path: Path) -> None:
    """Patterns 6, 7, 8, 23 and 24."""
    with dev(tmp_path, FILES) as server:
        check_files_routes_and_pipelines(server.address)


def check_files_routes_and_pipelines(base: str) -> None:
    """What is below the address does what the patterns want."""
    http = httpx.Client(timeout=60)

    def ask(path: str, **given: object) -> object:
        return http.post(f"{base}{path}/runsync", json={"input": given}).json()["output"]

    assert ask("/mixed/on_gpu", x=1) == {"gpu": 1}
    assert ask("/mixed/on_cpu", x=2) == {"cpu": 2}
    assert ask("/cpu_worker", input_data={"text": " a "}) == {"text": "a"}
    assert ask("/cpu_worker", text=" b ") == {"text": "b"}
    deep = "/01_getting_started/03_mixed_workers/gpu-worker"
    assert ask(deep, input_data={"text": "c"}) == {"label": "C"}
    assert http.get(f"{base}/service/health").json() == {"status": "ok"}
    numbers = {"numbers": [1, 2.5]}
    assert http.post(f"{base}/service/compute", json=numbers).json() == {"sum": 3.5}
    assert http.get(f"{base}/service/images/a.png").json() == {"file": "a.png"}
    assert http.post(f"{base}/service/classify", json={"text": " d "}).json() == {"label": "D"}
    http.close()


PROGRAM = """
    import asyncio
    from runpod_flash import Endpoint
    from cpu_worker import prepare

    async def main():
        assert await prepare({"text": " x "}) == {"text": "x"}  # pattern 22
        ep = Endpoint(id="prepare")  # pattern 21
        job = await ep.run({"input_data": {"text": " y "}})
        await job.status()
        await job.wait(timeout=60)
        assert job.output == {"text": "y"}, job
        done = await ep.runsync({"input_data": {"text": " z "}})
        assert done.output == {"text": "z"}
        slow = await Endpoint(id="slow").run({})
        cancelled = await Endpoint(id="slow").cancel(slow.id)
        assert cancelled.done
        print("all right")

    asyncio.run(main())
"""


SLOW = """
    import asyncio
    from runpod_flash import Endpoint

    @Endpoint(name="slow", cpu="cpu3c-1-2")
    async def slow():
        await asyncio.sleep(60)
"""


def test_programs_call_what_is_served_by_import_and_by_id(tmp_path: Path) -> None:
    """Patterns 21 and 22."""
    files = {"cpu_worker.py": CPU_WORKER, "slow.py": SLOW, "program.py": PROGRAM}
    with dev(tmp_path, files) as server:
        server.wait_for("ready in")
        done = subprocess.run(
            [sys.executable, "program.py"],
            cwd=tmp_path,
            env={**os.environ, "FLASH_TARGET": server.address, "FLASH_APP": "other"},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert (done.returncode, done.stdout) == (0, "all right\n"), done


CLIENT = """
import runpod, sys, time
runpod.api_key = "none"
endpoint = runpod.Endpoint("prepare")
assert endpoint.run_sync({"input_data": {"text": " a "}}, timeout=60) == {"text": "a"}
job = endpoint.run({"input": {"input_data": {"text": " b "}}})
assert job.output(timeout=60) == {"text": "b"}
assert endpoint.health()["jobs"]["completed"] >= 2
chunks = list(runpod.Endpoint("count").run({"n": 3}).stream())
assert chunks == [0, 1, 2], chunks
print("all right")
"""


@pytest.mark.network
@pytest.mark.slow
def test_the_unmodified_runpod_client_works_against_it(tmp_path: Path) -> None:
    count = """
        from runpod_flash import Endpoint

        @Endpoint(name="count", cpu="cpu3c-1-2")
        def count(n: int):
            yield from range(n)
    """
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "venv"], check=True)
    python = tmp_path / "venv" / "bin" / "python"
    subprocess.run([python, "-m", "pip", "install", "-q", "runpod==1.12.0"], check=True)
    project = tmp_path / "project"
    project.mkdir()
    with dev(project, {"cpu_worker.py": CPU_WORKER, "count.py": count}) as server:
        server.wait_for("ready in")
        done = subprocess.run(
            [python, "-c", CLIENT],
            env={**os.environ, "RUNPOD_ENDPOINT_BASE_URL": f"{server.address}/v2"},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert (done.returncode, done.stdout) == (0, "all right\n"), done
