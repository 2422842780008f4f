"""What `.get(path)` and its kin give on a client (`Endpoint(id=...)`): a request, once awaited."""

from __future__ import annotations

import asyncio
import io
import json
from email.message import Message
from typing import TYPE_CHECKING, Any, NoReturn

from runpod_flash import context
from runpod_flash.client.chosen import chosen_target
from runpod_flash.client.connection import trusted, words_in
from runpod_flash.client.credentials import key_for, origin_of
from runpod_flash.client.shadows import import_httpx
from runpod_flash.errors import ConfigurationError, ConnectionClosedError
from runpod_flash.unavailable import refuse

if TYPE_CHECKING:
    from collections.abc import Generator

    from runpod_flash.client.chosen import Chosen

_SECONDS = 60.0


class Request:
    """A request to a route of an endpoint; `client` is how errors call the endpoint.

    `options` may have a `timeout` in seconds; others are for other services.
    """

    def __init__(
        self,
        client: str,
        endpoint: str | None,
        method: str,
        path: str,
        data: Any,
        options: dict[str, Any],
    ) -> None:
        self._client = client
        self._endpoint = endpoint
        self._method = method
        self._path = path
        self._data = data
        self._timeout = options.get("timeout", _SECONDS)

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
        target = chosen_target()
        if self._endpoint is None or target is None:
            refuse(f"{self._client}.{self._method.lower()}()")
        if not self._path.startswith("/"):
            raise ConfigurationError(f"{self._path!r} is no path of a route: it starts with '/'")
        if context.current is not None:
            return await self._ask_from_worker(target, self._endpoint)
        response = await self._answer(target, self._endpoint)
        response.raise_for_status()
        return _value(response.headers.get("content-type", ""), response.content)

    async def _ask_from_worker(self, target: Chosen, endpoint: str) -> Any:
        from runpod_flash.client.from_worker import request

        headers = {"x-flash-endpoint": endpoint, "content-type": "application/json"}
        body = json.dumps(self._data).encode() if self._data is not None else b""
        told = await asyncio.to_thread(
            request, target, self._method, self._path, body, headers, self._timeout
        )
        if told.status >= 400:
            from urllib.error import HTTPError

            text = words_in(told.status, told.body)
            url = f"{target.address}{self._path}"
            raise HTTPError(url, told.status, text, Message(), io.BytesIO(told.body))
        return _value(told.kind, told.body)

    async def _answer(self, target: Chosen, endpoint: str) -> Any:
        import_httpx()
        import httpx

        origin, key = origin_of(target.address), key_for(target.address)
        headers = {"x-flash-endpoint": endpoint}
        if key is not None:
            headers["authorization"] = f"Bearer {key}"
        try:
            async with httpx.AsyncClient(
                timeout=self._timeout, trust_env=False, verify=trusted(origin)
            ) as client:
                return await client.request(
                    self._method,
                    f"{origin}{self._path}",
                    json=self._data,
                    headers=headers,
                )
        except httpx.ConnectError as error:
            raise ConnectionClosedError(
                f"{origin} ({target.by}) cannot be reached: {error}; is the server running?"
            ) from None


def _value(kind: str, body: bytes) -> Any:
    """What an answer says: JSON where it is that, else text."""
    if not body:
        return None
    return json.loads(body) if "json" in kind else body.decode(errors="replace")
