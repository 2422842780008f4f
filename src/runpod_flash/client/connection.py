"""A server, asked over HTTP from a thread of its own."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, TypeVar

from runpod_flash.client.chosen import COMMAND, VARIABLE
from runpod_flash.client.credentials import key_for, origin_of
from runpod_flash.client.reaching import fields_in, json_of, why_unreachable, words_of
from runpod_flash.client.shadows import import_httpx
from runpod_flash.errors import ConfigurationError, ConnectionClosedError, StoreFullError
from runpod_flash.wire import frames
from runpod_flash.wire.frames import MEDIA_TYPE, FrameReader

if TYPE_CHECKING:
    import ssl
    from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
    from concurrent.futures import Future

    import httpx

    from runpod_flash.wire.frames import Buffer, Frame

T = TypeVar("T")

# How long one request may wait for a job; the next one goes on waiting.
WAIT_MS = 30_000
# A server that was there may be away for so long.
PATIENCE_SECONDS = 30.0
PAUSE_SECONDS = 0.05
# Large values are sent in parts of this size.
_PART = 1 << 20


class Connection:
    """A server, asked from a thread of its own.

    `insecure`: the key may go over plain http. `named_by` is what chose the server; empty where
    a command's user has named it.
    """

    def __init__(self, address: str, *, insecure: bool = False, named_by: str = VARIABLE) -> None:
        self.origin = origin_of(address)
        self._named_by = named_by
        self._key = key_for(address, insecure=insecure)
        import_httpx()
        self._client: httpx.AsyncClient | None = None
        self._was_there = False
        self._stream = -1
        self._loop = asyncio.new_event_loop()
        # The name is looked up by a thread that is there: Python 3.12.1 starts none as it ends.
        executor = ThreadPoolExecutor(1, thread_name_prefix="flash-client")
        executor.submit(int)
        self._loop.set_default_executor(executor)
        threading.Thread(target=self._loop.run_forever, name="flash-client", daemon=True).start()

    def spawn(self, work: Coroutine[Any, Any, T]) -> Future[T]:
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    async def ask(self, method: str, path: str, sent: Frame | None = None) -> list[Frame]:
        """The frames that the server answers. A job's id makes it safe to ask again.

        Raises `ConnectionClosedError` where it cannot be reached, and `ConfigurationError` with
        its own words where it refuses.
        """
        pieces = [] if sent is None else frames.encode(sent)
        return await self._patiently(lambda: self._exchange(method, path, pieces))

    async def ask_json(
        self, method: str, path: str, value: Any = None, body: bytes = b""
    ) -> dict[str, Any]:
        """What the server answers in JSON, to a value or a body of frames; raises as `ask`."""
        headers = {"accept": "application/json"}
        if value is not None:
            body = json.dumps(value).encode()
            headers["content-type"] = "application/json"
        url = f"{self.origin}{path}"

        async def asked() -> httpx.Response:
            response = await self._connected().request(method, url, content=body, headers=headers)
            if not response.is_success:
                raise self._refusal(response)
            return response

        told: dict[str, Any] = json_of(self._name, await self._patiently(asked))
        return told

    async def _exchange(self, method: str, path: str, pieces: Sequence[Buffer]) -> list[Frame]:
        """Large values are neither put together to be sent, nor kept twice as they come."""
        reader, found = FrameReader(None), []
        content, headers = _content(pieces)
        async with self._connected().stream(
            method, f"{self.origin}{path}", content=content, headers=headers
        ) as response:
            if response.headers.get("content-type") != MEDIA_TYPE:
                await response.aread()
                raise self._refusal(response)
            async for piece in response.aiter_raw():
                found += reader.feed(piece)
        return found

    @contextlib.asynccontextmanager
    async def streaming(self, path: str) -> AsyncIterator[AsyncIterator[bytes]]:
        """The pieces of a response that goes on for as long as both ends are there."""
        import httpx

        try:
            async with self._connected().stream("GET", f"{self.origin}{path}") as response:
                if not response.is_success:
                    await response.aread()
                    raise self._refusal(response)
                self._stream = _descriptor(response)
                yield response.aiter_bytes()
        except httpx.TransportError as error:
            raise self._unreachable(error) from None
        finally:
            self._stream = -1

    def abandon(self) -> None:
        """In a forked child: let go of the parent's stream, by which the server sees it alive."""
        if self._stream >= 0:
            # (Not closed: its number would be another's, which what is left of the loop may close.)
            null = os.open(os.devnull, os.O_RDWR)
            os.dup2(null, self._stream)
            os.close(null)

    async def _patiently(self, ask: Callable[[], Awaitable[T]]) -> T:
        """The answer; a server that stops, or was there and is not, is being started again.

        Where it was asked too often, it is asked again when it says.
        """
        import httpx

        loop = asyncio.get_running_loop()
        until, pause = loop.time() + PATIENCE_SECONDS, PAUSE_SECONDS
        while True:
            try:
                answer = await ask()
            except RateLimitedError as error:
                await asyncio.sleep(error.seconds)
                continue
            except ServerStoppingError:
                if loop.time() > until:
                    raise
            except httpx.TransportError as error:
                if not self._was_there or loop.time() > until:
                    raise self._unreachable(error) from None
            else:
                self._was_there = True
                return answer
            await asyncio.sleep(pause * random.uniform(0.5, 1))
            pause = min(2 * pause, 1.0)

    def _connected(self) -> httpx.AsyncClient:
        import httpx

        if self._client is None:
            headers = {"content-type": MEDIA_TYPE, "accept": MEDIA_TYPE}
            if self._key is not None:
                headers["authorization"] = f"Bearer {self._key}"
            timeout = WAIT_MS / 1000 + 30
            # Proxies are not for it: the server is this machine's, or one's own.
            limits = httpx.Limits(max_connections=None)
            self._client = httpx.AsyncClient(
                timeout=timeout,
                trust_env=False,
                headers=headers,
                limits=limits,
                verify=trusted(self.origin),
            )
        return self._client

    def _unreachable(self, error: Exception) -> ConnectionClosedError:
        name = self._named_by
        instead = "is it running?"
        if name == COMMAND:
            instead = f"start it, or `{name} none` to run embedded"
        elif name:
            instead = f"start it, or unset {name} to run embedded"
        why = why_unreachable(self.origin, error, instead, answered=self._was_there)
        return ConnectionClosedError(f"{self._name} cannot be reached: {why}")

    @property
    def _name(self) -> str:
        return f"{self.origin} ({self._named_by})" if self._named_by else self.origin

    def _refusal(self, response: httpx.Response) -> ConfigurationError:
        said = words_of(response)
        text = f"{self._name}: {said}"
        if response.status_code == 429:
            return RateLimitedError(text, response.headers.get("retry-after", ""))
        if response.status_code == 503:
            stopping = fields_in(response.content).get("stopping") is True
            return ServerStoppingError(text) if stopping else ServerFullError(text)
        kind = AppGoneError if response.status_code == 404 and _is_session(response) else None
        return (kind or ConfigurationError)(text)


def trusted(origin: str) -> ssl.SSLContext | bool:
    """Which certificates count (those of SSL_CERT_FILE, where that is set).

    None are loaded where none is shown: that takes a while.
    """
    import httpx

    return httpx.create_ssl_context() if origin.startswith("https:") else False


def _content(pieces: Sequence[Buffer]) -> tuple[bytes | AsyncIterator[bytes], dict[str, str]]:
    """A body, and the headers that it needs."""
    if len(pieces) <= 1:
        return bytes(pieces[0]) if pieces else b"", {}
    size = sum(memoryview(piece).nbytes for piece in pieces)
    return _parts(pieces), {"content-length": str(size)}


async def _parts(pieces: Sequence[Buffer]) -> AsyncIterator[bytes]:
    for piece in pieces:
        view = memoryview(piece).cast("B")
        for at in range(0, len(view), _PART):
            yield bytes(view[at : at + _PART])


class RateLimitedError(ConfigurationError):
    """The server was asked too often; `seconds` says when it may be asked again."""

    def __init__(self, text: str, after: str) -> None:
        super().__init__(text)
        self.seconds = float(after) if after.isascii() and after.isdigit() else 1.0


class ServerStoppingError(ConfigurationError, ConnectionClosedError):
    """The server ends, and takes nothing more."""


class ServerFullError(ConfigurationError, StoreFullError):
    """The server takes no more jobs now; its own words say why."""


class AppGoneError(ConfigurationError):
    """The server does not know this program's app (any more)."""


def _descriptor(response: httpx.Response) -> int:
    number: int = response.extensions["network_stream"].get_extra_info("socket").fileno()
    return number


def _is_session(response: httpx.Response) -> bool:
    return response.request.url.path.startswith(("/s/", "/v2/sessions/"))
