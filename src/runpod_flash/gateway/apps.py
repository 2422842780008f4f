"""From a request to the gateway of the app that it is for: a program's, or one that is deployed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from runpod_flash.control.releases import AppEnv
from runpod_flash.gateway import sentinel
from runpod_flash.gateway.access import for_inner
from runpod_flash.gateway.control import is_control
from runpod_flash.gateway.deployments import PREFIX as DEPLOYED
from runpod_flash.gateway.messages import Refusal, header
from runpod_flash.gateway.sessions import PREFIX as BROUGHT

if TYPE_CHECKING:
    from collections.abc import Callable

    from runpod_flash.gateway.access import Identity
    from runpod_flash.gateway.app import Gateway
    from runpod_flash.gateway.deployments import Deployment, Deployments
    from runpod_flash.gateway.messages import Scope
    from runpod_flash.gateway.sessions import Sessions
    from runpod_flash.project.catalog import Discovered


class Apps:
    """`named` is what the outer gateway itself serves; `identify` raises where one may not ask."""

    def __init__(
        self,
        sessions: Sessions,
        deployments: Deployments | None,
        named: Callable[[str], Discovered | None],
        identify: Callable[[Scope], Identity],
    ) -> None:
        self._sessions = sessions
        self._deployments = deployments
        self._named = named
        self._identify = identify

    def within(self, scope: Scope) -> tuple[Gateway, Scope] | None:
        """Who answers, and the request as it is there; None for one that is for no other app."""
        found = self._found(scope)
        return None if found is None else (found[0], for_inner(found[1]))

    def _found(self, scope: Scope) -> tuple[Gateway, Scope] | None:
        path = scope["path"]
        if path.startswith((BROUGHT, DEPLOYED)):
            self._identify(scope)  # whether there is such an app is no stranger's business
            _, kind, text, *rest = path.split("/", 3)
            inner = {**scope, "path": f"/{''.join(rest)}", "root_path": f"/{kind}/{text}"}
            return self._below(f"/{kind}/", text), inner
        if not self._deployments:
            return None
        named = sentinel.asked(path) and not is_control(path)
        if named or header(scope, b"x-flash-endpoint") is not None:
            return self._named_by_headers(self._deployments, scope)
        if not path.startswith("/v2/"):
            return _named_by_host(self._deployments, scope)
        _, _, endpoint_id, *rest = path.split("/", 3)
        at = self._at(self._deployments, endpoint_id, scope)
        if at is None:
            return None
        deployment, name = at
        return deployment.gateway, {**scope, "path": "/".join(["/v2", name, *rest])}

    def _named_by_headers(
        self, deployments: Deployments, scope: Scope
    ) -> tuple[Gateway, Scope] | None:
        app, environment, name = sentinel.named_by_headers(scope)
        if app:
            found = deployments.get(AppEnv(app, environment))
            return None if found is None else (found.gateway, scope)
        at = self._at(deployments, name, scope)
        return None if at is None else (at[0].gateway, sentinel.naming(scope, at[1]))

    def _at(
        self, deployments: Deployments, name: str, scope: Scope
    ) -> tuple[Deployment, str] | None:
        """The deployed endpoint of that id; for a worker of an app, its own of that name first."""
        key = self._identify(scope).key
        if key is not None and key.app:
            return deployments.at_id(f"{key.app}-{name}") or deployments.at_id(name)
        return None if self._named(name) else deployments.at_id(name)

    def _below(self, prefix: str, text: str) -> Gateway:
        if prefix == BROUGHT:
            return self._sessions.gateway(text)
        found = self._deployments.at(text) if self._deployments else None
        if found is None:
            raise Refusal(404, f"nothing is deployed at {prefix}{text}; `flash app list` shows all")
        return found.gateway


def _named_by_host(deployments: Deployments, scope: Scope) -> tuple[Gateway, Scope] | None:
    """At ID.HOST are the routes of the endpoint, as the hosted service has them."""
    at = deployments.at_id((header(scope, b"host") or "").partition(".")[0].lower())
    if at is None:
        return None
    deployment, name = at
    return deployment.gateway, sentinel.naming(scope, name)
