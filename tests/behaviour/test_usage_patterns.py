"""The usage patterns of the hosted SDK's documents (reference, section 9), each as a program.

Those that need a server run under `flash dev`: tests/e2e/test_usage_patterns_served.py. All run
deployed: tests/slow/test_usage_patterns_deployed.py.
"""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from behaviour.programs import Programs

HEAD = """
from runpod_flash import (
    CpuInstanceType, CudaVersion, DataCenter, GpuGroup, GpuType, NetworkVolume, PodTemplate,
    ServerlessScalerType,
)
os.environ["HF_TOKEN"] = "secret"

def say(**found):
    print(json.dumps(found))
"""

PATTERNS = {
    "1 GPU hello": """
        @Endpoint(name="x", gpu=GpuType.NVIDIA_GEFORCE_RTX_4090)
        async def f(input_data: dict) -> dict:
            return {"got": input_data}

        if __name__ == "__main__":
            say(ok=asyncio.run(f({"a": 1})) == {"got": {"a": 1}})
    """,
    "2 CPU by enum or string": """
        @Endpoint(name="by-enum", cpu=CpuInstanceType.CPU3C_1_2)
        async def by_enum(x: int) -> dict:
            return {"x": x}

        @Endpoint(name="by-name", cpu="cpu5c-4-8")
        async def by_name(x: int) -> dict:
            return {"x": x}

        async def main():
            return [await by_enum(1), await by_name(2)]

        if __name__ == "__main__":
            say(ok=asyncio.run(main()) == [{"x": 1}, {"x": 2}])
    """,
    "3 group, list, any": """
        @Endpoint(name="group", gpu=GpuGroup.ADA_24)
        async def group() -> dict:
            return {"kind": "group"}

        @Endpoint(name="list", gpu=[GpuType.NVIDIA_A100_80GB_PCIe, GpuType.NVIDIA_RTX_A6000])
        async def listed() -> dict:
            return {"kind": "list"}

        @Endpoint(name="any", gpu=GpuGroup.ANY)
        async def any_gpu() -> dict:
            return {"kind": "any"}

        async def main():
            return [(await f())["kind"] for f in (group, listed, any_gpu)]

        if __name__ == "__main__":
            say(ok=asyncio.run(main()) == ["group", "list", "any"])
    """,
    "4 no name, plain def": """
        @Endpoint(gpu=GpuGroup.ANY)
        def plain(x: int) -> int:
            return x + 1

        async def main():
            return await plain(1), plain.__remote_config__["resource_config"].name

        if __name__ == "__main__":
            say(ok=asyncio.run(main()) == (2, "plain"))
    """,
    "5 system dependencies": """
        @Endpoint(name="tools", cpu=CPU, system_dependencies=["bash"])
        async def tools() -> str:
            import subprocess
            return subprocess.run(["bash", "-c", "echo hi"], capture_output=True, text=True).stdout

        if __name__ == "__main__":
            say(ok=asyncio.run(tools()) == "hi\\n")
    """,
    "9 routes called directly": """
        api = Endpoint(name="direct", cpu=CPU)

        @api.get("/health")
        async def health() -> dict:
            return {"pid": os.getpid()}

        if __name__ == "__main__":
            say(ok=asyncio.run(health())["pid"] == os.getpid())
    """,
    "10 class worker": """
        @Endpoint(name="model", cpu=CPU, volume=NetworkVolume(name="models", size=50),
                  env={"HF_HUB_CACHE": "/runpod-volume/hf"})
        class Model:
            def __init__(self):
                self.loaded = os.environ["HF_HUB_CACHE"]

            async def generate(self, prompt: str) -> dict:
                return {"text": prompt.upper(), "cache": self.loaded}

        if __name__ == "__main__":
            found = asyncio.run(Model().generate("hi"))
            say(ok=found == {"text": "HI", "cache": "/runpod-volume/hf"})
    """,
    "11 a volume shared by two endpoints": """
        shared = NetworkVolume(name="shared", size=50, datacenter=DataCenter.EU_RO_1)

        @Endpoint(name="writer", cpu=CPU, volume=shared)
        async def write(text: str):
            place = os.environ["FLASH_VOLUME_PATH"]
            open(os.path.join(place, "note"), "w").write(text)

        @Endpoint(name="reader", cpu=CPU, volume=[shared])
        async def read() -> str:
            return open(os.path.join(os.environ["FLASH_VOLUME_PATH"], "note")).read()

        async def main():
            await write("kept")
            return await read()

        if __name__ == "__main__":
            say(ok=asyncio.run(main()) == "kept")
    """,
    "12 data centers": """
        @Endpoint(name="one", gpu=GpuGroup.ANY, datacenter=DataCenter.US_GA_2)
        async def one() -> int:
            return 1

        @Endpoint(name="either", gpu=GpuGroup.ANY, datacenter=[DataCenter.EU_RO_1, "US-GA-2"])
        async def many() -> int:
            return 2

        async def main():
            return await one() + await many()

        if __name__ == "__main__":
            say(ok=asyncio.run(main()) == 3)
    """,
    "13 scaling": """
        @Endpoint(name="s1", cpu=CPU, workers=5, idle_timeout=1)
        async def s1() -> int:
            return 1

        @Endpoint(name="s2", cpu=CPU, workers=(1, 10), idle_timeout=3600,
                  scaler_type=ServerlessScalerType.REQUEST_COUNT, scaler_value=3)
        async def s2() -> int:
            return 2

        async def main():
            return await s1() + await s2()

        if __name__ == "__main__":
            say(ok=asyncio.run(main()) == 3)
    """,
    "14 environment": """
        @Endpoint(name="token", cpu=CPU, env={"HF_TOKEN": os.environ["HF_TOKEN"]})
        async def token() -> str:
            return os.environ["HF_TOKEN"]

        if __name__ == "__main__":
            say(ok=asyncio.run(token()) == "secret")
    """,
    "15 several GPUs, time limit, boot flag": """
        @Endpoint(name="big", gpu=GpuGroup.ANY, gpu_count=4, execution_timeout_ms=300000,
                  flashboot=False)
        async def big() -> int:
            return 4

        if __name__ == "__main__":
            say(ok=asyncio.run(big()) == 4)
    """,
    "16 template": """
        @Endpoint(name="disk", cpu=CPU, template=PodTemplate(
            containerDiskInGb=10, env=[{"key": "K", "value": "V"}]))
        async def disk() -> str:
            return os.environ["K"]

        if __name__ == "__main__":
            say(ok=asyncio.run(disk()) == "V")
    """,
    "17 CUDA version": """
        @Endpoint(name="old", gpu=GpuGroup.ANY, min_cuda_version="12.4")
        async def old() -> int:
            return 1

        @Endpoint(name="older", gpu=GpuGroup.ANY, min_cuda_version=CudaVersion.V12_0)
        async def older() -> int:
            return 2

        async def main():
            return await old() + await older()

        if __name__ == "__main__":
            say(ok=asyncio.run(main()) == 3)
    """,
    "18 concurrency": """
        @Endpoint(name="many", cpu=CPU, max_concurrency=10)
        async def many(n: int) -> int:
            await asyncio.sleep(0.3)
            return os.getpid()

        async def main():
            began = time.monotonic()
            await many(0)
            began = time.monotonic()
            pids = await asyncio.gather(*[many(i) for i in range(10)])
            return len(set(pids)) == 1 and time.monotonic() - began < 2.5

        if __name__ == "__main__":
            say(ok=asyncio.run(main()))
    """,
    "19 fan-out": """
        @Endpoint(name="f", cpu=CPU, workers=2)
        async def f(x: int) -> int:
            return x * x

        async def main():
            return await asyncio.gather(f(2), f(3))

        if __name__ == "__main__":
            say(ok=asyncio.run(main()) == [4, 9])
    """,
    "20 external image, which cannot be had here and says so": """
        vllm = Endpoint(name="v", image="localhost:1/vllm-openai:latest", cpu=CPU)

        async def main():
            try:
                await vllm.post("/v1/completions", {"prompt": "hi"})
            except Exception as error:
                answer = getattr(error, "response", None)
                text = str(error) if answer is None else answer.text
                return "container engine" in text or "localhost:1/vllm" in text

        if __name__ == "__main__":
            say(ok=asyncio.run(main()))
    """,
    "25 legacy": """
        import warnings
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            from runpod_flash import LiveServerless, remote

            @remote(resource_config=LiveServerless(name="w", gpus=[GpuGroup.ANY]), dependencies=[])
            async def legacy(x: int) -> int:
                return x + 1

        if __name__ == "__main__":
            say(ok=asyncio.run(legacy(1)) == 2)
    """,
}


def source_of(pattern: str) -> str:
    """The pattern as a script, after the prelude that all programs have."""
    return HEAD + textwrap.dedent(PATTERNS[pattern])


@pytest.mark.parametrize("pattern", PATTERNS)
def test_the_pattern_runs(programs: Programs, pattern: str) -> None:
    assert programs.run(source_of(pattern)).result == {"ok": True}


@pytest.mark.network
def test_dependencies_pinned_and_not(programs: Programs) -> None:
    """Pattern 5."""
    done = programs.run(
        HEAD
        + """
@Endpoint(name="deps", cpu=CPU, dependencies=["idna>=3", "six==1.17.0"])
async def deps() -> str:
    import idna, six
    return six.__version__

if __name__ == "__main__":
    say(ok=asyncio.run(deps()) == "1.17.0")
"""
    )
    assert done.result == {"ok": True}
