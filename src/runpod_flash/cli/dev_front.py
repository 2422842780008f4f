"""Where `flash dev` answers requests, and what it does beside that."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING

from runpod_flash.cli import dev_screen
from runpod_flash.gateway.server import GatewayServer
from runpod_flash.plane.tasks import Tasks

if TYPE_CHECKING:
    from collections.abc import Callable

    from runpod_flash.gateway.server import Application

# Requests in flight get so long when the server stops.
_GRACE_SECONDS = 1.0


@dataclass(frozen=True)
class Options:
    """What the command line said."""

    host: str
    port: int
    reload: bool
    auto_provision: bool
    target: str | None = None


class Front:
    """A server for one application, at the address of the command line, and tasks.

    `tasks` end with it.
    """

    def __init__(self, application: Application, options: Options) -> None:
        self._application = application
        self._options = options
        self._server: GatewayServer | None = None
        self.tasks = Tasks()

    @property
    def server(self) -> GatewayServer:
        """Once it is started."""
        assert self._server is not None
        return self._server

    def open(self) -> GatewayServer:
        """Take the port. Raises `ConfigurationError` where it is not to be had."""
        self._server = GatewayServer(self._application, self._options.host, self._options.port)
        return self._server

    async def close(self, give_up: Callable[[], None], *, stopped: bool) -> None:
        """With `stopped`, somebody asked for it and is told.

        `give_up` ends what requests still wait for after a while.
        """
        if stopped:
            dev_screen.stopping()
        await self.tasks.close()
        if self._server is not None:
            stopping = asyncio.ensure_future(self._server.stop(2 * _GRACE_SECONDS))
            await asyncio.wait((stopping,), timeout=_GRACE_SECONDS)
            give_up()
            await stopping
