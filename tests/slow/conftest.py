"""A container engine with images, for the tests that run some."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from slow.containers import Podman
from slow.images import FUNCTIONS, build_images
from slow.registry import Registry

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="session")
def images(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Podman, Registry]]:
    """An engine with the images of `slow.images`, and a registry that has one of them."""
    folder = tmp_path_factory.mktemp("engine")
    registry = Registry(folder / "registry")
    podman = Podman(folder, insecure=[registry.address])
    try:
        build_images(podman, folder)
        podman("push", "--format", "v2s2", FUNCTIONS, f"dir:{registry.folder}")
        podman.serve()
        yield podman, registry
    finally:
        podman.close()
        registry.close()


@pytest.fixture
def engine(images: tuple[Podman, Registry], monkeypatch: pytest.MonkeyPatch) -> Iterator[Podman]:
    """The engine, as the only one of this machine; no test leaves a container."""
    podman, _ = images
    monkeypatch.setenv("DOCKER_HOST", podman.address)
    yield podman
    left = podman.containers()
    for each in left:
        podman("rm", "--force", each)
    assert not left


@pytest.fixture
def registry(images: tuple[Podman, Registry]) -> Registry:
    """A registry that the engine may ask."""
    return images[1]
