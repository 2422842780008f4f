"""/v2/network-volumes on a real socket: the volumes of a server, and their files."""

from __future__ import annotations

import asyncio
import base64
import gc
import hashlib
import os
import shutil
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from integration.disks import disk, take_all_but
from integration.served import KEY, serve
from integration.test_keyed_server import bearer, guarded
from integration.test_keys_api import problem
from runpod_flash.control.volumes.files import VolumeFiles
from runpod_flash.control.volumes.registry import Volumes
from runpod_flash.errors import ConfigurationError
from runpod_flash.gateway.volume_files_api import VolumeFilesApi
from runpod_flash.plane.store import backup
from runpod_flash.plane.store.database import prepare
from runpod_flash.spec import VolumeMount

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from integration.served import Served
    from runpod_flash.control.keys import Keys

NOTHING = {"empty.py": "# no endpoints"}
USERS = {
    "users.py": """
        from runpod_flash import Endpoint, NetworkVolume

        models = NetworkVolume(name="models", size=20)

        @Endpoint(name="writer", cpu="cpu3c-1-2", volume=models)
        def write(text: str) -> str:
            import os
            with open(os.environ["FLASH_VOLUME_PATH"] + "/file", "w") as file:
                file.write(text)
            return os.environ["FLASH_VOLUME_PATH"]

        @Endpoint(name="reader", cpu="cpu3c-1-2", volume=NetworkVolume(name="models"))
        def read() -> str:
            import os
            return open(os.environ["FLASH_VOLUME_PATH"] + "/file").read()

        @Endpoint(name="lost", cpu="cpu3c-1-2", volume=NetworkVolume(id="nosuchid00"))
        def lost() -> str:
            return "?"
    """
}
OWNER = {"authorization": f"Bearer {KEY}"}
PATH = "/v2/network-volumes"


class Asking:
    """A served registry, and its owner's requests."""

    def __init__(self, served: Served, volumes: Volumes) -> None:
        self.served = served
        self.volumes = volumes

    async def ask(self, method: str, path: str = "", json: Any = None, **options: Any) -> Any:
        headers = {**OWNER, **options.pop("headers", {})}
        return await self.served.http.request(
            method, f"{PATH}{path}", json=json, headers=headers, **options
        )

    async def made(self, name: str = "models", **fields: Any) -> str:
        body = {"name": name, "size": 20, "dataCenter": "EU-RO-1", **fields}
        answer = await self.ask("POST", json=body)
        assert answer.status_code == 201, answer.text
        return str(answer.json()["id"])


def asking(
    root: Path,
    scenario: Callable[[Asking], Awaitable[None]],
    files: dict[str, str] = NOTHING,
    folder: Path | None = None,
) -> None:
    async def whole(served: Served) -> None:
        await scenario(Asking(served, volumes))

    prepare(root / "flash.db")
    volumes = Volumes(folder or root / "volumes", root / "flash.db", time.time)
    serve(root, files, whole, volumes=volumes)


def test_volumes_are_made_listed_changed_and_deleted(tmp_path: Path) -> None:
    async def scenario(api: Asking) -> None:
        volume_id = await api.made()
        one = (await api.ask("GET", f"/{volume_id}")).json()
        expected = {"name": "models", "size": 20, "dataCenter": "EU-RO-1", "type": "STANDARD"}
        assert {name: one[name] for name in expected} == expected
        assert one["createdAt"].startswith("20")
        listed = (await api.ask("GET")).json()
        assert listed == {"networkVolumes": [one], "pagination": {"hasNextPage": False}}
        changed = await api.ask("PATCH", f"/{volume_id}", {"name": "weights", "size": 30})
        assert changed.status_code == 200
        assert changed.json() == {**one, "name": "weights", "size": 30}
        again = Volumes(tmp_path / "volumes", tmp_path / "flash.db", time.time)
        await again.load()
        assert [each.name for each in again] == ["weights"]
        await api.ask("PUT", f"/{volume_id}/files/a", content=b"x")
        assert (await api.ask("DELETE", f"/{volume_id}")).status_code == 204
        problem(await api.ask("GET", f"/{volume_id}"), 404)
        assert not (tmp_path / "volumes" / volume_id).exists()

    asking(tmp_path, scenario)


GOOD = {"name": "models", "size": 20, "dataCenter": "EU-RO-1"}


def test_what_is_wrong_is_named(tmp_path: Path) -> None:
    async def scenario(api: Asking) -> None:
        volume_id = await api.made()
        for change, said in (
            ({"bogus": 1}, "'bogus' is no field here"),
            ({"size": 5}, "$.size: must be bigger than or equal to 10"),
            ({"size": "20"}, "$.size: must be integer"),
            ({"name": "../x"}, "cannot name a directory"),
            ({"name": None}, "$.name: must be string"),
            ({"dataCenter": "EU-RO-9"}, "EU-RO-9"),
            ({"type": "HIGH_PERFORMANCE"}, "$.type"),
        ):
            refused = problem(await api.ask("POST", json={**GOOD, "name": "x", **change}), 422)
            assert said in " ".join(refused["errors"]), refused
        assert "has a volume 'models'" in problem(await api.ask("POST", json=GOOD), 409)["detail"]
        await api.made(dataCenter="US-KS-2")  # is another one
        refused = problem(await api.ask("PATCH", f"/{volume_id}", {"size": 10}), 400)
        assert "only grows" in refused["detail"]
        problem(await api.ask("PATCH", f"/{volume_id}", {}), 422)
        problem(await api.ask("PATCH", f"/{volume_id}", {"dataCenter": "US-KS-2"}), 422)
        problem(await api.ask("PUT", f"/{volume_id}", GOOD), 405)
        problem(await api.ask("GET", f"/{volume_id}/nothing"), 404)

    asking(tmp_path, scenario)


def test_a_key_that_may_deploy_is_needed(tmp_path: Path) -> None:
    async def keyed(served: Served, keys: Keys) -> None:
        for name in ("invoke", "deploy"):
            key = await bearer(keys, name, name)
            answer = await served.get(PATH, headers=key)
            if name == "invoke":
                problem(answer, 403)
            else:
                assert answer.status_code == 200
        problem(await served.get(PATH), 401)

    (tmp_path / "keyed").mkdir()
    prepare(tmp_path / "flash.db")
    volumes = Volumes(tmp_path / "volumes", tmp_path / "flash.db", time.time)
    guarded(tmp_path / "keyed", keyed, files=NOTHING, volumes=volumes)

    async def keyless(api: Asking) -> None:
        volume_id = await api.made()
        for method, path in (("GET", ""), ("GET", f"/{volume_id}/files"), ("POST", "")):
            problem(await api.served.http.request(method, f"{PATH}{path}"), 401)

    (tmp_path / "keyless").mkdir()
    asking(tmp_path / "keyless", keyless)


def test_endpoints_share_a_volume_which_then_stays_and_keeps_its_name(tmp_path: Path) -> None:
    async def scenario(api: Asking) -> None:
        place = await api.served.call("/v2/writer", text="shared")
        assert await api.served.call("/v2/reader") == "shared"
        (volume,) = list(api.volumes)
        assert (volume.name, volume.size) == ("models", 20)
        assert place == str(api.volumes.files(volume))
        refused = problem(await api.ask("DELETE", f"/{volume.id}"), 409)["detail"]
        assert "endpoints use the volume 'models'" in refused
        assert "writer" in refused
        assert "reader" in refused
        refused = problem(await api.ask("PATCH", f"/{volume.id}", {"name": "other"}), 409)
        assert "they name it 'models'" in refused["detail"]
        assert (await api.ask("PATCH", f"/{volume.id}", {"size": 40})).status_code == 200
        answer = await api.served.post("/v2/lost/runsync", {"input": {}})
        assert "NetworkVolume(id='nosuchid00')" in answer.text
        assert "`flash volume list` shows them" in answer.text

    asking(tmp_path, scenario, USERS)


def test_a_volume_is_made_once_for_whoever_names_it(tmp_path: Path) -> None:
    prepare(tmp_path / "flash.db")
    given: list[Path] = []

    async def scenario() -> None:
        volumes = Volumes(tmp_path / "volumes", tmp_path / "flash.db", time.time, given.append)
        mount = VolumeMount("models", "EU-RO-1", 20)
        places = await asyncio.gather(*(volumes.place(mount) for _ in range(5)))
        assert len(set(places)) == 1
        assert given == [places[0]]
        by_id = VolumeMount("x", "US-KS-2", 10, next(iter(volumes)).id)
        assert await volumes.place(by_id) == places[0]
        assert volumes.quota(by_id) == 20
        with pytest.raises(ConfigurationError, match="no volume of that id"):
            await volumes.ensure([VolumeMount("new", "EU-RO-1", 20), replace(by_id, id="x")])
        assert len(list(volumes)) == 1, "none is made where another one is not there"

    asyncio.run(scenario())


def test_a_store_put_back_from_an_older_copy_finds_the_volumes_that_it_does_not_know(
    tmp_path: Path,
) -> None:
    database, copied = tmp_path / "flash.db", tmp_path / "copy.db"
    prepare(database)

    def opened() -> Volumes:
        return Volumes(tmp_path / "volumes", database, time.time)

    async def before() -> None:
        volumes = opened()
        await volumes.create("old", 10, "EU-RO-1")
        backup.copy(database, copied)
        new = await volumes.create("new", 10, "EU-RO-1")
        (volumes.files(new) / "weights").write_text("weights")
        other = await volumes.create("else", 10, "EU-RO-1")
        await volumes.update(other, "renamed", 30)
        gone = await volumes.create("gone", 10, "EU-RO-1")
        await volumes.remove(gone)

    async def after() -> None:
        volumes = opened()
        await volumes.load()
        assert [(each.name, each.size) for each in volumes] == [
            ("new", 10),
            ("old", 10),
            ("renamed", 30),
        ]
        (new,) = (each for each in volumes if each.name == "new")
        assert (volumes.files(new) / "weights").read_text() == "weights"
        again = opened()
        await again.load()
        assert list(again) == list(volumes)

    asyncio.run(before())
    backup.put_back(copied, database)
    asyncio.run(after())


def test_volumes_that_are_removed_at_once_do_not_come_back(tmp_path: Path) -> None:
    database, folder = tmp_path / "flash.db", tmp_path / "volumes"
    prepare(database)

    async def scenario() -> None:
        volumes = Volumes(folder, database, time.time)
        await volumes.load()
        for _ in range(10):
            made = [await volumes.create(f"v{n}", 10, "EU-RO-1") for n in range(4)]
            await asyncio.gather(*map(volumes.remove, made))
        assert [each.name for each in folder.iterdir()] == ["removed"]
        after = Volumes(folder, database, time.time)
        await after.load()
        assert not list(after)

    asyncio.run(scenario())


def test_a_volume_whose_removal_was_cut_short_does_not_come_back(tmp_path: Path) -> None:
    database, folder = tmp_path / "flash.db", tmp_path / "volumes"
    prepare(database)

    async def scenario() -> None:
        volumes = Volumes(folder, database, time.time)
        volume = await volumes.create("v", 10, "EU-RO-1")
        (folder / "removed").write_text("")  # nothing can be moved there
        with pytest.raises(FileExistsError):
            await volumes.remove(volume)
        assert (folder / volume.id).exists()
        after = Volumes(folder, database, time.time)
        await after.load()
        assert not list(after)

    asyncio.run(scenario())


def test_uploads_that_nobody_goes_on_with_are_dropped_without_a_restart(tmp_path: Path) -> None:
    database = tmp_path / "flash.db"
    prepare(database)

    async def scenario() -> None:
        volumes = Volumes(tmp_path / "volumes", database, time.time)
        volume = await volumes.create("v", 10, "EU-RO-1")
        gone = await volumes.create("a", 10, "EU-RO-1")
        shutil.rmtree(volumes.uploads(gone))  # as one that is just being removed
        sweeping = asyncio.ensure_future(volumes.sweep_every(0.02))
        files = VolumeFiles(volumes.files(volume), volumes.uploads(volume))
        old, new = (hashlib.sha256(each).hexdigest() for each in (b"old", b"new"))
        for each in (old, new):
            files.begin(each, 3)
        place = volumes.uploads(volume) / f"{old}.data"
        os.utime(place, (0, 0))
        while place.exists():
            assert not sweeping.done()
            await asyncio.sleep(0.02)
        assert [each.name for each in volumes.uploads(volume).iterdir()] == [f"{new}.data"]
        sweeping.cancel()

    asyncio.run(scenario())


def test_of_two_volumes_that_come_to_one_name_neither_is_lost(tmp_path: Path) -> None:
    database, copied = tmp_path / "flash.db", tmp_path / "copy.db"
    prepare(database)

    async def scenario() -> None:
        volumes = Volumes(tmp_path / "volumes", database, time.time)
        first = await volumes.create("models", 10, "EU-RO-1")
        backup.copy(database, copied)
        await volumes.update(first, "old models", 10)
        second = await volumes.create("models", 10, "EU-RO-1")
        backup.put_back(copied, database)
        after = Volumes(tmp_path / "volumes", database, time.time)
        await after.load()
        names = {each.id: each.name for each in after}
        assert names == {first.id: "models", second.id: f"models {second.id}"}

    asyncio.run(scenario())


# Files

DATA = os.urandom(3_000_000)


def test_files_are_put_listed_got_and_removed(tmp_path: Path) -> None:
    async def scenario(api: Asking) -> None:
        files = f"/{await api.made()}/files"
        sha256 = hashlib.sha256(DATA)
        coded = f"sha-256=:{base64.b64encode(sha256.digest()).decode()}:"
        put = await api.ask(
            "PUT", f"{files}/llama/model 1.bin", content=DATA, headers={"content-digest": coded}
        )
        assert put.status_code == 201
        place = {"path": "llama/model 1.bin", "size": len(DATA), "sha256": sha256.hexdigest()}
        assert put.json() == place
        await api.ask("PUT", f"{files}/run.sh?executable=true", content=b"")
        top = (await api.ask("GET", files)).json()
        assert [(f["path"], f["type"], f["executable"]) for f in top["files"]] == [
            ("llama", "folder", False),
            ("run.sh", "file", True),
        ]
        deep = (await api.ask("GET", f"{files}?path=llama&deep=true")).json()
        assert [(f["path"], f["size"]) for f in deep["files"]] == [("model 1.bin", len(DATA))]
        want = {"want-repr-digest": "sha-256=1"}
        got = await api.ask("GET", f"{files}/llama/model 1.bin", headers=want)
        assert got.content == DATA
        assert got.headers["repr-digest"] == coded
        rest = {"range": "bytes=2999990-", "if-range": got.headers["etag"]}
        part = await api.ask("GET", f"{files}/llama/model 1.bin", headers=rest)
        assert (part.status_code, part.content) == (206, DATA[2_999_990:])
        assert part.headers["content-range"] == "bytes 2999990-2999999/3000000"
        other = {**rest, "if-range": '"another"'}
        whole = await api.ask("GET", f"{files}/llama/model 1.bin", headers=other)
        assert (whole.status_code, len(whole.content)) == (200, len(DATA))
        problem(await api.ask("GET", f"{files}/run.sh", headers={"range": "bytes=5-"}), 416)
        head = await api.ask("HEAD", f"{files}/llama/model 1.bin", headers=want)
        assert (head.headers["content-length"], head.content) == (str(len(DATA)), b"")
        problem(await api.ask("GET", f"{files}/llama"), 409)
        problem(await api.ask("PUT", f"{files}/llama", content=b"x"), 409)
        problem(await api.ask("PUT", f"{files}/run.sh/x", content=b"x"), 409)
        assert (await api.ask("DELETE", f"{files}/llama")).status_code == 204
        problem(await api.ask("GET", f"{files}/llama/model 1.bin"), 404)
        problem(await api.ask("DELETE", f"{files}/llama"), 404)
        wrong = {"content-digest": coded}
        refused = await api.ask("PUT", f"{files}/run.sh", content=b"other", headers=wrong)
        assert "another SHA-256" in problem(refused, 409)["detail"]
        assert (await api.ask("GET", f"{files}/run.sh")).content == b""

    asking(tmp_path, scenario)


def test_paths_and_links_that_lead_out_are_refused(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("the secret")

    async def scenario(api: Asking) -> None:
        volume_id = await api.made()
        files, folder = f"/{volume_id}/files", tmp_path / "volumes" / volume_id / "files"
        (folder / "file").symlink_to(tmp_path / "secret")
        (folder / "near").symlink_to("../../../secret")
        (folder / "up").symlink_to("../../..")
        (folder / "all").symlink_to("/")
        os.mkfifo(folder / "pipe")
        for path in (
            "%2e%2e/%2e%2e/%2e%2e/secret",
            "a/%2e%2e/%2e%2e/x",
            "%2fetc%2fpasswd",
            "x%00y",
            "x%0ay",
            "up/secret",
            f"all{tmp_path}/secret",
            "a//b",
        ):
            for method in ("GET", "PUT", "DELETE"):
                content = b"mine" if method == "PUT" else None
                answer = await api.ask(method, f"{files}/{path}", content=content)
                assert "the secret" not in answer.text
                problem(answer, 400)
        for path in ("file", "near", "pipe"):
            problem(await api.ask("GET", f"{files}/{path}"), 400)
        for path in ("up", "all", "../..", "/etc"):
            problem(await api.ask("GET", f"{files}?path={path}&deep=true"), 400)
        listed = (await api.ask("GET", f"{files}?deep=true")).json()["files"]
        assert {each["type"] for each in listed} == {"link", "other"}
        for path in ("../x", "/x", "up/x"):
            asked: Any = {"files": [{"path": path, "size": 1, "sha256": "0" * 64}]}
            answer = await api.ask("POST", f"/{volume_id}/missing", asked)
            assert answer.status_code == 400 or answer.json() == {"missing": [path]}
        sha256 = hashlib.sha256(b"x").hexdigest()
        await api.ask("POST", f"/{volume_id}/uploads", {"sha256": sha256, "size": 1})
        uploads = f"/{volume_id}/uploads/{sha256}"
        assert (await api.ask("PUT", f"{uploads}/0", content=b"x")).status_code == 204
        for path in ("../x", "/x", "up/x", "all/x", ".."):
            problem(await api.ask("POST", f"{uploads}/commit", {"path": path}), 400)
        done = await api.ask("POST", f"{uploads}/commit", {"path": "file"})
        assert done.status_code == 201
        assert (folder / "file").read_bytes() == b"x"
        assert (tmp_path / "secret").read_text() == "the secret"
        assert not (tmp_path / "x").exists()
        assert (await api.ask("DELETE", f"{files}/all")).status_code == 204
        for where in ("../file", "../../flash.db", "A" * 64):
            begun = await api.ask("POST", f"/{volume_id}/uploads", {"sha256": where, "size": 1})
            problem(begun, 422)
        problem(await api.ask("PUT", f"/{volume_id}/uploads/{'A' * 64}/0", content=b"x"), 400)

    asking(tmp_path, scenario)


def test_a_part_has_the_size_that_it_must_have(tmp_path: Path) -> None:
    async def scenario(api: Asking) -> None:
        volume_id = await api.made()
        sha256 = hashlib.sha256(DATA).hexdigest()
        begun = await api.ask(
            "POST", f"/{volume_id}/uploads", {"sha256": sha256, "size": len(DATA)}
        )
        assert begun.json()["missing"] == [0]
        uploads = f"/{volume_id}/uploads/{sha256}"
        problem(await api.ask("PUT", f"{uploads}/0", content=DATA[:-1]), 400)
        problem(await api.ask("PUT", f"{uploads}/0", content=DATA + b"x"), 413)
        problem(await api.ask("PUT", f"{uploads}/1", content=DATA), 409)
        problem(await api.ask("POST", f"{uploads}/commit", {"path": "a", "bogus": 1}), 422)
        missing = problem(await api.ask("POST", f"{uploads}/commit", {"path": "a"}), 409)
        assert "1 parts of a have not come" in missing["detail"]
        for size in (-1, "1", True, 10**18):
            asked = {"sha256": sha256, "size": size}
            problem(await api.ask("POST", f"/{volume_id}/uploads", asked), 422)
        full = await api.ask(
            "POST", f"/{volume_id}/uploads", {"sha256": sha256, "size": 4 * 10**12}
        )
        assert "no room for" in problem(full, 507)["detail"]

    asking(tmp_path, scenario)


def test_what_a_full_disk_does_not_take_leaves_nothing(tmp_path: Path) -> None:
    async def scenario(api: Asking) -> None:
        volume_id = await api.made()
        files, uploads = f"/{volume_id}/files", small / volume_id / "uploads"
        sha256 = hashlib.sha256(DATA).hexdigest()
        assert (await api.ask("PUT", f"{files}/kept", content=b"kept")).status_code == 201
        fields = {"sha256": sha256, "size": len(DATA)}
        assert (await api.ask("POST", f"/{volume_id}/uploads", fields)).status_code == 200
        filler = take_all_but(small, 1_000_000)
        refused = await api.ask("PUT", f"/{volume_id}/uploads/{sha256}/0", content=DATA)
        assert "no room for what came" in problem(refused, 507)["detail"]
        refused = await api.ask("PUT", f"{files}/new", content=DATA)
        assert "no room for 3 MB more" in problem(refused, 507)["detail"]
        assert not [path for path in uploads.iterdir() if "digests" not in path.name]
        listed = (await api.ask("GET", files)).json()["files"]
        assert [each["path"] for each in listed] == ["kept"]
        filler.unlink()
        assert (await api.ask("PUT", f"{files}/new", content=DATA)).status_code == 201

    with disk(tmp_path / "disk", 100) as small:
        asking(tmp_path, scenario, folder=small)


def test_a_client_that_leaves_in_the_middle_leaves_nothing(tmp_path: Path) -> None:
    async def scenario(api: Asking) -> None:
        volume_id = await api.made()
        uploads = tmp_path / "volumes" / volume_id / "uploads"
        host, port = api.served.address.removeprefix("http://").split(":")
        _reader, writer = await asyncio.open_connection(host, int(port))
        path = f"{PATH}/{volume_id}/files/half"
        head = f"PUT {path} HTTP/1.1\r\nhost: {host}\r\ncontent-length: 3000000\r\n"
        writer.write(f"{head}authorization: Bearer {KEY}\r\n\r\n".encode() + DATA[:2_000_000])
        await writer.drain()
        await until(lambda: any(uploads.glob("whole-*")))
        writer.close()
        await until(lambda: not any(uploads.glob("whole-*")))
        problem(await api.ask("GET", f"/{volume_id}/files/half"), 404)

    asking(tmp_path, scenario)


def test_a_file_stays_open_while_a_thread_reads_it_for_a_request_that_is_gone(
    tmp_path: Path,
) -> None:
    async def scenario(api: Asking) -> None:
        volume = api.volumes.get(await api.made())
        assert volume is not None
        large = api.volumes.files(volume) / "large"
        with large.open("wb") as stream:
            stream.truncate(800_000_000)  # (a hole, which takes a while to read)
        scope = {
            "type": "http",
            "method": "GET",
            "path": "",
            "query_string": b"",
            "headers": [(b"want-repr-digest", b"sha-256=1")],
        }
        asked = VolumeFilesApi(api.volumes).answer(volume, ["files", "large"], scope, never)
        request = asyncio.ensure_future(asked)
        await until(lambda: opened(large))
        await asyncio.sleep(0.1)  # until it is read
        request.cancel()
        await asyncio.wait((request,))
        assert request.cancelled()
        del request  # (as a server does: its traceback has the file)
        assert opened(large)
        gc.collect()  # (Python 3.10 leaves the cancelled task in a cycle)
        await until(lambda: not opened(large))

    asking(tmp_path, scenario)


def opened(path: Path) -> bool:
    """Whether this process has the file open."""
    wanted = path.stat()
    for link in Path("/dev/fd").iterdir():
        with suppress(OSError):  # (that of the listing itself)
            if os.path.samestat(os.fstat(int(link.name)), wanted):
                return True
    return False


async def never() -> Any:
    await asyncio.Event().wait()


async def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.01)
