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

# So many failures in a row are no mere blink.
_AWAY = 2
_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS = 0.1, 1.0
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

    def follow(
        self,
        begun: Callable[[], None] | None = None,
        away: Callable[[], None] | None = None,
    ) -> Iterator[dict[str, Any]]:
        """Lines without end; `begun` is called whenever no further one can be missed.

        A connection that breaks is made anew, however long that takes; `away` is called where it
        does not succeed at once. Raises `ConnectionClosedError` where the server was never there,
        and `ConfigurationError` where it refuses.
        """
        failures, pause = 0, _PAUSE_SECONDS

        def back() -> None:
            nonlocal failures, pause
            failures, pause = 0, _PAUSE_SECONDS
            if begun is not None:
                begun()

        while True:
            try:
                yield from self._read("true", back)
            except ConnectionClosedError:
                if not self._server.answered:
                    raise
                failures += 1
                if failures == _AWAY and away is not None:
                    away()
            time.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE_SECONDS)

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
