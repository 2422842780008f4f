"""A registry of images on the loopback: one image, which is private below /private/."""

from __future__ import annotations

import base64
import json
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

USER, PASSWORD = "ada", "correct horse"
_CREDENTIALS = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()


class Registry:
    """Serves what `podman push ... dir:FOLDER` has written, as any NAME with the tag `1`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.asked: list[str] = []
        registry = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                registry.asked.append(self.path)
                status, kind, body = registry.answer(self.path, self.headers["authorization"] or "")
                self.send_response(status)
                if status == 401:
                    self.send_header("www-authenticate", 'Basic realm="tests"')
                self.send_header("content-type", kind)
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                if self.command == "GET":
                    self.wfile.write(body)

            do_HEAD = do_GET  # noqa: N815

            def log_message(self, *args: object) -> None:
                """Nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"127.0.0.1:{self._server.server_port}"
        Thread(target=self._server.serve_forever, daemon=True).start()

    def answer(self, path: str, authorization: str) -> tuple[int, str, bytes]:
        # (By the first address clients learn how to say who they are.)
        is_private = path == "/v2/" or path.startswith("/v2/private/")
        if is_private and authorization != f"Basic {_CREDENTIALS}":
            return 401, "application/json", _problem("UNAUTHORIZED", "authentication required")
        if path == "/v2/":
            return 200, "application/json", b"{}"
        name, _, rest = path.removeprefix("/v2/").rpartition("/")
        if name.endswith("/blobs"):
            return 200, "application/octet-stream", self._file(rest.removeprefix("sha256:"))
        if name.startswith("absent/") or not (rest == "1" or rest.startswith("sha256:")):
            return 404, "application/json", _problem("MANIFEST_UNKNOWN", "manifest unknown")
        manifest = self._file("manifest.json")
        return 200, json.loads(manifest)["mediaType"], manifest

    def _file(self, name: str) -> bytes:
        return (self.folder / name).read_bytes()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


def _problem(code: str, message: str) -> bytes:
    return json.dumps({"errors": [{"code": code, "message": message}]}).encode()
