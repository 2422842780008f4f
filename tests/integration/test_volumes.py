"""Volumes: directories that workers share, seen at one path, kept when the program has ended."""

from __future__ import annotations

import os
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from runpod_flash.engines.local.processes import namespaces

if TYPE_CHECKING:
    from behaviour.programs import Programs

HEAD = """
from pathlib import Path
from runpod_flash import DataCenter, NetworkVolume
from runpod_flash.testing import use_node

TARGET = Path("/runpod-volume")
"""
MAIN = """
if __name__ == "__main__":
    print(json.dumps(asyncio.run(main())))
"""

needs_mounts = pytest.mark.skipif(
    not namespaces.supported(), reason="volumes cannot be mounted on this machine"
)


def program(body: str) -> str:
    return HEAD + textwrap.dedent(body) + MAIN


@needs_mounts
def test_two_endpoints_share_a_volume_that_is_kept_between_programs(programs: Programs) -> None:
    body = """
        volume = NetworkVolume(name="shared-by-two")

        @Endpoint(name="writer", cpu=CPU, volume=volume)
        def write(text):
            with open(TARGET / "file", "a") as file:
                file.write(text)

        @Endpoint(name="reader", cpu=CPU, volume=volume)
        def read():
            os.chdir("/")
            same = os.path.samefile(os.environ["FLASH_VOLUME_PATH"], "runpod-volume")
            return (TARGET / "file").read_text(), same

        @Endpoint(name="stranger", cpu=CPU)
        def stranger():
            return os.path.exists(TARGET), os.environ.get("FLASH_VOLUME_PATH")

        async def main():
            await write(sys.argv[1])
            return [*await read(), *await stranger(), str(volume.directory)]
    """
    before = sorted(os.listdir("/"))  # noqa: PTH208
    first = programs.run(program(body), arguments=["app.py", "one"])
    second = programs.run(arguments=["app.py", " two"])
    *found, directory = first.result
    assert found == ["one", True, False, None], first
    assert second.result[0] == "one two"
    assert (Path(directory) / "file").read_text() == "one two"
    assert sorted(os.listdir("/")) == before, "nothing appears on the machine itself"  # noqa: PTH208


@pytest.mark.parametrize("wanted", ["a GPU as well", "no GPU"])
def test_where_volumes_cannot_be_mounted_a_variable_names_the_directory_and_errors_say_so(
    programs: Programs, wanted: str
) -> None:
    body = """
        use_node([], mounts=False)
        hardware = {} if GPU else {"cpu": CPU}

        @Endpoint(name="e", volume=NetworkVolume(name="unmounted"), **hardware)
        def look(path):
            if path is None:
                path = os.environ["FLASH_VOLUME_PATH"]
            Path(path, "file").write_text("x")
            return path

        async def main():
            path = await look(None)
            try:
                await look(str(TARGET))
            except FileNotFoundError as error:
                return path, error.remote_traceback
    """.replace("GPU else", f"{wanted != 'no GPU'} else")
    path, text = programs.run(program(body)).result
    assert (Path(path) / "file").read_text() == "x"
    assert (
        "/runpod-volume cannot be mounted for workers on this machine (user namespaces are not "
        "allowed): use the directory that FLASH_VOLUME_PATH names"
    ) in text
    assert ("asks for a GPU" in text) is (wanted != "no GPU")


def test_a_volume_that_holds_more_than_its_size_warns_once(programs: Programs) -> None:
    body = """
        small = NetworkVolume(name="small", size=10)

        @Endpoint(name="one", cpu=CPU, volume=small)
        def one(size):
            with open(os.environ["FLASH_VOLUME_PATH"] + "/weights", "wb") as file:
                file.truncate(size)

        @Endpoint(name="two", cpu=CPU, volume=small)
        def two():
            return os.environ["FLASH_VOLUME_PATH"]

        async def main():
            await one(9 * 10**9)
            await two()
            await one(11 * 10**9)
            return "ended"
    """
    done = programs.run(program(body))
    assert "volume 'small'" not in done.stderr
    body = body.replace("await one(9 * 10**9)", "").replace(
        'return "ended"', "await asyncio.sleep(3600)"
    )
    with programs.start(program(body)) as running:
        said = "two: volume 'small' holds 11 GB, more than size=10"
        running.until_shown(said)
        running.until_shown("one: volume 'small' holds 11 GB, more than size=10")
        assert sum(said in line for line in running.errors) == 1


@needs_mounts
def test_of_several_volumes_a_worker_sees_the_one_in_its_data_center(programs: Programs) -> None:
    body = """
        volumes = [
            NetworkVolume(name="models", datacenter=DataCenter.EU_RO_1),
            NetworkVolume(name="models", datacenter=DataCenter.US_KS_2),
        ]

        @Endpoint(name="anywhere", volume=volumes)
        def anywhere():
            (TARGET / "place").write_text("Europe")
            return os.environ["FLASH_VOLUME_PATH"]

        @Endpoint(name="there", volume=volumes, datacenter=[DataCenter.US_KS_2, DataCenter.EU_RO_1])
        def there():
            before = os.listdir(TARGET)
            (TARGET / "place").write_text("America")
            return os.environ["FLASH_VOLUME_PATH"], before

        async def main():
            first = await anywhere()
            second, before = await there()
            return first, second, before
    """
    first, second, before = programs.run(program(body)).result
    assert before == []
    assert first.endswith("EU-RO-1/models")
    assert second.endswith("US-KS-2/models")
    assert [(Path(p) / "place").read_text() for p in (first, second)] == ["Europe", "America"]
