"""Releases of images: a name means what it meant when the release was made, also after it moved."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from behaviour.servers import server
from e2e.shop import Shop, until
from integration.served import write
from runpod_flash.engines.docker.connection import connect
from runpod_flash.engines.docker.images import Images
from slow.containers import needs_podman
from slow.images import FUNCTIONS
from unit.command_line import flash

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Iterator
    from pathlib import Path

    from slow.containers import Podman
    from slow.registry import Registry

pytestmark = [pytest.mark.slow, pytest.mark.network, pytest.mark.timeout(300), needs_podman]
MOVING = "localhost/moving:1"
FILES = {
    "pyproject.toml": "[project]\nname = 'shop'\nversion = '1'\n",
    "app.py": f"""
        from runpod_flash import Endpoint

        @Endpoint(name="which", image={MOVING!r}, cpu="cpu3c-1-2", idle_timeout=1)
        def which() -> str:
            return open("/version").read()
    """,
}


@pytest.fixture
def shop(engine: Podman, tmp_path: Path, shared_cache: Path) -> Iterator[Shop]:
    before = f"import os; os.environ['DOCKER_HOST'] = {engine.address!r}"
    with server(tmp_path / "server", shared_cache, before=before) as target:
        yield Shop(tmp_path / "shop", target, FILES)


def build(engine: Podman, folder: Path, version: str) -> None:
    """Have the name mean this version from now on."""
    folder.mkdir(exist_ok=True)
    (folder / "version").write_text(version)
    engine.build(folder, MOVING, f"FROM {FUNCTIONS}\nCOPY version /version\n")


def test_a_release_keeps_its_image_when_the_name_moves_and_a_rollback_brings_it_back(
    engine: Podman, shop: Shop, tmp_path: Path
) -> None:
    build(engine, tmp_path / "image", "one")
    said = shop.deploy().stdout
    assert f"image of which: {MOVING}@sha256:" in said
    build(engine, tmp_path / "image", "two")
    until(lambda: not engine.containers())
    assert shop.ask("which") == "one", "a new worker of the same release"
    assert "release 2 is served" in shop.deploy().stdout
    assert shop.ask("which") == "two"
    assert "nothing has changed: release 2 is served" in shop.deploy().stderr
    assert shop.flash("rollback").returncode == 0
    assert shop.ask("which") == "one"

    told = json.loads(shop.flash("releases", "--json").stdout)
    digests = {each["number"]: each["images"][0]["digest"] for each in told}
    assert digests[1] != digests[2]
    served = json.loads(shop.flash("app", "get", "shop", "--json").stdout)["environments"][0]
    assert served["endpoints"][0]["image"] == {"name": MOVING, "digest": digests[1]}
    short = f"{MOVING}@{digests[1][:19]}"
    assert short in shop.flash("releases").stdout
    assert short in shop.flash("app", "get", "shop").stdout


def test_what_a_release_has_found_is_pulled_again_where_it_is_gone(
    engine: Podman, registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "image"
    folder.mkdir()
    (folder / "file").write_text("x")
    engine.build(folder, "localhost/small:1", "FROM scratch\nCOPY file /file\n")
    engine("push", "--format", "v2s2", "localhost/small:1", f"dir:{tmp_path / 'pushed'}")
    engine("image", "rm", "--force", "localhost/small:1")
    monkeypatch.setattr(registry, "folder", tmp_path / "pushed")
    connection = connect(engine.address)
    said: list[str] = []
    name = f"{registry.address}/pub/small"
    try:
        images = Images(connection)
        first = images.ensure(f"{name}:1", "", said.append)
        engine("image", "rm", "--force", first.id)
        assert images.find(f"{name}:1", first.digest) is None
        again = images.ensure(f"{name}:1", "", said.append, first.digest)
        assert (again.id, again.digest) == (first.id, first.digest)
        assert f"pulls {name}@{first.digest}" in said
        assert images.find(f"{name}:1") is None, "its name may mean something else by now"
    finally:
        connection.api.close()


def declared(*images: str, more: str = "") -> dict[str, str]:
    lines = [
        f"it{n} = Endpoint(name='it{n}', image={image!r}, cpu='cpu3c-1-2', {more})"
        for n, image in enumerate(images)
    ]
    text = "\n".join(["from runpod_flash import Endpoint, PodTemplate", "", *lines, ""])
    return {"pyproject.toml": "[project]\nname = 'shop'\nversion = '1'\n", "app.py": text}


def test_a_build_pulls_images_ahead_once_and_names_each_that_cannot_be_had(
    engine: Podman, registry: Registry, tmp_path: Path, shared_cache: Path
) -> None:
    def built(*images: str, **env: str) -> subprocess.CompletedProcess[str]:
        write(tmp_path / "shop", declared(*images))
        home = {"HOME": str(tmp_path), "XDG_CACHE_HOME": str(shared_cache)}
        return flash("build", cwd=tmp_path / "shop", env={**home, "FLASH_TARGET": "", **env})

    there, absent = f"{registry.address}/pub/ahead:1", f"{registry.address}/absent/image:1"
    private = f"{registry.address}/private/ahead:1"
    where = {"DOCKER_HOST": engine.address}
    done = built(there, there, **where)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count(f"flash: pulls {there}\n") == 1
    assert f"flash: pulled {there}" in done.stderr
    assert "pull" not in built(there, **where).stderr, "it is here"

    done = built(absent, private, there, **where)
    assert done.returncode == 1
    assert f"Error: there is no image {absent!r}: check its name and tag (" in done.stderr
    assert f"Error: the registry {registry.address} gives {private!r} to nobody" in done.stderr

    done = built(there, DOCKER_HOST="unix:///nowhere.sock")
    assert done.returncode == 0
    assert "flash: no image is pulled ahead: no container engine answers at" in done.stderr


def test_a_deploy_pulls_images_ahead_and_names_each_that_cannot_be_had(
    engine: Podman, registry: Registry, shop: Shop
) -> None:
    there, absent = f"{registry.address}/pub/deployed:1", f"{registry.address}/absent/image:1"
    private = f"{registry.address}/private/deployed:1"
    write(shop.folder, declared(absent, private))
    done = shop.flash("deploy")
    assert done.returncode == 1
    assert f"there is no image {absent!r}: check its name and tag (" in done.stderr
    assert f"the registry {registry.address} gives {private!r} to nobody" in done.stderr
    assert "Traceback" not in done.stderr
    sleeping = "template=PodTemplate(startScript='exec python -m http.server 8000', ports='8000')"
    write(shop.folder, declared(there, there, more=sleeping))
    done = shop.deploy()
    assert done.stderr.count(f"pulls {there}\n") == 1, done.stderr
    assert f"pulled {there}" in done.stderr
    assert "image of it1: " in done.stdout


def test_the_image_of_a_served_project_is_pulled_before_the_first_request(
    engine: Podman, registry: Registry, tmp_path: Path, shared_cache: Path
) -> None:
    place = f"{registry.address}/pub/served"
    write(tmp_path / "shop", declared(f"{place}:1", more="workers=(0, 1)"))
    before = f"import os; os.environ['DOCKER_HOST'] = {engine.address!r}"
    options = ("--app", str(tmp_path / "shop"))
    with server(tmp_path / "server", shared_cache, *options, before=before) as target:
        until(lambda: place in engine("images", "--format", "{{.Repository}}"), 60)
        assert target.log.read_text().count(f"pulls {place}:1") == 1
        assert not engine.containers()
