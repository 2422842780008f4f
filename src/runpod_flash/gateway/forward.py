"""An ASGI application that passes every request on to another server: `flash dev --target`.

What a browser says of the page that asks is checked here, and goes no further.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING
from urllib.parse import unquote

from runpod_flash.gateway.access import KEY_HEADER
from runpod_flash.gateway.guard import Guard
from runpod_flash.gateway.messages import Refusal
from runpod_flash.gateway.noting import Answered
from runpod_flash.links.http_proxy import Headers, Proxy

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from runpod_flash.gateway.messages import Receive, Scope, Send

# About the page that asks.
_KEPT_BACK = frozenset(
    b"origin sec-fetch-site sec-fetch-mode sec-fetch-dest sec-fetch-user".split()
)


class Forward:
    """Passes on to `base`, an address with a path; `key` goes with each request.

    `on_request` is told of each request, once it is answered.
    """

    def __init__(
        self,
        base: str,
        key: str | None,
        allowed_hosts: Iterable[str] = (),
        on_request: Callable[[Answered], None] | None = None,
    ) -> None:
        self._base = base
        self._key = key
        self._guard = Guard(allowed_hosts)
        self._on_request = on_request
        self._proxy = Proxy("the target")

    async def close(self) -> None:
        await self._proxy.close()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            self._guard.check(scope)
            if scope["type"] == "websocket":
                where = self._address(scope), self._headers(scope)
                await self._proxy.web_socket(*where, scope, receive, send)
            else:
                await self._http(scope, receive, send)
        except Refusal as refusal:
            if scope["type"] == "http":
                await refusal.answer.send(send)
            else:
                await send({"type": "websocket.close", "code": 1008})
        except ConnectionError:
            pass  # the client has left

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        began = time.perf_counter()
        where = self._address(scope), self._headers(scope)
        status = await self._proxy.http(*where, scope, receive, send)
        if status is not None and self._on_request is not None:
            seconds = time.perf_counter() - began
            self._on_request(Answered(scope["method"], scope["path"], status, seconds))

    def _address(self, scope: Scope) -> str:
        path = (scope.get("raw_path") or scope["path"].encode()).decode("latin-1")
        _check_path(path)
        query = scope["query_string"].decode("latin-1")
        return f"{self._base}{path}{'?' if query else ''}{query}"

    def _headers(self, scope: Scope) -> Headers:
        kept = [(name, value) for name, value in scope["headers"] if name not in _KEPT_BACK]
        return [*kept, (KEY_HEADER, self._key.encode())] if self._key else kept


def _check_path(path: str) -> None:
    """Refuse (400) a path that may lead out of the base: the key is good for the whole target."""
    parts = unquote(path).replace("\\", "/").split("/")
    if "." in parts or ".." in parts:
        raise Refusal(400, f"the path {path!r:.80} has a segment . or ..; ask for it without those")
