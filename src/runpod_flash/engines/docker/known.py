"""Images of which it is known what they serve, where, and what they need."""

from __future__ import annotations

from typing import NamedTuple


class Known(NamedTuple):
    """A known image: the `port` and `health` path of its HTTP server, or that it has a queue.

    `allow` names what it cannot do without; `openai` says that it has OpenAI's API below /v1.
    """

    port: int = 0
    health: str = ""
    has_queue: bool = False
    allow: tuple[str, ...] = ()
    openai: bool = False


_QUEUE = Known(has_queue=True)
_VLLM = Known(8000, "/health", openai=True)
_COMFY = Known(8188, "/system_stats", allow=("writable-root",))

# By the repository, without registry and tag; the longest that the image's begins with counts.
_IMAGES = {
    "vllm/vllm-openai": _VLLM,
    "nvcr.io/nvidia/tensorrt-llm/release": Known(8000, "/health", openai=True),
    "nvcr.io/nvidia/tritonserver": Known(8000, "/v2/health/ready"),
    "nvcr.io/nim/": Known(8000, "/v1/health/ready", allow=("writable-root",), openai=True),
    "lmsysorg/sglang": Known(30000, "/health", openai=True),
    "ghcr.io/huggingface/text-generation-inference": Known(80, "/health", openai=True),
    "ghcr.io/huggingface/text-embeddings-inference": Known(80, "/health"),
    "ghcr.io/ggml-org/llama.cpp": Known(8080, "/health", openai=True),
    "ollama/ollama": Known(11434, "/", allow=("writable-root",), openai=True),
    "yanwk/comfyui-boot": _COMFY,
    "ghcr.io/ai-dock/comfyui": _COMFY,
    "runpod/worker-": _QUEUE,
    "runpod/serverless-hello-world": _QUEUE,
}
_UNKNOWN = Known()


def known(image: str) -> Known:
    """What is known of an image; nothing of most."""
    name = image.removeprefix("docker.io/").removeprefix("library/").partition("@")[0]
    found = [each for each in _IMAGES if name.startswith(each)]
    return _IMAGES[max(found, key=len)] if found else _UNKNOWN
