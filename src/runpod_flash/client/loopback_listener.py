"""Hears from the browser of this machine how a login has ended (RFC 8252, section 7.3)."""

from __future__ import annotations

import hmac
import queue
import threading
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import parse_qsl, urlsplit

if TYPE_CHECKING:
    from collections.abc import Callable

_PATH = "/callback"
_DROPPED = b"This answer is not to the login that waits here, and was dropped."


class Answered(NamedTuple):
    """How it has ended: with a key, or with an error in OAuth's or Flash's words."""

    key: str = ""
    error: str = ""


class LoopbackListener:
    """Listens on a free port of this machine for the one answer that has the state.

    `exchange` gives the key for a code. The browser is then sent to `pages`/done or /denied. Others
    that ask here, such as other pages in the same browser, change nothing.
    """

    def __init__(self, state: str, exchange: Callable[[str], str], pages: str) -> None:
        self._state = state
        self._exchange = exchange
        self._pages = pages
        self._lock = threading.Lock()
        self._over = False
        self._answered: queue.Queue[Answered] = queue.Queue()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self.address = f"http://127.0.0.1:{self._server.server_port}{_PATH}"

    def __enter__(self) -> LoopbackListener:
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def wait(self, seconds: float) -> Answered | None:
        """How it has ended; None where it has not within so many seconds."""
        try:
            return self._answered.get(timeout=seconds)
        except queue.Empty:
            return None

    def hear(self, target: str) -> Answered | None:
        """What a request says of the login; None for one that is not its answer, or not the first.

        Whoever asked is answered before `tell`: the program may end with it.
        """
        parts = urlsplit(target)
        given = dict(parse_qsl(parts.query))
        known = hmac.compare_digest(given.get("state", "").encode(), self._state.encode())
        with self._lock:
            if parts.path != _PATH or not known or self._over:
                return None
            self._over = True
        if "code" not in given:
            return Answered(error=given.get("error", "no code came"))
        try:
            return Answered(key=self._exchange(given["code"]))
        except Exception as error:  # whatever it is, somebody waits to hear of it
            return Answered(error=str(error) or type(error).__name__)

    def tell(self, answered: Answered) -> None:
        self._answered.put(answered)

    def page(self, answered: Answered) -> str:
        """Where the browser goes on."""
        return f"{self._pages}/{'done' if answered.key else 'denied'}"


def _handler(listener: LoopbackListener) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        timeout = 30

        def do_GET(self) -> None:
            answered = listener.hear(self.path)
            if answered is None:
                self._answer(400, _DROPPED)
                return
            # (Not here: what came stays in no address bar.)
            try:
                with suppress(OSError):  # the browser may have gone: the key is made all the same
                    self._answer(303, b"", location=listener.page(answered))
            finally:
                listener.tell(answered)

        def _answer(self, status: int, body: bytes, **headers: str) -> None:
            self.send_response(status)
            for name, value in {**headers, "content-type": "text/plain"}.items():
                self.send_header(name, value)
            self.send_header("content-length", str(len(body)))
            self.send_header("cache-control", "no-store")
            self.send_header("connection", "close")
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            """The terminal is the command's."""

    return Handler
