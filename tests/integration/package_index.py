"""A package index on the loopback: a folder of wheels, with a login if it is private."""

from __future__ import annotations

import base64
import hashlib
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


class PackageIndex:
    """`url` has the login in it; `fetched` are the names of files that were asked for."""

    def __init__(self, address: str, login: str) -> None:
        self.address = address
        self.url = f"http://{login}@{address}/simple" if login else f"http://{address}/simple"
        self.fetched: list[str] = []


@contextmanager
def package_index(folder: Path, login: str = "") -> Iterator[PackageIndex]:
    """Serve the wheels of the folder until the block is left."""
    expected = f"Basic {base64.b64encode(login.encode()).decode()}"

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.do_GET()

        def do_GET(self) -> None:
            if login and self.headers.get("authorization") != expected:
                self._send(401, b"", ("www-authenticate", "Basic"))
            elif self.path.startswith("/files/"):
                name = self.path.removeprefix("/files/")
                index.fetched += [name] if self.command == "GET" else []
                self._send(200, (folder / name).read_bytes())
            else:
                self._send(200, _page(folder, self.path.strip("/").rpartition("/")[2]))

        def _send(self, status: int, body: bytes, *headers: tuple[str, str]) -> None:
            self.send_response(status)
            for name, value in (*headers, ("content-type", "text/html")):
                self.send_header(name, value)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        index = PackageIndex(f"127.0.0.1:{server.server_port}", login)
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield index
        finally:
            server.shutdown()
            thread.join()


def _page(folder: Path, package: str) -> bytes:
    links = []
    for path in sorted(folder.glob("*.whl")):
        if path.name.partition("-")[0].replace("_", "-") == package:
            digest = hashlib.sha256(path.read_bytes()).hexdigest()
            links.append(f'<a href="/files/{path.name}#sha256={digest}">{path.name}</a>')
    return f"<!DOCTYPE html><html><body>{''.join(links)}</body></html>".encode()
