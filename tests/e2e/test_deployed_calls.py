"""Endpoints of a deployed app call each other, with a token that is good for nothing else."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

import httpx
import psutil
import pytest

from behaviour.programs import FORKS
from behaviour.servers import server
from e2e.shop import Shop, until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

FILES = {
    "outer.py": """
        import os
        from runpod_flash import Endpoint
        from inner import Model, count, fails, inner

        @Endpoint(name="outer", cpu="cpu3c-1-2")
        async def outer(x: int) -> dict:
            found = {"value": await inner(x), "chunks": [n async for n in count(3)]}
            found["method"] = await Model(2).times(x)
            job = inner.run(x)
            found["job"] = (await job.wait()).output
            try:
                await fails()
            except LookupError as error:
                found["error"] = str(error)
            return found

        @Endpoint(name="variables", cpu="cpu3c-1-2", idle_timeout=1)
        def variables() -> dict:
            return dict(os.environ)

        @Endpoint(name="elsewhere", cpu="cpu3c-1-2", env={"FLASH_TARGET": "http://localhost:9"})
        def elsewhere() -> list:
            return [os.environ["FLASH_TARGET"], os.environ.get("FLASH_API_KEY")]
    """,
    "inner.py": """
        import os
        from runpod_flash import Endpoint

        @Endpoint(name="inner", cpu="cpu3c-1-2", env={"SIDE": "inner"})
        def inner(x: int) -> list:
            return [x + 1, os.environ["SIDE"]]

        @Endpoint(name="count", cpu="cpu3c-1-2")
        async def count(n: int):
            for k in range(n):
                yield k

        @Endpoint(name="fails", cpu="cpu3c-1-2")
        async def fails():
            raise LookupError("no such thing")

        @Endpoint(name="model", cpu="cpu3c-1-2")
        class Model:
            def __init__(self, factor):
                self.factor = factor

            def times(self, x):
                return x * self.factor
    """,
    "web.py": """
        from runpod_flash import Endpoint

        api = Endpoint(name="web", cpu="cpu3c-1-2")

        @api.get("/items/{number}")
        async def item(number: int) -> dict:
            from inner import inner
            return {"number": number, "next": await inner(number)}

        @api.post("/echo")
        async def echo(text: str) -> dict:
            return {"text": text}
    """,
    "ids.py": """
        from runpod_flash import Endpoint

        @Endpoint(name="by-id", cpu="cpu3c-1-2")
        async def by_id(name: str, x: int) -> list:
            job = await Endpoint(id=name).runsync({"x": x})
            return job.output

        @Endpoint(name="by-route", cpu="cpu3c-1-2")
        async def by_route(name: str) -> list:
            web = Endpoint(id=name)
            return [await web.get("/items/4"), await web.post("/echo", {"text": "hi"})]
    """,
    "pyproject.toml": "[project]\nname = 'shop'\nversion = '1'\n",
}
RUNPOD_KEY = "rpa_of_the_deployer"


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory, shared_cache: Path) -> Iterator[Shop]:
    folder = tmp_path_factory.mktemp("server")
    options = ("--isolation", "apps", "--require-key")
    with server(folder, shared_cache, *options) as running:
        made = Shop(folder / "shop", running, FILES)
        made.deploy(RUNPOD_API_KEY=RUNPOD_KEY)
        Shop(folder / "other", running, {"inner.py": FILES["inner.py"]}).deploy()
        yield made


def test_a_function_calls_the_others_of_its_app_by_their_python_names(shop: Shop) -> None:
    assert shop.ask("outer", x=3) == {
        "value": [4, "inner"],
        "chunks": [0, 1, 2],
        "method": 6,
        "job": [4, "inner"],
        "error": "no such thing",
    }


def test_a_route_calls_a_function_of_its_app(shop: Shop) -> None:
    assert shop.item() == {"number": 3, "next": [4, "inner"]}


@pytest.mark.parametrize("name", ["inner", "shop-production-inner"])
def test_a_function_calls_another_by_its_name_or_id(shop: Shop, name: str) -> None:
    assert shop.ask("by-id", name=name, x=7) == [8, "inner"]


@pytest.mark.parametrize("name", ["web", "shop-production-web"])
def test_a_function_calls_routes_of_its_app(shop: Shop, name: str) -> None:
    found = shop.ask("by-route", name=name)
    assert found == [{"number": 4, "next": [5, "inner"]}, {"text": "hi"}]


def test_a_worker_has_a_token_of_its_app_and_no_key_of_the_deployer(shop: Shop) -> None:
    found = shop.ask("variables")
    assert (found["FLASH_APP"], found["FLASH_ENV"]) == ("shop", "production")
    assert found["FLASH_TARGET"] == shop.target.address
    environs = [found, *(process.environ() for process in shop.workers())]
    assert len(environs) > 2
    for environ in environs:
        assert environ.get("FLASH_API_KEY") != shop.target.key
        assert not {shop.target.key, RUNPOD_KEY} & set(environ.values())


@pytest.mark.skipif(not FORKS, reason="there are no zygotes")
def test_what_workers_are_forks_of_has_no_token(shop: Shop) -> None:
    def zygotes() -> list[psutil.Process]:
        found = []
        for process in shop.processes():
            with suppress(psutil.Error, OSError):  # it has ended
                if "zygote.py" in " ".join(process.cmdline()):
                    found.append(process)
        return found

    shop.ask("variables")
    until(lambda: bool(zygotes()))
    # It shows in all of its forks, as /proc/self/environ.
    assert not any("FLASH_API_KEY" in process.environ() for process in zygotes())


def test_the_token_is_for_the_endpoints_of_the_app_and_dies_with_the_worker(shop: Shop) -> None:
    token = shop.ask("variables")["FLASH_API_KEY"]
    http = httpx.Client(
        base_url=shop.target.address, headers={"authorization": f"Bearer {token}"}, timeout=60
    )
    with http:
        job = {"input": {"x": 1}}
        assert http.post("/v2/shop-production-inner/runsync", json=job).status_code == 200
        assert http.post("/v2/inner/runsync", json=job).json()["output"] == [2, "inner"]
        assert http.get("/d/shop-production/web/items/1").status_code == 200
        refused = http.post("/v2/other-production-inner/runsync", json=job)
        assert refused.status_code == 403
        assert refused.json()["error"] == "this key is only for the endpoints of shop-production"
        for method, path in (
            ("GET", "/d/other-production/inner/runsync"),
            ("GET", "/v2/apps"),
            ("GET", "/v2/keys"),
            ("GET", "/metrics"),
            ("GET", "/v2/serverless"),
            ("POST", "/v2/serverless/shop-production-inner/workers"),
            ("POST", "/v2/apps/shop/environments/production/secrets/A"),
            ("PUT", "/v2/sessions/0123456789abcdef0123456789abcdef"),
            ("POST", "/v2/blobs"),
        ):
            assert http.request(method, path).status_code == 403, path
        assert token[-4:] not in shop.flash("key", "list").stdout
        until(lambda: http.get("/v2/account").status_code == 401)  # it has idled out


def test_code_that_names_a_server_of_its_own_gets_no_token_to_send_there(shop: Shop) -> None:
    assert shop.ask("elsewhere") == ["http://localhost:9", None]
