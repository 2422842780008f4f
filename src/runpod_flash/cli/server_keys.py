"""The keys of `flash server`: who is asked for one, and who is told the first ones."""

from __future__ import annotations

import asyncio
import socket
from typing import TYPE_CHECKING

import click

from runpod_flash.cli import dev_screen
from runpod_flash.client.credentials import forget_key, keep_key, kept_key
from runpod_flash.control.keys import Keys
from runpod_flash.control.setup import first_start
from runpod_flash.gateway.access import Keyed, Keyless
from runpod_flash.loopback import is_loopback

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from runpod_flash.control.setup import SetupInfo
    from runpod_flash.gateway.access import Access

_ANY_HOST = ("0.0.0.0", "::")
# The key of the user who starts the server, for programs on this machine.
_LOCAL = "local"


class ServerKeys:
    """`asked` says whether calls need a key: always but on the loopback, unless that is wanted."""

    def __init__(self, keys: Keys, host: str, asked: bool) -> None:
        self.keys = keys
        self._asked = asked or not is_loopback(host)
        self._host = host
        self._noting: asyncio.Task[None] | None = None
        self._address = ""

    @classmethod
    async def open(
        cls, database: Path, clock: Callable[[], float], host: str, asked: bool
    ) -> ServerKeys:
        """The keys in a server's file."""
        keys = Keys(database, clock)
        await keys.load()
        return cls(keys, host, asked)

    @property
    def access(self) -> Access:
        return Keyed(self.keys.ring) if self._asked else Keyless(self.keys.ring)

    @property
    def hosts(self) -> tuple[str, ...]:
        """The names that requests may have for this server; where keys are asked for, any."""
        return ("*",) if self._asked else (self._host,)

    async def start(self, address: str) -> None:
        """Have a key at hand for this user's programs, and tell the first ones once."""
        self._address = _reachable(address, self._host, "localhost")
        self._noting = asyncio.create_task(self.keys.follow())
        info = await first_start(self.keys)
        if info is not None:
            _introduce(info, _reachable(address, self._host, socket.gethostname()))
        try:
            await self._keep(info)
        except OSError as error:
            dev_screen.say(f"no key is kept for this user's programs: {error}")

    async def _keep(self, info: SetupInfo | None) -> None:
        if info is not None:
            keep_key(self._address, info.key)
            return
        kept = self.keys.ring.find((kept_key(self._address) or "").encode())
        if kept is not None and kept.may("admin") and not self.keys.ring.expired(kept):
            return
        # This server's file is this user's, so that nothing is given away here.
        old = next((key for key in self.keys.ring if key.name == _LOCAL), None)
        new = await self.keys.replace(old, _LOCAL, "admin")
        keep_key(self._address, new.secret)

    async def close(self, *, forget: bool) -> None:
        """With `forget`, no key is kept for an address that will not be this server's again."""
        if self._noting is not None:
            self._noting.cancel()
        if forget and self._address:
            forget_key(self._address)
        await self.keys.note()


def _reachable(address: str, host: str, name: str) -> str:
    """The address as a client can use it."""
    if host not in _ANY_HOST:
        return address
    scheme, port = address.partition("://")[0], address.rpartition(":")[2]
    return f"{scheme}://{name}:{port}"


def _introduce(info: SetupInfo, address: str) -> None:
    # (Not to standard error, which is the log's: no key is ever in that.)
    click.echo("  This is the first start. Its admin key, shown this once:")
    click.echo(f"    {info.key}")
    click.echo("  To make another one in a browser (works once, for a day):")
    click.echo(f"    {address}/setup?token={info.token}")
    click.echo()
