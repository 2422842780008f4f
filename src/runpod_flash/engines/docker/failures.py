"""What an engine says of a container that it cannot start, as sentences with what to do."""

from __future__ import annotations

from runpod_flash.engines.docker.connection import explanation
from runpod_flash.errors import WorkerStartError

_NO_PROGRAM = ("executable file not found", "no such file or directory", "not found in $path")
_NO_GPU = (
    "could not select device driver",
    "nvidia.com/gpu",
    "unresolvable cdi",
    "nvidia-container",
)
_OTHER_MACHINE = ("exec format error",)


def explain(error: Exception, image: str, *, uses_gpu: bool) -> None:
    """Raise `WorkerStartError` for an error of the engine's; return for others."""
    import docker

    if not isinstance(error, docker.errors.APIError):
        return
    told = explanation(error)
    lower = told.lower()
    if uses_gpu and any(word in lower for word in _NO_GPU):
        text = (
            "the container engine has no such GPU: install the NVIDIA Container Toolkit (for "
            f"Podman, run `nvidia-ctk cdi generate --output=/etc/cdi/nvidia.yaml` as well): {told}"
        )
    elif any(word in lower for word in _OTHER_MACHINE):
        text = f"the image {image!r} is for another kind of machine: {told}"
    elif is_missing_program(error):
        text = (
            f"the image {image!r} has no such program: check template=PodTemplate(dockerArgs=...) "
            f"or startScript: {told}"
        )
    else:
        text = f"the container engine cannot run the image {image!r}: {told}"
    raise WorkerStartError(text) from None


def is_missing_program(error: Exception) -> bool:
    """Whether the program that a container is to run is not in its image."""
    lower = explanation(error).lower()
    return any(word in lower for word in _NO_PROGRAM)
