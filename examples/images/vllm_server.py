"""vLLM's official image, with its OpenAI-compatible routes, on one GPU.

    python examples/images/vllm_server.py        # runs it here: needs Docker or Podman, and a GPU
    flash deploy                          # serves it, and prints OPENAI_BASE_URL

The model is fetched once, to the volume. Loading it takes minutes; its lines are shown meanwhile.
"""

import asyncio

from runpod_flash import Endpoint, GpuGroup, NetworkVolume, PodTemplate

MODEL = "Qwen/Qwen3-8B"

vllm = Endpoint(
    name="vllm",
    image="vllm/vllm-openai:latest",  # port 8000, ready by /health: both are known
    gpu=[GpuGroup.ADA_24, GpuGroup.AMPERE_48],
    workers=(0, 2),
    idle_timeout=600,
    max_concurrency=32,  # jobs of its queue; requests of its routes have no limit
    volume=NetworkVolume(name="models", size=100),
    template=PodTemplate(dockerArgs=f"--model {MODEL} --max-model-len 8192"),
)


async def main() -> None:
    print([model["id"] for model in (await vllm.get("/v1/models"))["data"]])
    asked = {"model": MODEL, "messages": [{"role": "user", "content": "Say hello."}]}
    answer = await vllm.post("/v1/chat/completions", asked)
    print(answer["choices"][0]["message"]["content"])
    async for line in vllm.post("/v1/chat/completions", {**asked, "stream": True}):
        print(line)


if __name__ == "__main__":
    asyncio.run(main())
