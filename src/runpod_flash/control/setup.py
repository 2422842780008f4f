"""The first key of a server: made as it starts first, or in a browser with a link for one use."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING, NamedTuple

from runpod_flash.control.key import digest
from runpod_flash.control.keys import insert
from runpod_flash.errors import ConfigurationError

if TYPE_CHECKING:
    import sqlite3

    from runpod_flash.control.keys import Keys, NewKey

LINK_SECONDS = 24 * 3600.0


class SetupInfo(NamedTuple):
    """What the first start tells the person who did it: an admin key, and a setup link's token."""

    key: str
    token: str


class SpentLinkError(ConfigurationError):
    """The setup link does not work."""


async def first_start(keys: Keys) -> SetupInfo | None:
    """Make an admin key and a setup link; None where the server has keys already."""
    if any(True for _ in keys.ring):
        return None
    new = await keys.create("first", "admin")
    return SetupInfo(new.secret, await SetupLinks(keys).create())


class SetupLinks:
    """Tokens that make one admin key each, within a day. Only their hashes are kept."""

    def __init__(self, keys: Keys) -> None:
        self._keys = keys

    async def create(self) -> str:
        """The token of a new link."""
        token = secrets.token_urlsafe(32)
        row = (digest(token.encode()), self._keys.ring.clock() + LINK_SECONDS)
        await self._keys.transact(
            lambda file: file.execute("INSERT INTO setup_links VALUES (?, ?)", row)
        )
        return token

    async def check(self, token: str) -> None:
        """Raise `SpentLinkError` where the link does not work. It is as good as before."""
        await self._keys.transact(lambda file: self._look(file, token))

    async def redeem(self, token: str) -> NewKey:
        """An admin key for the link, which then works no more; raises `SpentLinkError`."""
        new = self._keys.make(self._keys.free_name("setup"), "admin")
        await self._keys.transact(lambda file: self._exchange(file, token, new))
        self._keys.admit(new)
        return new

    def _exchange(self, file: sqlite3.Connection, token: str, new: NewKey) -> None:
        # One transaction: of two who click at once, one gets a key.
        self._look(file, token)
        file.execute("DELETE FROM setup_links WHERE hash = ?", (digest(token.encode()),))
        insert(file, new)

    def _look(self, file: sqlite3.Connection, token: str) -> None:
        file.execute("DELETE FROM setup_links WHERE expires_at <= ?", (self._keys.ring.clock(),))
        hashed = digest(token.encode())
        if not file.execute("SELECT 1 FROM setup_links WHERE hash = ?", (hashed,)).fetchone():
            raise SpentLinkError("this setup link does not work: each works once, for a day")
