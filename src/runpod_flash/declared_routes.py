"""The routes of an endpoint: which it can have, and the functions that answer them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from runpod_flash.declaration import check_decorated, refuse
from runpod_flash.errors import ConfigurationError
from runpod_flash.functions import route_config
from runpod_flash.scaling import ServerlessScalerType

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from runpod_flash.endpoint import Endpoint

_RESERVED_PATHS = ("/execute", "/ping")


def check_route(endpoint: Endpoint, method: str, path: str) -> None:
    """Raise `ConfigurationError` where the endpoint cannot have this route."""
    if endpoint.name is None:
        raise ConfigurationError("routes need an Endpoint with a name=")
    if endpoint._target is not None:
        raise ConfigurationError(
            f"endpoint {endpoint.name!r} decorates a function: it cannot have routes as well"
        )
    if endpoint._scaler_type is ServerlessScalerType.QUEUE_DELAY:
        raise refuse("scaler_type", "QUEUE_DELAY", "routes are scaled by REQUEST_COUNT")
    if endpoint._max_concurrency > 1:
        raise refuse(
            "max_concurrency", endpoint._max_concurrency, "it is for queues; routes have no limit"
        )
    if not isinstance(path, str) or not path.startswith("/"):
        raise refuse("path", path, "a route's path starts with '/'")
    if path in _RESERVED_PATHS:
        raise refuse("path", path, f"{', '.join(_RESERVED_PATHS)} are reserved")
    for route in endpoint._routes:
        if (route["method"], route["path"]) == (method, path):
            name = route["function_name"]
            raise refuse("path", path, f"{method} {path} is {name!r} already")


def add_route(endpoint: Endpoint, method: str, path: str, function: Callable[..., Any]) -> None:
    """Have the function answer this route. Raises `TypeError` where it is none."""
    check_decorated(function)
    if not hasattr(function, "__code__"):
        raise TypeError(f"a route decorates a function, not {function!r}")
    name = function.__name__
    route = {"method": method, "path": path, "function": function, "function_name": name}
    endpoint._routes.append(route)
    vars(function).update(
        __remote_config__=route_config(endpoint, method, path), __is_lb_route_handler__=True
    )
