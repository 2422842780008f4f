"""Whatever is made up from the OpenAPI document: no answer is a fault of the server's."""

from __future__ import annotations

import asyncio
import json
import os
import re
from hashlib import sha256
from typing import TYPE_CHECKING

import pytest

from integration.foreign import SCHEMATHESIS, python_with
from integration.served import KEY, serve
from runpod_flash.control.blobs import Blobs
from runpod_flash.project.discovery import discover

if TYPE_CHECKING:
    from pathlib import Path

    from integration.served import Served

pytestmark = [pytest.mark.slow, pytest.mark.network]  # installs the package, once

# (Nothing here fails by itself: what a function raises is told as 500 at its address.)
ANY = """
    from typing import Any
    from runpod_flash import Endpoint

    CPU = "cpu3c-1-2"

    @Endpoint(name="given", cpu=CPU)
    def given(text: str = "", number: int = 0, flag: bool = False, things: list[Any] | None = None):
        return {"text": text, "number": number, "flag": flag, "things": things}

    @Endpoint(name="whole", cpu=CPU)
    def whole(value: Any = None, **others: Any):
        return [value, others]

    @Endpoint(name="count", cpu=CPU)
    def count(**any_of_them: Any):
        yield from any_of_them
"""


async def schemathesis(
    served: Served, checks: str, paths: str, *options: str, described: str = ""
) -> str:
    """Run it on the paths that match; what it says, once nothing was found."""
    described = described or f"{served.address}/openapi.json"
    process = await asyncio.create_subprocess_exec(
        python_with(SCHEMATHESIS), "-m", "schemathesis.cli", "run",
        described, "--checks", checks, "--include-path-regex", paths,
        "--request-timeout", "20", "--no-color", "--max-examples", "10", "--seed", "7", *options,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        cwd=served.root,
        env={**os.environ, "HYPOTHESIS_STORAGE_DIRECTORY": str(served.root / "hypothesis")},
    )  # fmt: skip
    output, _ = await process.communicate()
    said = output.decode()
    assert process.returncode == 0, said
    return said


def number_tested(said: str) -> int:
    found = re.search(r"Tested: (\d+)", said)
    assert found is not None, said
    return int(found[1])


def test_no_request_to_a_function_s_address_is_answered_with_500(tmp_path: Path) -> None:
    async def scenario(served: Served) -> None:
        said = await schemathesis(served, "not_a_server_error", "^/any")
        assert number_tested(said) == 15, said

    serve(tmp_path, {"any.py": ANY}, scenario)


def test_the_queue_api_answers_every_request_as_its_description_says(tmp_path: Path) -> None:
    checks = "not_a_server_error,status_code_conformance,content_type_conformance"

    async def scenario(served: Served) -> None:
        said = await schemathesis(served, f"{checks},response_schema_conformance", "^/v2/")
        assert number_tested(said) == 10, said

    serve(tmp_path, {"any.py": ANY}, scenario)


async def deployed(served: Served) -> dict[str, str]:
    """Have the project deployed; the headers of who may ask the control API."""
    catalog = (await discover(served.root)).to_wire()
    for each in catalog["endpoints"]:
        each["spec"]["entry"]["root"] = ""
    source = (served.root / "any.py").read_bytes()
    digest = sha256(source).hexdigest()
    key = {"authorization": f"Bearer {KEY}"}
    Blobs(served.root / ".server" / "blobs").put(digest, source)
    release = {"project": "any", "files": [["any.py", digest, False]], "catalog": catalog}
    path = "/v2/apps/any/environments/production/releases"
    made = await served.post(path, release, headers=key)
    assert made.status_code == 202, made.text
    while not (await served.get("/v2/serverless", headers=key)).json()["endpoints"]:
        await asyncio.sleep(0.05)
    return key


@pytest.mark.timeout(400)
def test_the_control_api_answers_every_request_without_a_fault(tmp_path: Path) -> None:
    checks = "not_a_server_error,response_schema_conformance,content_type_conformance"

    async def scenario(served: Served) -> None:
        key = await deployed(served)
        fields = {"name": "any", "size": 10, "dataCenter": "EU-RO-1"}
        assert (await served.post("/v2/network-volumes", fields, headers=key)).status_code == 201
        paths = "^/v2/(serverless|templates|registries|catalog|apps|network-volumes)"
        said = await schemathesis(served, checks, paths, "-H", f"Authorization: Bearer {KEY}")
        assert number_tested(said) == 47, said

    serve(tmp_path, {"any.py": ANY}, scenario, control=True)


@pytest.mark.timeout(400)
def test_no_change_of_an_endpoint_that_is_there_is_answered_with_a_fault(tmp_path: Path) -> None:
    checks = "not_a_server_error,response_schema_conformance,content_type_conformance"

    async def scenario(served: Served) -> None:
        key = await deployed(served)
        document = (await served.get("/openapi.json", headers=key)).json()
        methods = document["paths"]["/v2/serverless/{id}"]
        methods["patch"]["parameters"][0]["schema"]["enum"] = ["any-production-given"]
        described = tmp_path / "openapi.json"
        described.write_text(json.dumps({**document, "paths": {"/v2/serverless/{id}": methods}}))
        said = await schemathesis(
            served, checks, "", "-H", f"Authorization: Bearer {KEY}", "--include-method", "PATCH",
            "--url", served.address, described=str(described),
        )  # fmt: skip
        assert number_tested(said) == 1, said
        path = "/v2/serverless/any-production-given/releases"
        assert len((await served.get(path, headers=key)).json()["releases"]) > 1

    serve(tmp_path, {"any.py": ANY}, scenario, control=True)
