"""Archives of the hosted SDK that no build is made of."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from integration.served import KEY, Served, serve

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

OWNERS = {"authorization": f"Bearer {KEY}"}


async def asked(served: Served, field: str, wanted: str, **given: Any) -> Any:
    query = f"mutation M($input: Any) {{ {field}(input: $input) {{ {wanted} }} }}"
    body = {"query": query, "variables": {"input": given}}
    answer = (await served.post("/graphql", body, headers=OWNERS)).json()
    assert "errors" not in answer, answer
    return answer["data"][field]


def test_what_was_uploaded_and_never_finished_goes_when_it_expires(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("runpod_flash.gateway.hosted.builds._UPLOAD_SECONDS", 3.0)

    async def scenario(served: Served) -> None:
        app = await asked(served, "createFlashApp", "id", name="shop")
        given = {"flashAppId": app["id"], "tarballSize": 3}
        place = await asked(served, "prepareFlashArtifactUpload", "uploadUrl", **given)
        url = place["uploadUrl"]
        assert (await served.http.put(url, content=b"abc")).status_code == 200
        late = await asked(served, "prepareFlashArtifactUpload", "uploadUrl", **given)
        folder = served.root / ".server" / "apps" / "uploads"
        assert len(list(folder.iterdir())) == 1

        async def slowly() -> Any:
            yield b"a"
            await asyncio.sleep(4)
            yield b"bc"

        refused = await served.http.put(
            late["uploadUrl"], content=slowly(), headers={"content-length": "3"}
        )
        assert refused.status_code == 403, "it was expected no longer"
        assert (await served.http.put(url, content=b"abc")).status_code == 403
        assert list(folder.iterdir()) == []

    serve(tmp_path, {}, scenario, control=True)
