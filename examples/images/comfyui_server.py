"""ComfyUI: its own server with its page and WebSocket, and RunPod's queue worker for it."""

import asyncio

from runpod_flash import Endpoint, GpuGroup, NetworkVolume, PodTemplate

MODELS = NetworkVolume(name="comfyui", size=100)

# The page, /prompt, /history and /ws are below the endpoint's address.
comfyui = Endpoint(
    name="comfyui",
    image="yanwk/comfyui-boot:cu128-slim",
    gpu=GpuGroup.ADA_24,
    workers=(0, 1),
    idle_timeout=600,
    volume=MODELS,
    template=PodTemplate(
        ports="8188/http",
        config={"health": "/system_stats", "allow": ["writable-root"]},
    ),
)

# A workflow is a job's input: {"workflow": {...}}.
comfyui_worker = Endpoint(
    name="comfyui-worker",
    image="runpod/worker-comfyui:5.5.0-sdxl",
    gpu=GpuGroup.ADA_24,
    workers=(0, 3),
    volume=MODELS,
    template=PodTemplate(config={"allow": ["writable-root"]}),
)


async def main() -> None:
    stats = await comfyui.get("/system_stats")
    print(stats["system"]["comfyui_version"])


if __name__ == "__main__":
    asyncio.run(main())
