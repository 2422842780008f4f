"""Reads a server's logs: what is kept, and then, if wanted, what is written."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

from runpod_flash.errors import ConnectionClosedError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from runpod_flash.client.control import ControlClient

_TRIES = 5
_BEGUN = ": follows"


class LogReader:
    """Reads at one address. It goes on where it was: the last line's id is kept in `last`."""

    def __init__(self, server: ControlClient, path: str, **asked: str) -> None:
        self._server = server
        self._path = path
        self._asked = asked
        self.last = ""

    def kept(self) -> Iterator[dict[str, Any]]:
        """The lines that there are now, after the last one that was read."""
        yield from self._read("false", None)

    def follow(self, begun: Callable[[], None] | None = None) -> Iterator[dict[str, Any]]:
        """Lines without end; `begun` is called once no further one can be missed.

        A connection that breaks is made anew. Raises `ConnectionClosedError` where that fails
        again and again, and `ConfigurationError` where the server refuses.
        """
        failures = 0
        while True:
            try:
                for line in self._read("true", begun):
                    failures = 0
                    yield line
            except ConnectionClosedError:
                failures += 1
                if failures == _TRIES:
                    raise
            time.sleep(0.1 * 2**failures)

    def _read(self, follow: str, begun: Callable[[], None] | None) -> Iterator[dict[str, Any]]:
        headers = {"last-event-id": self.last} if self.last else {}
        query = urlencode({**self._asked, "follow": follow})
        with self._server.stream(f"{self._path}?{query}", headers) as lines:
            event = ""
            for text in lines:
                if text == _BEGUN and begun is not None:
                    begun()
                elif text.startswith("id: "):
                    event = text[4:]
                elif text.startswith("data: "):
                    self.last = event
                    yield {**json.loads(text[6:]), "id": event}
