"""The hosted SDK's way of deploying, in requests of its shapes, by a client of our own."""

from __future__ import annotations

import io
import json
import tarfile
import textwrap
from typing import TYPE_CHECKING, Any

import httpx

if TYPE_CHECKING:
    from collections.abc import Mapping

    from behaviour.servers import Target

_APP = "id name flashEnvironments{id name state activeBuildId createdAt} flashBuilds{id objectKey}"
_ENVIRONMENT = "id name state activeBuildId endpoints{id name} networkVolumes{id name}"
_ENDPOINT = "aiKey id name templateId type workersMin workersMax flashEnvironmentId"


class HostedError(Exception):
    """What the answer's `errors` say."""


class Hosted:
    """A client of a server's GraphQL."""

    def __init__(self, target: Target) -> None:
        self.target = target
        self.headers = {"authorization": f"Bearer {target.key}"}

    def ask(self, field: str, selection: str = "", **variables: Any) -> Any:
        """An operation's answer, by the name of its field."""
        declared = ", ".join(f"${name}: Any!" for name in variables)
        given = ", ".join(f"{name}: ${name}" for name in variables)
        selected = f"{{ {selection} }}" if selection else ""
        query = f"query any({declared}) {{\n  {field}({given}) {selected}\n}}"
        body = {"query": query, "variables": variables}
        url = f"{self.target.address}/graphql"
        told = httpx.post(url, json=body, headers=self.headers, timeout=120).json()
        if "errors" in told:
            raise HostedError(told["errors"][0]["message"])
        assert told["data"].keys() == {field}
        return told["data"][field]

    def app(self, name: str) -> Any:
        return self.ask("flashAppByName", _APP, flashAppName=name)

    def environment(self, app: str) -> Any:
        given = {"flashAppId": app, "name": "production"}
        return self.ask("flashEnvironmentByName", _ENVIRONMENT, input=given)

    def upload(self, app: str, archive: bytes, manifest: Any) -> str:
        """The id of the build that an archive becomes."""
        given = {"flashAppId": app, "tarballSize": len(archive)}
        wanted = "uploadUrl objectKey expiresAt"
        place = self.ask("prepareFlashArtifactUpload", wanted, input=given)
        sent = httpx.put(place["uploadUrl"], content=archive, timeout=60)  # without a key
        assert sent.status_code == 200, sent.text
        given = {"flashAppId": app, "objectKey": place["objectKey"], "manifest": manifest}
        build = self.ask("finalizeFlashArtifactUpload", "id manifest", input=given)
        assert build["manifest"] == manifest
        return str(build["id"])

    def deploy(self, app: str, build: str) -> Any:
        given = {"flashEnvironmentId": f"{app}/production", "flashBuildId": build}
        return self.ask(
            "deployBuildToEnvironment", "id name activeArtifact { objectKey }", input=given
        )

    def save(self, app: str, name: str) -> Any:
        given = {"name": name, "flashEnvironmentId": f"{app}/production", "type": "QB"}
        return self.ask("saveEndpoint", _ENDPOINT, input=given)


def archive(files: Mapping[str, str], manifest: Any) -> bytes:
    """As its build leaves it: the files, what was generated, and packages beside them."""
    generated = {
        "flash_manifest.json": json.dumps(manifest),
        **{f"handler_{name}.py": "raise ImportError" for name in manifest["resources"]},
        "runpod_flash/__init__.py": "raise ImportError",
        "idna/__init__.py": "raise ImportError",
        "idna-3.dist-info/RECORD": "idna/__init__.py,,\nidna-3.dist-info/RECORD,,\n",
    }
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as tar:
        for path, text in {**files, **generated}.items():
            data = textwrap.dedent(text).encode()
            info = tarfile.TarInfo(f"./{path}")
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return out.getvalue()
