"""Endpoints of images that REST v2 makes, of a body or a template, and changes of them."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from behaviour.servers import server
from e2e.shop import until
from slow.containers import needs_podman
from slow.images import QUEUE, WEB
from slow.registry import PASSWORD, USER

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from slow.containers import Podman
    from slow.registry import Registry

pytestmark = [pytest.mark.slow, pytest.mark.network, pytest.mark.timeout(300), needs_podman]
QUEUE_DELAY = {"type": "QUEUE_DELAY", "queueDelay": 4}
BALANCED = {"type": "LOAD_BALANCER", "scaling": {"type": "REQUEST_COUNT", "requestCount": 8}}
CPU = {"cpu": [{"id": "cpu3c", "vcpuCount": 1}]}


class Rest:
    """Asks a server with an admin key."""

    def __init__(self, address: str, key: str) -> None:
        headers = {"authorization": f"Bearer {key}"}
        self.http = httpx.Client(base_url=address, headers=headers, timeout=120, trust_env=False)

    def __call__(self, method: str, path: str, status: int, fields: Any = None) -> Any:
        answer = self.http.request(method, path, json=fields)
        assert answer.status_code == status, answer.text
        return answer.json() if answer.content else None


@pytest.fixture
def rest(engine: Podman, tmp_path: Path, shared_cache: Path) -> Iterator[Rest]:
    before = f"import os; os.environ['DOCKER_HOST'] = {engine.address!r}"
    with server(tmp_path / "server", shared_cache, before=before) as target:
        made = Rest(target.address, target.key)
        with made.http:
            yield made


def test_a_template_s_queue_worker_is_made_called_changed_and_deleted(
    engine: Podman, rest: Rest
) -> None:
    fields = {"name": "t", "image": QUEUE, "serverless": True, "env": {"MOOD": "calm"}}
    template = rest("POST", "/v2/templates", 201, fields)["id"]
    wanted = {"name": "made", "type": "QUEUE", "scaling": QUEUE_DELAY, **CPU}
    made = rest("POST", "/v2/serverless", 201, {**wanted, "templateId": template})
    assert (made["image"], made["type"], made["env"]) == (QUEUE, "QUEUE", {"MOOD": "********"})
    assert (made["workers"], made["timeout"]) == ({"min": 0, "max": 3, "idleTimeout": 10}, 300_000)
    told = rest("POST", made["requestUrls"]["runSync"], 200, {"input": {"a": 1}})
    assert told["output"]["given"] == {"a": 1}
    assert rest("GET", "/v2/serverless", 200)["endpoints"] == [made]
    said = rest("POST", "/v2/serverless", 400, {**wanted, "image": QUEUE})["detail"]
    assert "there is an app 'made' already" in said

    path = f"/v2/serverless/{made['id']}"
    changed = rest("PATCH", path, 200, {"env": {"GENERATOR": "1"}, "workers": {"max": 1}})
    assert changed["env"] == {"GENERATOR": "********"}
    job = rest("POST", f"/v2/{made['id']}/run", 200, {"input": {"stream": 3}})["id"]
    until(lambda: rest("GET", f"/v2/{made['id']}/status/{job}", 200)["status"] == "COMPLETED", 60)
    streamed = rest("GET", f"/v2/{made['id']}/stream/{job}", 200)["stream"]
    assert [each["output"] for each in streamed] == [0, 1, 2]
    releases = rest("GET", f"{path}/releases", 200)["releases"]
    assert {each["field"] for each in releases[0]["diff"]} == {"env", "workers.max"}
    rest("DELETE", path, 204)
    rest("GET", path, 404)
    assert rest("GET", "/v2/apps", 200)["apps"] == []
    until(lambda: not engine.containers())


def test_a_load_balanced_server_is_proxied_and_takes_another_image(rest: Rest) -> None:
    arguments = {"entrypoint": ["/usr/local/bin/python", "/web.py"]}
    fields = {
        "name": "web", "image": WEB, **BALANCED, **CPU, "args": json.dumps(arguments),
        "env": {"PORT": "8080", "HEALTH_CHECK_PATH": "/ready"},
    }  # fmt: skip
    made = rest("POST", "/v2/serverless", 201, fields)
    assert made["type"] == "LOAD_BALANCER"
    assert json.loads(made["args"])["entrypoint"] == arguments["entrypoint"]
    assert rest("GET", f"{made['requestUrls']['base']}/x", 200)["path"] == "/x"
    path = f"/v2/serverless/{made['id']}"
    said = rest("PATCH", path, 400, {"image": "localhost/absent:1"})["detail"]
    assert "localhost/absent" in said
    plain = rest("PATCH", path, 200, {"image": "localhost/functions:1", "args": _serve("/etc")})
    assert plain["image"] == "localhost/functions:1"
    answer = rest.http.get(f"{made['requestUrls']['base']}/group")
    assert answer.text.startswith("root:x:0:")


def _serve(folder: str) -> str:
    """Arguments by which the ready page is answered, and files of a folder are."""
    program = (
        "import http.server as h\n"
        "class H(h.SimpleHTTPRequestHandler):\n"
        "    def do_GET(self):\n"
        "        if self.path == '/ready': self.path = '/'\n"
        "        super().do_GET()\n"
        f"h.ThreadingHTTPServer(('', 8080), lambda *a: H(*a, directory={folder!r})).serve_forever()"
    )
    return json.dumps({"entrypoint": ["/usr/local/bin/python", "-c", program]})


def test_an_image_of_a_private_registry_is_had_by_a_stored_credential(
    rest: Rest, registry: Registry
) -> None:
    login = {"name": "r", "username": USER, "password": PASSWORD}
    stored = rest("POST", "/v2/registries", 201, login)["id"]
    fields = {
        "name": "own", "image": f"{registry.address}/private/rest:1", **BALANCED, **CPU,
        "ports": ["8080/http"], "env": {"HEALTH_CHECK_PATH": "/ready"}, "args": _serve("/etc"),
    }  # fmt: skip
    said = rest("POST", "/v2/serverless", 400, fields)["detail"]
    assert "gives " in said
    assert "to nobody without credentials" in said
    made = rest("POST", "/v2/serverless", 201, {**fields, "registry": stored})
    assert (made["registry"], list(made["env"])) == (stored, ["HEALTH_CHECK_PATH"])
    assert made["ports"] == ["8080/http"]
    rest("PATCH", f"/v2/serverless/{made['id']}", 200, {"workers": {"max": 2}})
    assert rest.http.get(f"{made['requestUrls']['base']}/group").text.startswith("root:x:0:")
