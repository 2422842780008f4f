"""Declaring routes: the function stays itself, and what cannot be is refused."""

from __future__ import annotations

import asyncio
import re
from typing import Any

import pytest

from runpod_flash import Endpoint
from runpod_flash.errors import ConfigurationError

CPU = "cpu3c-1-2"


async def sample(text: str = "") -> str:
    return text


@pytest.mark.parametrize("method", ["get", "post", "put", "delete", "patch"])
def test_a_route_returns_the_function_unchanged_and_registers_it(method: str) -> None:
    api = Endpoint(name="api", cpu=CPU)

    async def handler(text: str) -> str:
        return text

    assert getattr(api, method)("/images/{file_name}")(handler) is handler
    assert asyncio.run(handler("x")) == "x"
    path = "/images/{file_name}"
    route = {"path": path, "function": handler, "function_name": "handler"}
    assert api._routes == [{**route, "method": method.upper()}]
    assert vars(handler)["__remote_config__"]["is_lb_route_handler"] is True
    assert vars(handler)["__remote_config__"]["path"] == path
    assert vars(handler)["__is_lb_route_handler__"] is True


@pytest.mark.parametrize(
    ("options", "path", "message"),
    [
        ({}, "/x", "routes need an Endpoint with a name="),
        ({"name": "api"}, "x", "path='x': a route's path starts with '/'"),
        ({"name": "api"}, 3, "path=3: a route's path starts with '/'"),
        ({"name": "api"}, "/ping", "path='/ping': /execute, /ping are reserved"),
        ({"name": "api"}, "/execute", "path='/execute': /execute, /ping are reserved"),
        ({"name": "api", "scaler_type": "QUEUE_DELAY"}, "/x",
         "scaler_type='QUEUE_DELAY': routes are scaled by REQUEST_COUNT"),
        ({"name": "api", "max_concurrency": 2}, "/x",
         "max_concurrency=2: it is for queues; routes have no limit"),
    ],
)  # fmt: skip
def test_a_wrong_route_is_refused(options: dict[str, Any], path: Any, message: str) -> None:
    with pytest.raises(ConfigurationError, match=f"^{re.escape(message)}$"):
        Endpoint(**options).get(path)


def test_a_route_that_is_taken_is_refused_with_the_function_that_has_it() -> None:
    api = Endpoint(name="api", cpu=CPU)
    first, second = api.post("/x"), api.post("/x")
    first(sample)
    api.get("/x")(sample)
    with pytest.raises(ConfigurationError, match="path='/x': POST /x is 'sample' already"):
        api.post("/x")
    with pytest.raises(ConfigurationError, match="POST /x is 'sample' already"):
        second(sample)


@pytest.mark.parametrize("options", [{"data": {"a": 1}}, {"timeout": 3}])
def test_data_and_options_are_for_clients_only(options: dict[str, Any]) -> None:
    with pytest.raises(TypeError, match=r"\.post\(path\) declares a route: it takes a path only"):
        Endpoint(name="api").post("/x", **options)


def test_a_route_decorates_a_function_only() -> None:
    with pytest.raises(TypeError, match="a route decorates a function"):
        Endpoint(name="api").get("/x")(type("Thing", (), {}))
