"""The HTTP server under the gateway: uvicorn as a library, in the running event loop."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
import ssl
import sys
from typing import TYPE_CHECKING

import uvicorn

from runpod_flash.errors import ConfigurationError
from runpod_flash.gateway.connections import KeptHTTPProtocol

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path
    from typing import Any

    Application = Callable[[Any, Any, Any], Awaitable[None]]

_TRIES = 20
_BACKLOG = 2048
_LAST_SECONDS = 1.0
# A client whose machine takes nothing of what is sent for so long is gone, with its connection.
_SILENT_MS = 20_000
_IP_FREEBIND = 15  # Linux; `socket` has no name for it


class GatewayServer:
    """Serves a gateway on the first of `tries` ports from `port` on that is free (0: any).

    `tls` are the files of a certificate and of its key. With `early` the host's address need not
    be there yet, such as that of a bridge which comes with its first container.
    """

    def __init__(
        self,
        gateway: Application,
        host: str,
        port: int,
        tries: int = _TRIES,
        tls: tuple[Path, Path] | None = None,
        early: bool = False,
    ) -> None:
        self._host = host
        self._scheme = "http" if tls is None else "https"
        self._sockets = bind(host, port, tries, early)
        config = uvicorn.Config(
            gateway,
            lifespan="off",
            log_config=None,
            log_level="critical",  # a response that is broken off is no news to the terminal
            proxy_headers=False,
            access_log=False,
            server_header=False,
            http=KeptHTTPProtocol,
            ws="websockets-sansio",
            ws_max_size=64 << 20,
            backlog=_BACKLOG,
            timeout_graceful_shutdown=1,
            ssl_certfile=None if tls is None else tls[0],
            ssl_keyfile=None if tls is None else tls[1],
        )
        _load_tls(config)
        self._server = _Server(config)
        self._serving: asyncio.Task[None] | None = None

    @property
    def port(self) -> int:
        number: int = self._sockets[0].getsockname()[1]
        return number

    @property
    def address(self) -> str:
        host = f"[{self._host}]" if ":" in self._host else self._host
        return f"{self._scheme}://{host}:{self.port}"

    async def start(self) -> None:
        """Accept requests from now on."""
        self._serving = asyncio.create_task(self._server.serve(sockets=self._sockets))
        ready = asyncio.create_task(self._server.ready.wait())
        await asyncio.wait((self._serving, ready), return_when=asyncio.FIRST_COMPLETED)
        if self._serving.done():
            self._serving.result()

    async def stop(self, grace: float) -> None:
        """Accept nothing more; requests in flight get `grace` seconds, then they are cancelled."""
        self._server.config.timeout_graceful_shutdown = max(int(grace), 1)
        self._server.should_exit = True
        if self._serving is not None:
            with contextlib.suppress(asyncio.CancelledError):
                await self._serving
        # (Those that were cancelled have an answer to give.)
        if answering := self._server.server_state.tasks:
            await asyncio.wait(answering, timeout=_LAST_SECONDS)
        for each in self._sockets:
            each.close()


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.ready = asyncio.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.ready.set()

    @contextlib.contextmanager
    def capture_signals(self):  # type: ignore[no-untyped-def]
        """Signals are the program's business."""
        yield


def _load_tls(config: uvicorn.Config) -> None:
    if config.ssl_certfile is None:
        return
    try:
        config.load()
    except (OSError, ssl.SSLError) as error:
        raise ConfigurationError(
            f"--tls-cert {config.ssl_certfile} and --tls-key {config.ssl_keyfile} cannot be used: "
            f"{error.strerror or error}"
        ) from None


def bind(host: str, port: int, tries: int = _TRIES, early: bool = False) -> list[socket.socket]:
    """Listening sockets of the host's addresses, on the first port that is free in all of them.

    Raises `ConfigurationError` where none of so many is, and for a host that is not here.
    """
    addresses = _addresses(host)
    for candidate in range(port, port + 1 if port == 0 else port + tries):
        if candidate > 65535:
            break
        bound = _bind_all(addresses, candidate, early)
        if bound:
            return bound
    ports = (
        f"port {port} is" if tries == 1 else f"the ports from {port} to {port + tries - 1} are all"
    )
    raise ConfigurationError(f"{ports} in use; give another one with --port")


def _addresses(host: str) -> list[tuple[socket.AddressFamily, str]]:
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except OSError as error:
        raise ConfigurationError(f"--host {host}: {error.strerror or error}") from None
    addresses = {(family, str(place[0])) for family, _, _, _, place in found}
    # IPv4 first: its port is the one that is shown.
    return sorted(addresses, key=lambda each: each[0] != socket.AF_INET)


def _bind_all(
    addresses: list[tuple[socket.AddressFamily, str]], port: int, early: bool
) -> list[socket.socket]:
    bound: list[socket.socket] = []
    for family, address in addresses:
        try:
            number = bound[0].getsockname()[1] if bound else port
            bound.append(_bind(family, address, number, early))
        except OSError as error:
            if bound and error.errno in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT):
                continue  # a name with an address that this machine has switched off
            for each in bound:
                each.close()
            if error.errno in (errno.EADDRINUSE, errno.EACCES):
                return []
            raise ConfigurationError(f"{address} cannot be listened on: {error.strerror}") from None
    return bound


def _bind(family: socket.AddressFamily, address: str, port: int, early: bool) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        if sys.platform == "linux":  # (what is accepted has it as well)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _SILENT_MS)
        if early:
            sock.setsockopt(socket.IPPROTO_IP, _IP_FREEBIND, 1)
        sock.bind((address, port))
        sock.listen(_BACKLOG)
        sock.setblocking(False)
    except OSError:
        sock.close()
        raise
    return sock
