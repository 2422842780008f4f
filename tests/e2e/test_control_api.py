"""REST v2 of a server: endpoints that were deployed, templates, registries and the catalog."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import httpx
import pytest

from behaviour.servers import server
from e2e.shop import Shop, until
from integration.served import write

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

ENDPOINT = "shop-production-hello"
ROUTES = "shop-production-web"
QUEUE_DELAY = {"type": "QUEUE_DELAY", "queueDelay": 1}


class Control:
    """A server's control API, and the project that is deployed there."""

    def __init__(self, shop: Shop) -> None:
        self.shop = shop
        headers = {"authorization": f"Bearer {shop.target.key}"}
        self.http = httpx.Client(base_url=shop.target.address, headers=headers, timeout=60)

    def ask(self, method: str, path: str, status: int = 200, fields: Any = None) -> Any:
        answer = self.http.request(method, f"/v2/{path}", json=fields)
        assert answer.status_code == status, answer.text
        if status >= 400:
            assert answer.headers["content-type"] == "application/problem+json"
        return answer.json() if answer.content else None

    def refused(self, method: str, path: str, status: int, fields: Any = None) -> str:
        """The problem's detail, or what is wrong with each field."""
        told = self.ask(method, path, status, fields)
        return "\n".join(told.get("errors", [told["detail"]]))

    def endpoint(self, **changes: Any) -> Any:
        if changes:
            return self.ask("PATCH", f"serverless/{ENDPOINT}", 200, changes)
        return self.ask("GET", f"serverless/{ENDPOINT}")


@pytest.fixture(scope="module")
def deployed(tmp_path_factory: pytest.TempPathFactory, shared_cache: Path) -> Iterator[Control]:
    folder = tmp_path_factory.mktemp("control")
    with server(folder, shared_cache) as target:
        shop = Shop(folder / "shop", target)
        shop.deploy()
        control = Control(shop)
        with control.http:
            yield control


def test_what_is_deployed_is_listed_with_its_settings(deployed: Control) -> None:
    found = deployed.ask("GET", "serverless")
    assert found["pagination"] == {"hasNextPage": False}
    assert {each["id"] for each in found["endpoints"]} == {ENDPOINT, ROUTES}
    hello = deployed.endpoint()
    at = f"{deployed.shop.target.address}/v2/{ENDPOINT}"
    assert hello["requestUrls"]["runSync"] == f"{at}/runsync"
    assert hello["requestUrls"]["status"] == f"{at}/status/{{job_id}}"
    assert hello["type"] == "QUEUE"
    assert hello["workers"] == {"min": 0, "max": 2, "idleTimeout": 60}
    assert hello["scaling"] == {"type": "QUEUE_DELAY", "queueDelay": 4}
    assert hello["cpu"] == [{"id": "cpu3c", "vcpuCount": 1, "memory": 2}]
    assert hello["env"] == {"MOOD": "********"}
    web = deployed.ask("GET", f"serverless/{ROUTES}")
    assert web["type"] == "LOAD_BALANCER"
    assert web["scaling"]["type"] == "REQUEST_COUNT"
    assert httpx.get(f"{web['requestUrls']['base']}/items/3").json() == {"number": 3, "version": 1}
    assert httpx.get(web["requestUrls"]["health"]).status_code == 200
    assert "there is no endpoint 'nobody'" in deployed.refused("GET", "serverless/nobody", 404)
    deployed.refused("GET", f"serverless/{ENDPOINT}/builds", 404)


def test_routes_are_below_the_server_s_name_too(deployed: Control) -> None:
    """As the hosted service has them; the name is resolved by whoever runs the server."""
    port = deployed.shop.target.address.rpartition(":")[2]
    of_id = {"host": f"{ROUTES}.localhost:{port}"}
    of_app = {
        "host": f"flash.localhost:{port}",
        "x-flash-app": "shop",
        "x-flash-environment": "production",
        "x-flash-endpoint": "web",
    }
    for headers in (of_id, of_app):
        answer = httpx.get(f"{deployed.shop.target.address}/items/7", headers=headers, timeout=60)
        assert answer.json() == {"number": 7, "version": 1}
    nobody = {"host": f"{ENDPOINT}.localhost:{port}"}
    refused = httpx.get(f"{deployed.shop.target.address}/items/7", headers=nobody)
    assert refused.status_code == 404
    assert "no endpoint 'hello' with routes" in refused.text


CATALOG = '"catalog":{"root":"","endpoints":[],"problems":[]}'


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "said"),
    [
        (
            "POST",
            "/v2/apps/a/environments/b/releases",
            '{"project":"p","files":[["a.py","zz",false]],' + CATALOG + "}",
            *(422, "'zz' is no SHA-256"),
        ),
        (
            "POST",
            "/v2/apps/a/environments/b/releases",
            '{"project":"\\ud800","files":[],' + CATALOG + "}",
            *(400, "half of a surrogate pair"),
        ),
        (
            "PUT",
            "/v2/sessions/" + "a" * 32,
            '{"app":"a","environment":"b","files":[["a.py","zz",false]],"caller_env":{},"whole":1,'
            + CATALOG
            + "}",
            *(400, "'zz' is no SHA-256"),
        ),
        (
            "PUT",
            "/v2/apps/shop/environments/production/secrets/A",
            '{"value":"\\uDfff"}',
            *(400, "half of a surrogate pair"),
        ),
        (
            "PATCH",
            f"/v2/serverless/{ENDPOINT}",
            '{"env":{"A":"\\ud800"}}',
            *(400, "half of a surrogate pair"),
        ),
        (
            "POST",
            "/graphql",
            '{"query":"{createFlashApp}","variables":{"input":{"name":"\\ud800"}}}',
            *(400, "half of a surrogate pair"),
        ),
        (
            "POST",
            "/graphql",
            '{"query":"{prepareFlashArtifactUpload}","variables":'
            '{"input":{"flashAppId":"shop","tarballSize":1e999}}}',
            *(200, "cannot convert float infinity to integer"),
        ),
    ],
)
def test_values_that_are_no_names_or_numbers_are_refused(
    deployed: Control, method: str, path: str, body: str, status: int, said: str
) -> None:
    refused = deployed.http.request(method, path, content=body)
    assert (refused.status_code, said in refused.text) == (status, True), refused.text


def test_changed_scaling_touches_no_worker_and_outlives_the_server(deployed: Control) -> None:
    pid = deployed.shop.call()["pid"]
    changed = deployed.endpoint(workers={"max": 3, "idleTimeout": 300}, scaling=QUEUE_DELAY)
    assert changed["workers"] == {"min": 0, "max": 3, "idleTimeout": 300}
    assert changed["scaling"] == QUEUE_DELAY
    assert deployed.endpoint() == changed
    assert deployed.shop.call()["pid"] == pid
    release, *_ = deployed.ask("GET", f"serverless/{ENDPOINT}/releases")["releases"]
    assert {"field": "workers.max", "old": 2, "new": 3} in release["diff"]
    assert release["workerCount"] == 1
    deployed.shop.target.stop()
    deployed.shop.target.start_again()
    assert deployed.endpoint()["workers"]["max"] == 3


def test_a_changed_variable_replaces_workers_and_fails_no_request(deployed: Control) -> None:
    pid = deployed.shop.call()["pid"]
    changed = deployed.endpoint(env={"MOOD": "wild", "MORE": "1"})
    assert changed["env"] == {"MOOD": "********", "MORE": "********"}
    found = deployed.shop.call()
    assert found["mood"] == "wild"
    assert found["pid"] != pid
    kept = deployed.endpoint(env={"MOOD": "********"})
    assert kept["env"] == {"MOOD": "********"}
    assert deployed.shop.call()["mood"] == "wild"
    releases = deployed.ask("GET", f"serverless/{ENDPOINT}/releases")
    until(lambda: deployed.ask("GET", f"serverless/{ENDPOINT}/workers")["summary"]["total"] == 1)
    assert releases["releases"][0]["diff"] == [
        {"field": "env", "old": ["MOOD", "MORE"], "new": ["MOOD"]}
    ]
    assert releases["rollout"].keys() == {
        "inProgress", "workersOnLatest", "workersTotal", "percentOnLatest"
    }  # fmt: skip


def test_workers_and_their_logs_are_asked_for_by_the_endpoint_s_id(deployed: Control) -> None:
    deployed.shop.call()
    found = deployed.ask("GET", f"serverless/{ENDPOINT}/workers")
    assert {each["status"] for each in found["workers"]} <= {"IDLE", "RUNNING"}
    assert sum(v for k, v in found["summary"].items() if k != "total") == len(found["workers"])
    worker = found["workers"][0]["id"]
    url = f"/v2/serverless/{ENDPOINT}/workers/{worker}/logs?follow=false&source=system"
    answer = deployed.http.get(url)
    assert answer.headers["content-type"] == "text/event-stream"
    overview = deployed.ask("GET", "flash/overview")
    assert {each["name"] for each in overview["endpoints"]} == {"hello", "web"}


@pytest.mark.parametrize(
    ("fields", "status", "said"),
    [
        ({"bogus": 1, "odd": 2}, 422, "$: 'bogus' is no field here"),
        ({"type": "QUEUE"}, 422, "$: 'type' is no field here"),
        ({"workers": {"most": 1}}, 422, "$.workers: must not contain {'most'} properties"),
        ({"workers": {"min": -1}}, 422, "$.workers.min: must be bigger than or equal to 0"),
        ({"scaling": {"type": "REQUEST_COUNT"}}, 422, "REQUEST_COUNT has requestCount"),
        ({"env": {"A": 1}}, 422, "$.env.A: must be string"),
        ({"workers": {"min": 9}}, 400, "min 9 is above max"),
        ({"gpu": {"pools": ["ADA_24"]}}, 400, "runs on CPUs, which cannot be changed"),
        ({"cpu": [{"id": "cpu9", "vcpuCount": 2}]}, 400, "there is no 'cpu9' with 2 vCPUs"),
        ({"image": "vllm/vllm-openai"}, 400, "runs the code that it was deployed with"),
        ({"name": "other"}, 400, "has the name that its code gives it"),
        ({"flashboot": "PRIORITY_FLASHBOOT"}, 400, "no priorities"),
        ({"dataCenterIds": ["MARS-1"]}, 400, "MARS-1"),
        ({"networkVolumes": ["nothing"]}, 400, "there is no volume 'nothing'"),
        ({"env": {"NEW": "********"}}, 400, "NEW had no value to keep"),
        ({"templateId": "none"}, 404, "there is no template 'none'"),
    ],
)
def test_a_change_that_cannot_be_is_refused_and_changes_nothing(
    deployed: Control, fields: Any, status: int, said: str
) -> None:
    before = deployed.endpoint()
    assert said in deployed.refused("PATCH", f"serverless/{ENDPOINT}", status, fields)
    assert deployed.endpoint() == before


def test_an_endpoint_of_an_image_that_cannot_be_is_refused(deployed: Control) -> None:
    fields = {"name": "v", "type": "QUEUE", "scaling": QUEUE_DELAY, "image": "vllm/vllm-openai"}
    gpu = {"gpu": {"pools": ["ADA_24"]}}
    nameless = {**fields, **gpu, "image": ""}
    assert "image: name one" in deployed.refused("POST", "serverless", 400, nameless)
    odd = {**fields, **gpu, "args": "--model 'x"}
    assert "cannot be split into words" in deployed.refused("POST", "serverless", 400, odd)
    shop = {**fields, **gpu, "name": "shop"}
    assert "there is an app 'shop' already" in deployed.refused("POST", "serverless", 400, shop)
    spaced = {**fields, **gpu, "name": "two words"}
    assert "is no name for an app" in deployed.refused("POST", "serverless", 400, spaced)
    ports = {"PORT": "80", "PORT_HEALTH": "81"}
    balanced = {"type": "LOAD_BALANCER", "scaling": {"type": "REQUEST_COUNT", "requestCount": 1}}
    said = deployed.refused("POST", "serverless", 400, {**fields, **gpu, **balanced, "env": ports})
    assert "PORT_HEALTH is another port than PORT" in said
    assert "either gpu or cpu" in deployed.refused("POST", "serverless", 400, fields)
    few = {**fields, **gpu, "workers": {"min": 4}}
    assert "min 4 is above max 3" in deployed.refused("POST", "serverless", 400, few)
    routes = {**fields, **gpu, "type": "LOAD_BALANCER"}
    assert "scaled by REQUEST_COUNT" in deployed.refused("POST", "serverless", 400, routes)
    left = {"gpu": {"pools": ["ADA_24"], "excludedTypes": ["NVIDIA GeForce RTX 4090"]}}
    assert "leave no GPU" in deployed.refused("POST", "serverless", 400, {**fields, **left})
    missing = deployed.refused("POST", "serverless", 422, {"name": "v"})
    assert missing == "$: 'type' is needed\n$: 'scaling' is needed"


def test_templates_are_kept_and_give_an_endpoint_their_variables(deployed: Control) -> None:
    made = deployed.ask(
        "POST",
        "templates",
        201,
        {"name": "t", "image": "", "env": {"MOOD": "mild"}, "serverless": True},
    )
    assert made["env"] == {"MOOD": "********"}
    assert (made["disk"], made["category"], made["startSsh"]) == (64, "NVIDIA", True)
    path = f"templates/{made['id']}"
    assert deployed.ask("GET", "templates")["templates"] == [made]
    changed = deployed.ask("PATCH", path, 200, {"name": "u", "env": {"MOOD": "********", "B": "2"}})
    assert changed == {**made, "name": "u", "env": {"MOOD": "********", "B": "********"}}
    deployed.endpoint(templateId=made["id"], disk=10)
    assert deployed.shop.call()["mood"] == "mild"
    deployed.ask("DELETE", path, 204)
    assert "there is no template" in deployed.refused("GET", path, 404)
    pods = deployed.ask("POST", "templates", 201, {"name": "p", "image": "x"})
    said = deployed.refused("PATCH", f"serverless/{ENDPOINT}", 422, {"templateId": pods["id"]})
    assert "is one for pods" in said


def test_a_registry_s_password_is_never_shown(deployed: Control) -> None:
    fields = {"name": "hub", "username": "ada", "password": "s3cret-of-hers"}
    made = deployed.ask("POST", "registries", 201, fields)
    assert made.keys() == {"id", "name"}
    of_it = deployed.ask(
        "POST", "templates", 201, {"name": "t", "image": "x", "registry": made["id"]}
    )
    assert deployed.ask("GET", f"registries/{made['id']}") == made
    data = deployed.shop.target.data
    for file in data.rglob("*.db*"):
        assert b"s3cret-of-hers" not in file.read_bytes()
    deployed.ask("DELETE", f"registries/{made['id']}", 204)
    assert deployed.ask("GET", f"templates/{of_it['id']}")["registry"] is None
    assert deployed.ask("GET", "registries")["registries"] == []
    said = deployed.refused("POST", "registries", 422, {"name": "", "host": "x"})
    assert "'host' is no field here" in said


def test_the_catalog_says_what_there_is(deployed: Control) -> None:
    assert deployed.ask("GET", "catalog/gpus")["gpus"] == []
    cpus = deployed.ask("GET", "catalog/cpus")["cpus"]
    assert {each["id"] for each in cpus} == {"cpu3g", "cpu3c", "cpu5c"}
    assert deployed.ask("GET", "catalog/cpus/cpu5c")["vcpu"] == {"min": 1, "max": 8}
    shown = "catalog/datacenters/EU-RO-1?include=CPU_AVAILABILITY"
    place = deployed.ask("GET", shown)
    assert place["region"] == "EUROPE"
    assert {each["availability"] for each in place["cpuAvailability"]} == {"HIGH"}
    centers = "catalog/datacenters?regions=EUROPE,ASIA&networkVolumeTypes=STANDARD"
    found = deployed.ask("GET", centers)["dataCenters"]
    assert {each["id"][:2] for each in found} == {"EU"}
    assert deployed.ask("GET", "catalog/datacenters?compliance=HIPAA")["dataCenters"] == []
    assert "cloud: it is not known" in deployed.refused("GET", "catalog/gpus?cloud=SECURE", 422)
    assert "come together" in deployed.refused("GET", "catalog/cpus?include=AVAILABILITY", 400)
    assert "has no 'x'" in deployed.refused("GET", "catalog/gpus/x", 404)


def test_a_volume_is_given_to_an_endpoint_by_its_id(deployed: Control) -> None:
    fields = {"name": "models", "size": 10, "dataCenter": "EU-RO-1"}
    volume = deployed.ask("POST", "network-volumes", 201, fields)["id"]
    assert deployed.endpoint(networkVolumes=[volume])["networkVolumes"] == [volume]
    deployed.shop.call()
    in_use = deployed.refused("DELETE", f"network-volumes/{volume}", 409)
    assert "hello (shop-production)" in in_use
    assert deployed.endpoint(networkVolumes=[])["networkVolumes"] == []
    deployed.ask("DELETE", f"network-volumes/{volume}", 204)


def test_a_deleted_endpoint_ends_and_the_others_go_on(deployed: Control) -> None:
    deployed.shop.item()
    deployed.ask("DELETE", f"serverless/{ENDPOINT}", 204)
    assert [each["id"] for each in deployed.ask("GET", "serverless")["endpoints"]] == [ROUTES]
    run = f"{deployed.shop.target.address}/v2/{ENDPOINT}/runsync"
    assert httpx.post(run, json={"input": {}}).status_code == 404
    assert deployed.shop.item()["version"] == 1
    write(deployed.shop.folder, {"texts.py": "GREETING = 'again'\n"})
    deployed.shop.deploy()
    assert deployed.shop.call()["text"] == "again you"


def test_a_key_that_is_for_less_is_refused(deployed: Control) -> None:
    for fields in ({"name": "caller"}, {"name": "ci", "scope": "deploy", "endpoints": [ENDPOINT]}):
        key = deployed.ask("POST", "keys", 201, fields)["key"]
        headers = {"authorization": f"Bearer {key}"}
        for path in ("v2/serverless", f"v2/serverless/{ROUTES}", "graphql", "v1/networkvolumes"):
            url, body = f"{deployed.shop.target.address}/{path}", {"query": "{ myself { id } }"}
            method = "POST" if path == "graphql" else "GET"
            answer = httpx.request(method, url, headers=headers, json=body)
            assert answer.status_code == 403, (path, answer.text)


def test_nothing_of_the_control_api_is_for_strangers(deployed: Control) -> None:
    for path in ("serverless", f"serverless/{ENDPOINT}", "templates", "registries", "catalog/gpus"):
        answer = httpx.get(f"{deployed.shop.target.address}/v2/{path}")
        assert answer.status_code == 401
        assert answer.json()["title"] == "Unauthorized"
