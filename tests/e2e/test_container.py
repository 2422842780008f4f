"""An image as it is used most simply, where Podman is; `tests/slow` has all the rest."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from slow.containers import Podman, machine_image, needs_podman

if TYPE_CHECKING:
    from pathlib import Path

    from behaviour.programs import Programs

pytestmark = [pytest.mark.timeout(300), needs_podman]
PROGRAM = """
    from runpod_flash import PodTemplate

    IMAGE = "localhost/python:1"

    @Endpoint(name="inside", image=IMAGE, cpu=CPU)
    def inside(x):
        return [2 * x, sys.executable]

    command = "{\\"entrypoint\\": [\\"python\\", \\"-m\\", \\"http.server\\", \\"8000\\"]}"
    files = Endpoint(name="files", image=IMAGE, cpu=CPU, template=PodTemplate(dockerArgs=command))

    async def main():
        doubled, python = await inside(21)
        return [doubled, python != sys.executable, await files.get("/etc/group")]

    if __name__ == "__main__":
        print(json.dumps(asyncio.run(main())))
"""


def test_a_function_and_a_command_run_in_an_image_and_leave_no_container(
    programs: Programs, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder: Path = tmp_path_factory.mktemp("engine")
    podman = Podman(folder)
    try:
        machine_image(podman, folder, "localhost/python:1")
        podman.serve()
        done = programs.run(PROGRAM, env={"DOCKER_HOST": podman.address}, timeout=200)
        doubled, elsewhere, text = done.result
        assert (doubled, elsewhere) == (42, True)
        assert text.startswith("root:x:0:")
        assert podman.containers() == []
    finally:
        podman.close()
