"""What people read: the start page, /docs and /openapi.json. Works without a network."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from runpod_flash.gateway.messages import Answer, answer, header
from runpod_flash.gateway.openapi import document
from runpod_flash.gateway.openapi_control import control_paths

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection
    from typing import Any

    from runpod_flash.gateway.messages import Scope
    from runpod_flash.project.catalog import Catalog, Discovered

    Describe = Callable[[Discovered], Awaitable[dict[str, Any] | None]]

# Where clients of REST v2 look for the description.
V2_DOCUMENT = "/v2/openapi.json"
_ASSETS = {
    "swagger-ui.css": b"text/css",
    "swagger-ui-bundle.js": b"text/javascript",
    "favicon-32x32.png": b"image/png",
}
_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<title>Flash</title>
<link rel="stylesheet" href="/docs/swagger-ui.css">
<link rel="icon" href="/docs/favicon-32x32.png">
</head>
<body>
<form id="ask" hidden style="font: 16px sans-serif; max-width: 40rem; margin: 12vh auto">
<p id="why"></p>
<input id="key" type="password" size="40" autocomplete="off" aria-label="Key" required>
<button>Open</button>
</form>
<div id="ui"></div>
<script src="/docs/swagger-ui-bundle.js"></script>
<script>
let key = sessionStorage.getItem("flash-key");
const ask = document.getElementById("ask");
const signed = (headers) => key ? {...headers, Authorization: `Bearer ${key}`} : headers;
async function show() {
  const answer = await fetch("/openapi.json", {headers: signed({})});
  ask.hidden = answer.ok;
  if (!answer.ok) {
    document.getElementById("why").textContent = (await answer.json()).error;
    return;
  }
  if (key) sessionStorage.setItem("flash-key", key);
  SwaggerUIBundle({spec: await answer.json(), dom_id: "#ui", deepLinking: true,
                   tryItOutEnabled: true, displayRequestDuration: true,
                   requestInterceptor: (r) => Object.assign(r, {headers: signed(r.headers)})});
}
ask.addEventListener("submit", (event) => {
  event.preventDefault();
  key = document.getElementById("key").value.trim();
  show();
});
show();
</script>
</body>
</html>
"""


class Documents:
    """`describe` gives the OpenAPI document of an endpoint's routes where a worker of it runs.

    `resources` are the names of what is there besides endpoints, below /v2.
    """

    def __init__(self, describe: Describe, resources: Collection[str] = ()) -> None:
        self._describe = describe
        self._resources = resources
        self._catalog: Catalog | None = None
        self._described: dict[str, dict[str, Any]] = {}  # by build

    def serve(self, catalog: Catalog) -> None:
        self._catalog = catalog
        builds = {each.spec.build_digest for each in catalog.endpoints}
        self._described = {key: known for key, known in self._described.items() if key in builds}

    async def answer(self, scope: Scope) -> Answer | None:
        """The answer, or None for an address that is none of these."""
        path = scope["path"]
        if scope["method"] not in ("GET", "HEAD"):
            return None
        if path == "/":
            return _start(scope)
        if path in ("/ping", "/health"):
            return answer(200, {"status": "healthy"})
        if path == "/docs":
            return Answer(200, _PAGE.encode(), b"text/html; charset=utf-8")
        if path in ("/openapi.json", V2_DOCUMENT):
            return Answer(200, json.dumps(await self._openapi()).encode())
        return _asset(path.removeprefix("/docs/")) if path.startswith("/docs/") else None

    async def _openapi(self) -> dict[str, Any]:
        assert self._catalog is not None
        for each in self._catalog.endpoints:
            digest = each.spec.build_digest
            told = each.routes and not each.spec.is_image
            if told and digest not in self._described:
                found = await self._describe(each)
                if found is not None:
                    self._described[digest] = found
        whole = document(self._catalog, self._described)
        return {**whole, "paths": {**whole["paths"], **control_paths(self._resources)}}


def _start(scope: Scope) -> Answer:
    if "text/html" in (header(scope, b"accept") or ""):
        return Answer(307, b"", headers=((b"location", b"/docs"),))
    return answer(200, {"message": "Flash Dev Server", "docs": "/docs"})


def _asset(name: str) -> Answer | None:
    if name not in _ASSETS:
        return None
    from swagger_ui_bundle import swagger_ui_path

    headers = ((b"cache-control", b"max-age=86400"),)
    return Answer(200, Path(swagger_ui_path, name).read_bytes(), _ASSETS[name], headers)
