"""What `.get(path)` and its kin give on a client (`Endpoint(id=...)`): a request, once awaited."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NoReturn

from runpod_flash.client.chosen import chosen_target
from runpod_flash.client.connection import trusted
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
        """The answer's JSON; raises `httpx.HTTPStatusError` for a status that says it failed."""
        target = chosen_target()
        if self._endpoint is None or target is None:
            refuse(f"{self._client}.{self._method.lower()}()")
        if not self._path.startswith("/"):
            raise ConfigurationError(f"{self._path!r} is no path of a route: it starts with '/'")
        response = await self._answer(target, self._endpoint)
        response.raise_for_status()
        if not response.content:
            return None
        is_json = "json" in response.headers.get("content-type", "")
        return response.json() if is_json else response.text

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
