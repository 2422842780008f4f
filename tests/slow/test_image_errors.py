"""What is amiss with an image is said in one sentence, with what to do."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from slow.containers import needs_podman
from slow.images import FOREIGN, QUEUE, WEB
from slow.registry import PASSWORD, USER

if TYPE_CHECKING:
    from behaviour.programs import Programs
    from slow.containers import Podman
    from slow.registry import Registry

pytestmark = [pytest.mark.slow, pytest.mark.network, pytest.mark.timeout(300), needs_podman]
PROGRAM = """
    from runpod_flash import GpuType, PodTemplate
    from runpod_flash.client.node import use_node

    {before}
    it = Endpoint(name="it", image={image!r}, {more})

    async def main():
        job = await it.runsync({{"a": 1}}, timeout=200)
        return [job.error and job.error.partition(": ")[2], job.output]

    if __name__ == "__main__":
        print(json.dumps(asyncio.run(main())))
"""


def told(
    programs: Programs, engine: Podman, image: str, more: str = "cpu=CPU", before: str = ""
) -> tuple[str, str]:
    """Why the job has failed, and all that was shown meanwhile."""
    source = PROGRAM.format(image=image, more=more, before=before)
    done = programs.run(source, env={"DOCKER_HOST": engine.address}, timeout=240)
    error, output = done.result
    assert error, output
    assert "\n" not in error, error
    return error, done.stderr


def test_a_wrong_name(engine: Podman, registry: Registry, programs: Programs) -> None:
    image = f"{registry.address}/absent/image:1"
    error, _ = told(programs, engine, image)
    assert error.startswith(f"there is no image {image!r}: check its name and tag (")


def test_no_engine(engine: Podman, programs: Programs) -> None:
    source = PROGRAM.format(image=WEB, more="cpu=CPU", before="")
    done = programs.run(source, env={"DOCKER_HOST": "unix:///nowhere.sock"})
    assert done.result[0] == (
        "no container engine answers at unix:///nowhere.sock: start Docker, or Podman by `podman "
        "system service --time=0`, or name its socket in DOCKER_HOST"
    )


def test_a_missing_port(engine: Podman, programs: Programs) -> None:
    asleep = "startScript='exec python -c \"import time; time.sleep(99)\"'"
    limit = "config={'start_seconds': 5, 'health': '/x'}"
    error, _ = told(programs, engine, WEB, f"cpu=CPU, template=PodTemplate({asleep}, {limit})")
    assert error == (
        "no worker of 'it' can start: it was not ready within 5 s: it neither asks for jobs nor "
        "listens on a port: name its port in template=PodTemplate(ports='8000/http')"
    )
    other = "ports='9000/http', config={'start_seconds': 20}"
    error, _ = told(programs, engine, WEB, f"cpu=CPU, template=PodTemplate({other})")
    assert "it listens on 8000 and not on 9000: name its port in" in error
    alone = "env={'HOST': '127.0.0.1'}, template=PodTemplate(config={'start_seconds': 20})"
    error, _ = told(programs, engine, WEB, f"cpu=CPU, {alone}")
    assert "it listens on 127.0.0.1:8000, inside its container alone: have it listen on" in error


def test_a_private_registry(engine: Podman, registry: Registry, programs: Programs) -> None:
    image = f"{registry.address}/private/image:1"
    error, _ = told(programs, engine, image)
    assert error.startswith(
        f"the registry {registry.address} gives {image!r} to nobody without credentials, or has "
        "none of that name: `docker login "
    )
    auth = "template=PodTemplate(containerRegistryAuthId='REGISTRY', startScript='exit 3')"
    error, _ = told(programs, engine, image, f"cpu=CPU, {auth}")
    assert error == (
        "containerRegistryAuthId='REGISTRY': set the variable REGISTRY to 'user:password' in env=, "
        "or by `flash secret set`"
    )
    env = f"env={{'REGISTRY': '{USER}:{PASSWORD}'}}"
    source = PROGRAM.format(image=image, more=f"cpu=CPU, {auth}, {env}", before="")
    done = programs.run(source, env={"DOCKER_HOST": engine.address}, timeout=240)
    assert "3 in a row failed, the last one exited with code 3" in done.result[0]
    assert f"flash: it: pulls {image}" in done.stderr
    assert f"flash: it: pulled {image}" in done.stderr
    blobs = [path for path in registry.asked if "/blobs/" in path]
    assert len(blobs) == len(set(blobs)), "pulled more than once"


def test_no_such_gpu(engine: Podman, programs: Programs) -> None:
    node = "use_node([GpuType.NVIDIA_L4])"
    error, _ = told(programs, engine, QUEUE, "gpu=GpuType.NVIDIA_L4", node)
    assert error.startswith("the container engine has no such GPU: install the NVIDIA Container")


def test_an_image_of_another_architecture(engine: Podman, programs: Programs) -> None:
    error, _ = told(programs, engine, FOREIGN)
    assert error == (
        f"the image {FOREIGN!r} is for arm64, and this machine is amd64: build or name one for "
        "linux/amd64"
    )


def test_a_program_that_is_not_in_the_image(engine: Podman, programs: Programs) -> None:
    given = '{"entrypoint": ["/no/such/program"]}'
    error, _ = told(programs, engine, WEB, f"cpu=CPU, template=PodTemplate(dockerArgs={given!r})")
    assert error.startswith(f"the image {WEB!r} has no such program: check template=")
