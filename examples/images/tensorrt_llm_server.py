"""TensorRT-LLM's image from NVIDIA's registry, over two GPUs.

The registry wants an account: `docker login nvcr.io`, or NGC="$oauthtoken:KEY" as a variable.
"""

import asyncio
import os

from runpod_flash import Endpoint, GpuType, NetworkVolume, PodTemplate

MODEL = "nvidia/Llama-3.1-8B-Instruct-FP8"

trtllm = Endpoint(
    name="trtllm",
    image="nvcr.io/nvidia/tensorrt-llm/release:1.0.0",
    gpu=GpuType.NVIDIA_H100_80GB_HBM3,
    gpu_count=2,
    workers=(0, 1),
    idle_timeout=900,
    volume=NetworkVolume(name="models", size=200),
    env={"NGC": os.environ.get("NGC", ""), "HF_TOKEN": os.environ.get("HF_TOKEN", "")},
    template=PodTemplate(
        dockerArgs=f"trtllm-serve {MODEL} --host 0.0.0.0 --port 8000 --tp_size 2",
        ports="8000/http",
        containerRegistryAuthId="NGC" if "NGC" in os.environ else "",
        config={
            "health": "/health",
            "start_seconds": 1800,  # the engine is built first
            "shm_gb": 16,
            "allow": ["writable-root", "CAP_IPC_LOCK"],
        },
    ),
)


async def main() -> None:
    asked = {"model": MODEL, "prompt": "The capital of France is", "max_tokens": 8}
    print((await trtllm.post("/v1/completions", asked))["choices"][0]["text"])


if __name__ == "__main__":
    asyncio.run(main())
