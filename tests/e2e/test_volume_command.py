"""`flash volume`: a server's volumes by the command line, and by the endpoints that share them."""

from __future__ import annotations

import filecmp
import hashlib
import json
import os
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from integration.served import write
from unit.command_line import MAIN, flash, in_terminal

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from behaviour.servers import Target

SHARED = """
    import os
    from pathlib import Path
    from runpod_flash import Endpoint, NetworkVolume

    MODELS = NetworkVolume(name="models", size=20)
    VOLUME = Path("/runpod-volume")

    @Endpoint(name="reads", cpu="cpu3c-1-2", volume=MODELS)
    def reads(path: str) -> dict:
        return {"text": (VOLUME / path).read_text(), "version": 1}

    @Endpoint(name="writes", cpu="cpu3c-1-2", volume=MODELS)
    def writes(path: str, text: str) -> list:
        (VOLUME / path).write_text(text)
        return sorted(path.name for path in VOLUME.iterdir())

    @Endpoint(name="links", cpu="cpu3c-1-2", volume=MODELS)
    def links(path: str, target: str) -> None:
        (VOLUME / path).symlink_to(target)
"""
PROJECT = "[project]\nname = 'x'\nversion = '1'\n"


class Shop:
    """A server, and a user of it with a folder."""

    def __init__(self, folder: Path, target: Target) -> None:
        self.folder = folder
        self.target = target
        folder.mkdir(exist_ok=True)

    @property
    def env(self) -> dict[str, str]:
        return {"HOME": str(self.folder), **self.target.variables}

    def flash(self, *words: str, code: int = 0) -> subprocess.CompletedProcess[str]:
        done = flash(*words, cwd=self.folder, env=self.env)
        assert done.returncode == code, done.stderr
        return done

    def ask(self, method: str, path: str, fields: Any = None) -> httpx.Response:
        headers = {"authorization": f"Bearer {self.target.key}"}
        url = f"{self.target.address}{path}"
        return httpx.request(method, url, json=fields, headers=headers, timeout=60)

    def volumes(self) -> list[dict[str, Any]]:
        return list(self.ask("GET", "/v2/network-volumes").json()["networkVolumes"])

    def make(self, name: str, datacenter: str = "EU-RO-1") -> dict[str, Any]:
        fields = {"name": name, "size": 20, "dataCenter": datacenter}
        return dict(self.ask("POST", "/v2/network-volumes", fields).json())

    def json(self, *words: str) -> Any:
        return json.loads(self.flash("volume", *words, "--json").stdout)

    def call(self, name: str, **given: Any) -> Any:
        answer = httpx.post(
            f"{self.target.address}/v2/shop-production-{name}/runsync",
            json={"input": given},
            timeout=60,
        )
        assert answer.status_code == 200, answer.text
        return answer.json()["output"]


@pytest.fixture
def shop(tmp_path: Path, target: Target) -> Iterator[Shop]:
    made = Shop(tmp_path / "shop", target)
    yield made
    for app in ("shop", "other"):
        assert made.ask("DELETE", f"/v2/apps/{app}").status_code in (204, 404)
    for each in made.volumes():
        assert made.ask("DELETE", f"/v2/network-volumes/{each['id']}").status_code == 204


def test_two_endpoints_share_what_was_put_over_a_release_and_a_restart(shop: Shop) -> None:
    write(shop.folder, {"shared.py": SHARED, "pyproject.toml": PROJECT})
    write(shop.folder / "weights", {"model.txt": "weights", "deep/run.sh": "echo"})
    (shop.folder / "weights" / "deep" / "run.sh").chmod(0o755)
    shop.flash("volume", "create", "models", "--size", "20")
    said = shop.flash("volume", "put", "models", "weights").stdout
    assert (
        said == "2 files (0.0 MB) at weights, all verified: 2 new or changed (0.0 MB travelled).\n"
    )
    shop.flash("deploy", "--app", "shop")
    assert shop.call("reads", path="weights/model.txt") == {"text": "weights", "version": 1}
    assert shop.call("writes", path="note", text="by a worker") == ["note", "weights"]
    assert shop.call("writes", path="weights/model.txt", text="changed")
    write(shop.folder, {"shared.py": SHARED.replace('"version": 1', '"version": 2')})
    shop.flash("deploy", "--app", "shop")
    assert shop.call("reads", path="weights/model.txt") == {"text": "changed", "version": 2}
    shop.target.stop()
    shop.target.start_again()
    assert shop.call("reads", path="note") == {"text": "by a worker", "version": 2}
    (one,) = shop.json("list")
    assert (one["name"], one["size"], one["dataCenter"]) == ("models", 20, "EU-RO-1")
    assert shop.json("put", "models", "weights")["moved"] == 1, "what the worker has changed"
    shop.call("links", path="out", target="/etc/passwd")
    got = shop.json("get", "models", "/", "back")
    assert (got["files"], got["moved"], got["skipped"]) == (3, 3, ["out"])
    assert (shop.folder / "back" / "note").read_text() == "by a worker"
    assert os.access(shop.folder / "back" / "weights" / "deep" / "run.sh", os.X_OK)
    shop.flash("volume", "get", "models", "weights/model.txt", "back")
    assert (shop.folder / "back" / "model.txt").read_text() == "weights"
    refused = shop.flash("volume", "delete", "models", "--yes", code=1).stderr
    assert "endpoints use the volume 'models': links (shop-production), reads" in refused
    shop.flash("undeploy", "--app", "shop", "--yes")
    assert [each["path"] for each in shop.json("ls", "models")] == ["note", "out", "weights"]
    shop.flash("volume", "rm", "models", "weights", "--yes")
    assert shop.flash("volume", "ls", "models", "-r").stdout.splitlines()[1].endswith("note")


def test_a_deploy_makes_what_it_names_and_refuses_an_id_that_is_none(shop: Shop) -> None:
    write(shop.folder, {"shared.py": SHARED, "pyproject.toml": PROJECT})
    shop.flash("deploy", "--app", "shop")
    (made,) = shop.volumes()
    assert (made["name"], made["size"]) == ("models", 20)
    shown = shop.flash("env", "get", "production", "--app", "shop").stdout
    assert shown.endswith(f"\nvolumes: models ({made['id']})\n")
    by_id = SHARED.replace('name="models", size=20', f'id="{made["id"]}"')
    assert shop.call("writes", path="a", text="by name") == ["a"]
    write(shop.folder, {"shared.py": by_id})
    shop.flash("deploy", "--app", "shop")
    assert shop.call("reads", path="a")["text"] == "by name"
    write(shop.folder, {"shared.py": by_id.replace(made["id"], "nosuchid00")})
    refused = shop.flash("deploy", "--app", "shop", code=1).stderr
    assert "NetworkVolume(id='nosuchid00'): this server has no volume of that id" in refused
    assert "release 2 is served as before" in refused
    assert shop.call("reads", path="a")["text"] == "by name"
    assert len(shop.volumes()) == 1


def test_links_that_lead_out_show_nothing_of_the_server(shop: Shop) -> None:
    files = shop.target.data / "volumes" / shop.make("models")["id"] / "files"
    key = shop.target.data / "flash.db"
    (files / "real").write_text("real")
    for path, place in (("a", str(key)), ("b", "../../../flash.db"), ("c", "real"), ("d", "..")):
        (files / path).symlink_to(place)
    told = shop.json("get", "models", "/", "back")
    assert sorted(told["skipped"]) == ["a", "b", "d"]
    assert sorted(path.name for path in (shop.folder / "back").iterdir()) == ["c", "real"]
    refused = shop.flash("volume", "get", "models", "a", code=1).stderr
    assert "the link a leads out of the volume" in refused
    write(shop.folder, {"mine": "mine"})
    refused = shop.flash("volume", "put", "models", "mine", "d/flash.db", code=1).stderr
    assert "leads out of the volume" in refused
    assert key.stat().st_size > 10


def test_an_upload_that_was_killed_goes_on_where_it_was(shop: Shop) -> None:
    volume = shop.make("models")
    place = shop.target.data / "volumes" / volume["id"]
    size = 160 << 20
    with (shop.folder / "large.bin").open("wb") as file:
        for _ in range(size >> 20):
            file.write(os.urandom(1 << 10) * (1 << 10))
    process = subprocess.Popen(
        [sys.executable, "-c", MAIN, "volume", "put", "models", "large.bin"],
        cwd=shop.folder,
        env={**os.environ, **shop.env},
        stdout=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 60
    while not any(path.stat().st_size for path in (place / "uploads").glob("*.parts")):
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.001)
    process.kill()
    process.wait()
    assert list((place / "files").iterdir()) == [], "nobody sees half a file"
    shop.target.kill()
    shop.target.start_again()
    told = shop.json("put", "models", "large.bin")
    assert (told["files"], told["moved"]) == (1, 1)
    assert 0 < told["movedBytes"] < size
    assert filecmp.cmp(shop.folder / "large.bin", place / "files" / "large.bin", shallow=False)
    part = shop.folder / "back" / f".large.bin.{_sha256(shop.folder / 'large.bin')[:16]}.part"
    part.parent.mkdir()
    part.write_bytes((shop.folder / "large.bin").read_bytes()[:150_000_000])
    told = shop.json("get", "models", "large.bin", "back/large.bin")
    assert told["movedBytes"] == size - 150_000_000
    assert filecmp.cmp(shop.folder / "large.bin", shop.folder / "back" / "large.bin", shallow=False)
    assert not part.exists()


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_what_is_amiss_is_one_sentence_with_a_remedy(shop: Shop) -> None:
    volume = shop.make("models")
    (shop.target.data / "volumes" / volume["id"] / "files" / "folder").mkdir()
    write(shop.folder, {"file": "x"})
    for words, said in (
        (("put", "model", "file"), "there is no volume 'model'"),
        (("put", "models", "nothing"), "there is no nothing; name a file or a folder"),
        (("put", "models", "file", "a/../b"), "is no path below a volume"),
        (("put", "models", "file", "folder"), "folder: http://localhost:"),
        (("get", "models", "nothing"), "there is no such file in the volume"),
        (("create", "small", "--size", "1"), "size must be 10 to 4096 GB, not 1"),
        (("delete", "models"), "Add --yes if that is meant"),
    ):
        done = shop.flash("volume", *words, code=1)
        assert said in done.stderr, done.stderr
        assert done.stderr.count("\n") == 1
    shop.make("models", "US-KS-2")
    several = shop.flash("volume", "ls", "models", code=1).stderr
    assert "is in several data centers: name its id (" in several


def test_on_a_terminal_an_upload_shows_how_far_it_is(shop: Shop) -> None:
    shop.make("models")
    (shop.folder / "file").write_bytes(b"x" * 2_000_000)
    screen = in_terminal("volume", "put", "models", "file", cwd=shop.folder, env=shop.env)
    assert "uploading 2.0 of 2.0 MB" in screen.text
    assert "1 file (2.0 MB) at file, all verified" in screen.text


def test_a_program_with_a_target_finds_its_volume_there(shop: Shop) -> None:
    program = """
        import asyncio
        from runpod_flash import NetworkVolume

        async def main():
            volume = NetworkVolume(name="models", size=20)
            assert not await volume.is_deployed()
            await volume.deploy()
            assert await volume.is_deployed()
            again = await NetworkVolume(name="models").deploy()
            assert again.id == volume.id == (await NetworkVolume(id=volume.id).deploy()).id
            assert not volume.directory.exists()
            print(volume.id)
            await NetworkVolume(id="nosuchid00").deploy()

        asyncio.run(main())
    """
    write(shop.folder, {"program.py": program})
    done = subprocess.run(
        [sys.executable, "program.py"],
        cwd=shop.folder,
        env={**os.environ, **shop.env},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    (made,) = shop.volumes()
    assert done.stdout == f"{made['id']}\n", done.stderr
    assert "has no volume of that id; `flash volume list` shows those" in done.stderr
