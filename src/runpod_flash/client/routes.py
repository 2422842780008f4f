"""What `.get(path)` and its kin give on a client (`id=`, `image=`): a request, once awaited."""

from __future__ import annotations

import asyncio
import io
import json
from contextlib import asynccontextmanager
from email.message import Message
from typing import TYPE_CHECKING, Any, NoReturn

from runpod_flash import context
from runpod_flash.client.chosen import chosen_target
from runpod_flash.client.connection import trusted
from runpod_flash.client.credentials import key_for, origin_of
from runpod_flash.client.reaching import why_unreachable, words_in
from runpod_flash.client.shadows import import_httpx
from runpod_flash.errors import ConfigurationError, ConnectionClosedError, NotAvailableError
from runpod_flash.unavailable import refuse_without_server

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Generator

    from runpod_flash.client.chosen import Chosen
    from runpod_flash.functions import Target

_SECONDS = 60.0
# A server in an image may have to be pulled and to load its model first.
_IMAGE_SECONDS = 1800.0
_NOWHERE = "http://endpoint"


class Request:
    """A request to a route of an endpoint; `client` is how errors call the endpoint.

    `target` is that of an image. `options` may have a `timeout` in seconds; others are for other
    services.
    """

    def __init__(
        self,
        client: str,
        endpoint: str | None,
        method: str,
        path: str,
        data: Any,
        options: dict[str, Any],
        target: Target | None = None,
    ) -> None:
        self._client = client
        self._endpoint = endpoint
        self._method = method
        self._path = path
        self._data = data
        self._target = target
        self._timeout = options.get("timeout", _SECONDS if target is None else _IMAGE_SECONDS)

    @property
    def _words(self) -> str:
        return f"{self._client}.{self._method.lower()}()"

    def __await__(self) -> Generator[Any, None, Any]:
        return self._send().__await__()

    def __call__(self, *args: Any, **kwargs: Any) -> NoReturn:
        raise TypeError(
            f"{self._client} is a client: its .{self._method.lower()}() sends a request and "
            "decorates nothing; leave id= and image= out to declare routes"
        )

    async def _send(self) -> Any:
        """The answer's JSON; raises `httpx.HTTPStatusError` for a status that says it failed.

        In a worker, which may have no httpx, that is `urllib.error.HTTPError`.
        """
        if context.current is not None:
            return await self._ask_from_worker()
        async with self._answer() as response:
            await response.aread()
            response.raise_for_status()
            return _value(response.headers.get("content-type", ""), response.content)

    async def _ask_from_worker(self) -> Any:
        from runpod_flash.client.from_worker import request

        target = chosen_target()
        if self._endpoint is None:
            raise NotAvailableError(
                f"{self._words} reaches no image from a worker: call it with id= there"
            )
        if target is None:
            refuse_without_server(self._words)
        self._check_path()
        headers = {"x-flash-endpoint": self._endpoint, "content-type": "application/json"}
        body = json.dumps(self._data).encode() if self._data is not None else b""
        told = await asyncio.to_thread(
            request, target, self._method, self._path, body, headers, self._timeout
        )
        if told.status >= 400:
            from urllib.error import HTTPError

            text = words_in(told.body) or f"HTTP status {told.status}"
            url = f"{target.address}{self._path}"
            raise HTTPError(url, told.status, text, Message(), io.BytesIO(told.body))
        return _value(told.kind, told.body)

    def _check_path(self) -> None:
        if not self._path.startswith("/"):
            raise ConfigurationError(f"{self._path!r} is no path of a route: it starts with '/'")

    async def __aiter__(self) -> AsyncIterator[str]:
        """The answer's lines, as they come; raises as awaiting it does."""
        async with self._answer() as response:
            if response.is_error:
                await response.aread()
            response.raise_for_status()
            async for line in response.aiter_lines():
                yield line

    @asynccontextmanager
    async def _answer(self) -> AsyncIterator[Any]:
        import_httpx()
        import httpx

        chosen = chosen_target()
        if context.current is not None:
            raise NotAvailableError(f"{self._words} gives no lines in a worker: await it there")
        if self._target is None and chosen is None:
            refuse_without_server(self._words)
        self._check_path()
        base, options = await self._place(chosen)
        try:
            async with (
                httpx.AsyncClient(timeout=self._timeout, trust_env=False, **options) as client,
                client.stream(self._method, f"{base}{self._path}", json=self._data) as response,
            ):
                yield response
        except httpx.ConnectError as error:
            assert chosen is not None
            origin = origin_of(chosen.address)
            why = why_unreachable(origin, error, "is the server running?")
            raise ConnectionClosedError(
                f"{origin} ({chosen.by}) cannot be reached: {why}"
            ) from None

    async def _place(self, chosen: Chosen | None) -> tuple[str, dict[str, Any]]:
        """Where the endpoint's paths begin, and how a client asks there."""
        if chosen is None:
            from runpod_flash.client.embedded import embedded_backend
            from runpod_flash.client.plane_transport import PlaneTransport

            assert self._target is not None
            return _NOWHERE, {"transport": PlaneTransport(embedded_backend(), self._target)}
        origin, key = origin_of(chosen.address), key_for(chosen.address)
        base, endpoint = "", self._endpoint
        if self._target is not None:
            from runpod_flash.client.target import backend_at

            endpoint = self._target.name
            base = await backend_at(chosen, endpoint).place_of(self._target)
        headers = {"x-flash-endpoint": str(endpoint)}
        if key is not None:
            headers["authorization"] = f"Bearer {key}"
        return f"{origin}{base}", {"headers": headers, "verify": trusted(origin)}


def _value(kind: str, body: bytes) -> Any:
    """What an answer says: JSON where it is that, else text."""
    if not body:
        return None
    return json.loads(body) if "json" in kind else body.decode(errors="replace")
