"""How `flash login` hears from a browser, whatever becomes of the browser and of the server."""

from __future__ import annotations

import socket
import struct
from threading import Event
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import httpx

from runpod_flash.client.loopback_listener import Answered, LoopbackListener

if TYPE_CHECKING:
    import pytest

PAGES = "http://server.example/oauth"


def test_a_key_is_told_though_the_browser_has_gone(capfd: pytest.CaptureFixture[str]) -> None:
    asked, gone = Event(), Event()

    def exchange(code: str) -> str:
        asked.set()
        assert gone.wait(20)
        return f"key of {code}"

    with LoopbackListener("state", exchange, PAGES) as listener:
        address = urlsplit(listener.address)
        browser = socket.create_connection(("127.0.0.1", address.port or 0))
        browser.sendall(b"GET /callback?state=state&code=1 HTTP/1.1\r\nHost: x\r\n\r\n")
        assert asked.wait(20)
        # Closed at once, with what it was sent still unread: a reset.
        browser.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        browser.close()
        gone.set()
        assert listener.wait(20) == Answered(key="key of 1")
    assert capfd.readouterr().err == ""


def test_whatever_goes_wrong_with_the_code_is_told() -> None:
    def exchange(_: str) -> str:
        raise LookupError("no such thing")

    with LoopbackListener("state", exchange, PAGES) as listener:
        answer = httpx.get(listener.address, params={"state": "state", "code": "1"})
        assert answer.headers["location"] == f"{PAGES}/denied"
        assert listener.wait(20) == Answered(error="no such thing")
