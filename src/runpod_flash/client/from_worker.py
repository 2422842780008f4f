"""A server, asked from a worker: with the standard library, for a worker has no other packages.

Requests wait for jobs, so that each has a thread.
"""

from __future__ import annotations

import asyncio
import functools
import http.client
import ssl
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn, TypeVar
from urllib.parse import urlsplit

from runpod_flash.client.connection import WAIT_MS
from runpod_flash.client.credentials import key_for, origin_of
from runpod_flash.client.http import HttpBackend
from runpod_flash.client.reaching import words_in
from runpod_flash.errors import ConfigurationError, ConnectionClosedError
from runpod_flash.wire import frames
from runpod_flash.wire.frames import MEDIA_TYPE, FrameReader

if TYPE_CHECKING:
    from collections.abc import Coroutine, Mapping

    from runpod_flash.client.chosen import Chosen
    from runpod_flash.project.catalog import Discovered
    from runpod_flash.wire.frames import Frame

T = TypeVar("T")

_AT_ONCE = 256
_SECONDS = WAIT_MS / 1000 + 30


class Answered(NamedTuple):
    """A server's answer."""

    status: int
    kind: str
    body: bytes


def request(
    target: Chosen, method: str, path: str, body: bytes, headers: Mapping[str, str], seconds: float
) -> Answered:
    """Ask with this worker's key, and wait; raises `ConnectionClosedError`."""
    origin, key = origin_of(target.address), key_for(target.address)
    parts = urlsplit(origin)
    given = {**headers, **({} if key is None else {"authorization": f"Bearer {key}"})}
    host = str(parts.hostname)
    connection = (
        http.client.HTTPConnection(host, parts.port, timeout=seconds)
        if parts.scheme == "http"
        else http.client.HTTPSConnection(
            host, parts.port, timeout=seconds, context=ssl.create_default_context()
        )
    )
    try:
        connection.request(method, path, body, given)
        response = connection.getresponse()
        kind = response.headers.get("content-type", "")
        return Answered(response.status, kind, response.read())
    except (OSError, http.client.HTTPException) as error:
        raise ConnectionClosedError(
            f"{origin} ({target.by}) cannot be reached from this worker: {error}"
        ) from None
    finally:
        connection.close()


class _Connection:
    """`Asking` of a server."""

    def __init__(self, target: Chosen) -> None:
        self._target = target
        self._loop = asyncio.new_event_loop()
        self._threads = ThreadPoolExecutor(_AT_ONCE, "flash-request")
        threading.Thread(target=self._loop.run_forever, name="flash-client", daemon=True).start()

    def spawn(self, work: Coroutine[Any, Any, T]) -> Future[T]:
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    async def ask(self, method: str, path: str, sent: Frame | None = None) -> list[Frame]:
        """The frames that the server answers; raises as `Connection.ask`."""
        body = b"" if sent is None else b"".join(frames.encode(sent))
        headers = {"content-type": MEDIA_TYPE, "accept": MEDIA_TYPE}
        told = await self._loop.run_in_executor(
            self._threads, request, self._target, method, path, body, headers, _SECONDS
        )
        if told.kind != MEDIA_TYPE:
            said = words_in(told.body) or f"HTTP status {told.status}"
            raise ConfigurationError(f"{self._target.address}: {said}")
        return FrameReader(None).feed(told.body)


class _Nowhere:
    """`Places` of endpoints that are known by their ids: at the server, or not at all."""

    async def base(self, discovered: Discovered) -> str:
        return ""

    async def again(self) -> NoReturn:
        raise ConfigurationError("a worker brings no app to a server")


@functools.cache
def _connection(target: Chosen) -> _Connection:
    return _Connection(target)


def backend_at_server(target: Chosen, endpoint: str) -> HttpBackend:
    """The backend of an endpoint that is known by its id."""
    return HttpBackend(_connection(target), _Nowhere(), endpoint)
