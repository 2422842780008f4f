"""Addresses that are no server's, or not in the way that they are asked: one sentence each."""

from __future__ import annotations

import asyncio
import http.server
import shutil
import socket
import ssl
import subprocess
import threading
from typing import TYPE_CHECKING

import pytest

from runpod_flash.agent import connection as agent
from runpod_flash.client.connection import Connection
from runpod_flash.client.control import ControlClient
from runpod_flash.errors import FlashError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from _typeshed import StrPath


class Page(http.server.BaseHTTPRequestHandler):
    """Answers everything with a page; below /v2/none, that there is nothing."""

    def do_GET(self) -> None:
        body = b"<html>a page</html>"
        self.send_response(404 if self.path.startswith("/v2/none") else 200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_PUT(self) -> None:
        self.do_GET()

    def log_message(self, *words: object) -> None:
        pass


@pytest.fixture
def web() -> Iterator[http.server.ThreadingHTTPServer]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Page) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def certificate(folder: Path) -> tuple[StrPath, StrPath]:
    made = folder / "cert.pem", folder / "key.pem"
    words = ["openssl", "req", "-x509", "-nodes", "-days", "2", "-subj", "/CN=localhost"]
    words += ["-newkey", "rsa:2048", "-out", str(made[0]), "-keyout", str(made[1])]
    subprocess.run(words, check=True, capture_output=True)
    return made


def said_by_both(origin: str, path: str = "/v2/apps") -> list[str]:
    """What a command says, and what a program does."""
    with pytest.raises(FlashError) as command:
        ControlClient(origin).ask("GET", path)

    async def asked() -> None:
        connection = Connection(origin, named_by="FLASH_TARGET")
        with pytest.raises(FlashError) as program:
            await asyncio.wrap_future(connection.spawn(connection.ask_json("PUT", path, {})))
        said.append(str(program.value))

    said = [str(command.value)]
    asyncio.run(asked())
    return said


class Stopping(Page):
    """Stops when it is asked first, and is there again when it is asked next."""

    asked = 0

    def do_PUT(self) -> None:
        type(self).asked += 1
        again = self.asked > 1
        body = b"{}" if again else b'{"error": "the plane is closed", "stopping": true}'
        self.send_response(200 if again else 503)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def test_a_server_that_stops_is_asked_again_until_it_is_there() -> None:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Stopping) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        connection = Connection(f"http://127.0.0.1:{server.server_port}")
        asked = connection.spawn(connection.ask_json("PUT", "/v2/apps", {}))
        assert asked.result(timeout=60) == {}
        server.shutdown()
    assert Stopping.asked == 2


@pytest.mark.parametrize(("path", "status"), [("/v2/apps", 200), ("/v2/none", 404)])
def test_what_is_no_flash_server_is_named_so(
    web: http.server.ThreadingHTTPServer, path: str, status: int
) -> None:
    for said in said_by_both(f"http://127.0.0.1:{web.server_port}", path):
        assert said.endswith(
            f": what answers there (HTTP status {status}) is no Flash server; check the address"
        )


def test_lines_are_read_from_event_streams_only(web: http.server.ThreadingHTTPServer) -> None:
    client = ControlClient(f"http://127.0.0.1:{web.server_port}")
    with pytest.raises(FlashError, match="is no Flash server"), client.stream("/v2/flash/logs", {}):
        pass


def test_https_at_a_server_without_a_certificate(web: http.server.ThreadingHTTPServer) -> None:
    for said in said_by_both(f"https://127.0.0.1:{web.server_port}"):
        assert f"; use http://127.0.0.1:{web.server_port} where it has no certificate" in said


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl makes the certificate")
def test_http_at_a_server_with_a_certificate_and_https_with_one_that_nobody_knows(
    web: http.server.ThreadingHTTPServer, tmp_path: Path
) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate(tmp_path))
    web.socket = context.wrap_socket(web.socket, server_side=True)
    for said in said_by_both(f"https://127.0.0.1:{web.server_port}"):
        assert "its certificate is not trusted (self" in said
        assert "; name the certificate of who signed it in SSL_CERT_FILE" in said
    for said in said_by_both(f"http://127.0.0.1:{web.server_port}"):
        assert "cannot be reached: it ends connections unanswered; use https://127" in said


def test_a_host_that_there_is_not() -> None:
    for said in said_by_both("http://box.invalid:8000"):
        assert "cannot be reached: there is no host of that name; check the address" in said


def test_a_server_that_answers_no_handshake_of_a_worker_has_lost_the_connection(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def main(origin: str) -> None:
        with pytest.raises(ConnectionError, match="timed out"):
            async with agent.connected(origin, "counts", "token"):
                pass

    monkeypatch.setattr(agent, "_OPEN_SECONDS", 0.05)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        asyncio.run(main(f"http://127.0.0.1:{silent.getsockname()[1]}"))
