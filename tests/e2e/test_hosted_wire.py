"""What the hosted SDK asks while it deploys, calls and ends an app, without that SDK."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from behaviour.servers import server
from e2e.hosted import Hosted, HostedError, archive
from integration.served import write
from runpod_flash import Endpoint, FlashApp, ResourceManager
from runpod_flash.errors import (
    FlashAppNotFoundError,
    FlashEnvironmentNotFoundError,
    NotAvailableError,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.network  # what reads declarations has packages

FILES = {
    "worker.py": """
        import os
        from runpod_flash import Endpoint
        from parts.words import GREETING

        @Endpoint(name="greet", cpu="cpu3c-1-2", gpu_count=1, execution_timeout_ms=9000,
                  env={"MOOD": os.environ["MOOD"]})
        async def greet(name: str) -> dict:
            shown = sorted(n for n in os.environ if n.startswith("RUNPOD_API"))
            return {"text": f"{GREETING} {name}", "mood": os.environ["MOOD"], "keys": shown}
    """,
    "parts/words.py": "GREETING = 'hello'\n",
    "web.py": """
        from runpod_flash import Endpoint

        api = Endpoint(name="web", cpu="cpu3c-1-2")

        @api.get("/items/{number}")
        async def item(number: int) -> dict:
            return {"number": number}
    """,
    "requirements.txt": "\n",
}
MANIFEST = {
    "version": "1.0",
    "python_version": "3.12",
    "resources": {
        "greet": {
            "file_path": "worker.py",
            "handler_file": "handler_greet.py",
            "env": {"MOOD": "calm", "_FLASH_SOURCE_FINGERPRINT": "ab", "FLASH_APP": "old"},
        },
        "web": {"file_path": "web.py"},
    },
}


@pytest.fixture(scope="module")
def hosted(tmp_path_factory: pytest.TempPathFactory, shared_cache: Path) -> Iterator[Hosted]:
    with server(tmp_path_factory.mktemp("hosted"), shared_cache, "--isolation", "apps") as target:
        yield Hosted(target)


@pytest.fixture
def app(hosted: Hosted) -> Iterator[str]:
    with pytest.raises(HostedError, match="app not found"):
        hosted.app("old")
    made = hosted.ask("createFlashApp", "id name", input={"name": "old"})
    assert made == {"id": "old", "name": "old"}
    given = {"flashAppId": "old", "name": "production"}
    assert hosted.environment("old") is None
    hosted.ask("createFlashEnvironment", "id name", input=given)
    yield "old"
    hosted.ask("deleteFlashApp", flashAppId="old")


def call(hosted: Hosted, app: str, **given: Any) -> Any:
    """As its scripts do: the endpoint is named by headers."""
    headers = {**hosted.headers, "x-flash-app": app, "x-flash-endpoint": "greet"}
    url = f"{hosted.target.address}/v2/flash/runsync"
    return httpx.post(url, json={"input": given}, headers=headers, timeout=60)


def test_an_app_is_deployed_called_deployed_again_and_ended(hosted: Hosted, app: str) -> None:
    build = hosted.upload(app, archive(FILES, MANIFEST), MANIFEST)
    hosted.deploy(app, build)
    assert hosted.ask("flashBuild", "manifest", input=build) == {"manifest": MANIFEST}
    saved = hosted.save(app, "greet")
    assert (saved["id"], saved["type"], saved["aiKey"]) == ("old-production-greet", "QB", None)
    output = call(hosted, app, name="ada").json()["output"]
    assert output == {"text": "hello ada", "mood": "calm", "keys": []}
    route = f"{hosted.target.address}/d/old-production/web/items/3"
    assert httpx.get(route, timeout=60).json() == {"number": 3}
    found = hosted.environment(app)
    assert found["activeBuildId"] == build
    assert {each["name"] for each in found["endpoints"]} == {"greet", "web"}
    # What the manifest lacks is taken from the code.
    url = f"{hosted.target.address}/v2/serverless/old-production-greet"
    assert httpx.get(url, headers=hosted.headers).json()["timeout"] == 9000

    again = {**FILES, "parts/words.py": "GREETING = 'good day'\n"}
    hosted.deploy(app, hosted.upload(app, archive(again, MANIFEST), MANIFEST))
    env = [{"key": "MOOD", "value": "wild"}, {"key": "FLASH_APP", "value": "x"}]
    template = {"id": saved["templateId"], "env": env}
    hosted.ask("saveTemplate", "id", input=template)
    output = call(hosted, app, name="ada").json()["output"]
    assert (output["text"], output["mood"]) == ("good day ada", "wild")
    assert len(hosted.app(app)["flashBuilds"]) == 2

    hosted.ask("deleteEndpoint", id=saved["id"])
    assert hosted.ask("myself", "endpoint { id }", id=saved["id"]) == {"endpoint": None}
    assert call(hosted, app, name="ada").status_code == 404


def test_what_cannot_be_served_is_said_and_nothing_is_half_made(hosted: Hosted, app: str) -> None:
    broken = {
        **FILES,
        "worker.py": "from runpod_flash import Endpoint\nEndpoint(name='a', cpu=3)\n",
    }
    build = hosted.upload(app, archive(broken, MANIFEST), MANIFEST)
    with pytest.raises(HostedError, match=r"worker\.py"):
        hosted.deploy(app, build)
    with pytest.raises(HostedError, match="has no endpoint 'greet'"):
        hosted.save(app, "greet")
    with pytest.raises(HostedError, match="'live-x' is not made: images are named in code"):
        hosted.ask("saveEndpoint", "id", input={"name": "live-x", "type": "QB"})
    with pytest.raises(HostedError, match="does not have 'pods'"):
        hosted.ask("pods", "id")
    assert hosted.environment(app)["endpoints"] == []


def test_an_upload_is_for_whoever_announced_it(hosted: Hosted, app: str) -> None:
    base = f"{hosted.target.address}/graphql"
    assert httpx.put(f"{base}/uploads/made-up", content=b"x").status_code == 403
    given = {"flashAppId": app, "tarballSize": 10}
    place = hosted.ask("prepareFlashArtifactUpload", "uploadUrl objectKey", input=given)
    assert httpx.put(place["uploadUrl"], content=b"x" * 11).status_code == 413
    assert httpx.put(place["uploadUrl"], content=b"x" * 9).status_code == 400
    finish = {"flashAppId": app, "objectKey": place["objectKey"], "manifest": {}}
    with pytest.raises(HostedError, match="was not uploaded"):
        hosted.ask("finalizeFlashArtifactUpload", "id", input=finish)
    with pytest.raises(HostedError, match="up to 1500 MB"):
        hosted.ask("prepareFlashArtifactUpload", input={**given, "tarballSize": 1_600_000_000})
    assert httpx.post(base, json={"query": "{ myself { id } }"}).status_code == 401
    assert httpx.put(place["uploadUrl"], content=b"x" * 10).status_code == 200
    with pytest.raises(HostedError, match="cannot be read as"):
        hosted.ask("finalizeFlashArtifactUpload", "id", input=finish)
    outside = archive({"../outside.py": "x = 1"}, {"resources": {}})
    with pytest.raises(HostedError, match=r"is not unpacked: '\./\.\./outside\.py' leads out"):
        hosted.upload(app, outside, {})
    hosted.ask("createFlashApp", "id", input={"name": "other"})
    finish = {**finish, "flashAppId": "other"}
    with pytest.raises(HostedError, match="no archive was uploaded"):
        hosted.ask("finalizeFlashArtifactUpload", "id", input=finish)
    hosted.ask("deleteFlashApp", flashAppId="other")


def test_flash_app_makes_uploads_serves_and_ends(
    hosted: Hosted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {**hosted.target.variables, "FLASH_APP": "mine"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(tmp_path)
    place = tmp_path / "build.tar.gz"

    async def scenario() -> None:
        with pytest.raises(FlashAppNotFoundError, match="app not found: 'mine'"):
            await FlashApp.from_name("mine")
        app, environment = await FlashApp.create_environment_and_app("mine", "production")
        assert [each["name"] for each in await FlashApp.list()] == ["mine"]
        with pytest.raises(FlashEnvironmentNotFoundError, match="mine has no environment 'other'"):
            await app.get_environment_by_name("other")
        with pytest.raises(FileNotFoundError):
            await app.upload_build(place)
        place.write_bytes(b"no archive")
        with pytest.raises(ValueError, match="not compressed by gzip"):
            await app.upload_build(place)
        place.write_bytes(archive(FILES, MANIFEST))
        with pytest.raises(FileNotFoundError, match="build the project first"):
            await app.upload_build(place)
        write(tmp_path, {".flash/flash_manifest.json": json.dumps(MANIFEST)})
        build = await app.upload_build(place)
        await app.deploy_build_to_environment(build["id"], environment_name="production")
        await app.update_build_manifest(build["id"], {**MANIFEST, "more": 1})
        assert (await app.get_build_manifest(build["id"]))["more"] == 1
        assert [each["id"] for each in await app.list_builds()] == [build["id"]]
        (served,) = await app.list_environments()
        assert served["id"] == environment["id"]
        assert served["activeBuildId"] == build["id"]

        manager = ResourceManager()
        ((key, found),) = manager.find_resources_by_name("greet")
        assert found.id == "mine-production-greet"
        assert manager.find_resources_by_provider_id(found.id) == [(key, found)]
        assert await manager.get_or_deploy_resource(Endpoint(name="greet")) == found
        with pytest.raises(NotAvailableError, match="'other' is not deployed in mine-production"):
            await manager.get_or_deploy_resource(Endpoint(name="other"))
        assert (await manager.undeploy_resource(key))["success"] is True
        assert (await manager.undeploy_resource(key))["success"] is False
        assert await app.delete_environment("production")
        assert await FlashApp.delete(app_name="mine")
        assert await FlashApp.list() == []

    asyncio.run(scenario())


def test_volumes_are_found_and_made_in_the_words_of_the_old_api(hosted: Hosted) -> None:
    url = f"{hosted.target.address}/v1/networkvolumes"
    assert httpx.get(url, headers=hosted.headers).json() == []
    fields = {"name": "models", "size": 10, "dataCenterId": "EU-RO-1"}
    made = httpx.post(url, json=fields, headers=hosted.headers).json()
    assert made == {**fields, "id": made["id"]}
    assert httpx.get(url, headers=hosted.headers).json() == [made]
    assert httpx.get(f"{url}/{made['id']}", headers=hosted.headers).json() == made
    refused = httpx.post(url, json={**fields, "name": "x", "size": 1}, headers=hosted.headers)
    assert refused.status_code == 400
    assert "size" in refused.json()["message"]
    assert httpx.get(url).status_code == 401
