"""The declarations under examples/images: they are found, and say what their images need."""

from __future__ import annotations

import asyncio
from pathlib import Path

from runpod_flash.engines.docker.known import known
from runpod_flash.project.discovery import discover

FOLDER = Path(__file__).parents[2] / "examples" / "images"


def test_the_examples_of_images_can_be_served() -> None:
    catalog = asyncio.run(discover(FOLDER))
    assert catalog.problems == ()
    found = {each.spec.name: each.spec.build.container for each in catalog.endpoints}
    assert sorted(found) == ["comfyui", "comfyui-worker", "trtllm", "vllm"]
    for name, container in found.items():
        assert container is not None
        assert container.ports or known(container.image).port or known(container.image).has_queue, (
            name
        )
