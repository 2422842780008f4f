"""Asks a server about what it has besides endpoints: its resources below /v2."""

from __future__ import annotations

import random
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from runpod_flash.client.connection import (
    PATIENCE_SECONDS,
    PAUSE_SECONDS,
    ServerStoppingError,
    trusted,
)
from runpod_flash.client.credentials import key_for, origin_of
from runpod_flash.client.reaching import fields_in, json_of, why_unreachable, words_of
from runpod_flash.errors import ConfigurationError, ConnectionClosedError
from runpod_flash.loopback import is_loopback

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from contextlib import AbstractContextManager

    import httpx

_SECONDS = 30.0
# A stream on which nothing comes for so long is dead: servers send something more often.
_SILENT_SECONDS = 60.0


class ControlClient:
    """A server, with a key or the one that there is for it.

    `insecure`: the key may go over plain http.
    """

    def __init__(self, address: str, *, insecure: bool = False, key: str | None = None) -> None:
        self.origin = origin_of(address)
        self.key = key_for(address, insecure=insecure, given=key)
        # Whether it was there before.
        self.answered = False

    @property
    def needs_key(self) -> bool:
        """Whether callers from elsewhere need one, as far as the address tells."""
        return not is_loopback(urlsplit(self.origin).hostname or "")

    def ask(
        self,
        method: str,
        path: str,
        fields: dict[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Any:
        """The JSON that the server answers, None for an answer without a body.

        Raises `ConnectionClosedError` where it cannot be reached, and `ConfigurationError` with
        its own words where it refuses.
        """
        with self.connected() as client:
            response = client.request(method, f"{self.origin}{path}", json=fields, headers=headers)
        return self.read(response)

    def ask_again(
        self,
        method: str,
        path: str,
        fields: dict[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Any:
        """As `ask`, for what may be asked twice: a server that was there is waited for a while."""
        until, pause = time.monotonic() + PATIENCE_SECONDS, PAUSE_SECONDS
        while True:
            try:
                return self.ask(method, path, fields, headers)
            except ConnectionClosedError:
                if not self.answered or time.monotonic() > until:
                    raise
            time.sleep(pause * random.uniform(0.5, 1))
            pause = min(2 * pause, 1.0)

    @contextmanager
    def stream(self, path: str, headers: Mapping[str, str]) -> Iterator[Iterator[str]]:
        """The lines of an event stream, as they come. Raises as `ask` does, also meanwhile."""
        with (
            self.connected(_SILENT_SECONDS) as client,
            client.stream("GET", f"{self.origin}{path}", headers=headers) as response,
        ):
            if not response.is_success or not _is_stream(response):
                response.read()
                self.read(response)
            self.answered = True
            yield response.iter_lines()

    def connected(self, seconds: float = _SECONDS) -> AbstractContextManager[httpx.Client]:
        """For several requests, which it sends the key with; an answer may take so many seconds.

        Raises `ConnectionClosedError` in its block where the server cannot be reached.
        """
        return asking(self.origin, self.key, seconds, answered=self.answered)

    def read(self, response: httpx.Response) -> Any:
        """What it says in JSON; raises `ConfigurationError` where it refuses.

        That is a `ConnectionClosedError` as well where the server ends.
        """
        self.answered = True
        if not response.is_success:
            text = f"{self.origin}: {words_of(response)}"
            stopping = fields_in(response.content).get("stopping") is True
            raise ServerStoppingError(text) if stopping else ConfigurationError(text)
        return json_of(self.origin, response)


def _is_stream(response: httpx.Response) -> bool:
    kind: str = response.headers.get("content-type", "")
    return kind.startswith("text/event-stream")


@contextmanager
def asking(
    origin: str, key: str | None = None, seconds: float = _SECONDS, *, answered: bool = False
) -> Iterator[httpx.Client]:
    """A client for a server, to which nothing may come for so many seconds.

    `answered` says that it was there before.

    Raises `ConnectionClosedError` in its block where the server cannot be reached.
    """
    import httpx

    headers = {"authorization": f"Bearer {key}"} if key else {}
    try:
        # Proxies are not for it; a certificate of one's own is named by SSL_CERT_FILE.
        with httpx.Client(
            timeout=httpx.Timeout(_SECONDS, read=seconds),
            trust_env=False,
            verify=trusted(origin),
            headers=headers,
        ) as client:
            yield client
    except httpx.TransportError as error:
        otherwise = "is the server running, and is this its address?"
        why = why_unreachable(origin, error, otherwise, answered=answered)
        raise ConnectionClosedError(f"{origin} cannot be reached: {why}") from None
