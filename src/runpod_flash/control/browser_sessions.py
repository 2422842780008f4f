"""Browsers in which somebody has signed in with a key: what approves logins without it."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING

from runpod_flash.control.key import digest

if TYPE_CHECKING:
    import sqlite3

    from runpod_flash.control.key import Key
    from runpod_flash.control.keys import Keys

SESSION_SECONDS = 7 * 86_400.0


class BrowserSessions:
    """Kept in the server's file, by the hashes of their tokens. A session ends with its key."""

    def __init__(self, keys: Keys) -> None:
        self._keys = keys

    async def begin(self, key: Key) -> str:
        """The token of a new session."""
        token = secrets.token_urlsafe(32)
        now = self._keys.ring.clock()
        row = (digest(token.encode()), key.id, now + SESSION_SECONDS)

        def work(file: sqlite3.Connection) -> None:
            file.execute("DELETE FROM browser_sessions WHERE expires_at <= ?", (now,))
            file.execute("INSERT INTO browser_sessions VALUES (?, ?, ?)", row)

        await self._keys.transact(work)
        return token

    async def key_of(self, token: str) -> Key | None:
        """Whose session it is; None for one that has ended."""
        where = (digest(token.encode()), self._keys.ring.clock())
        statement = "SELECT key_id FROM browser_sessions WHERE hash = ? AND expires_at > ?"
        row = await self._keys.transact(lambda file: file.execute(statement, where).fetchone())
        key = None if row is None else self._keys.ring.get(row[0])
        return None if key is None or self._keys.ring.expired(key) else key

    async def end(self, token: str) -> None:
        where = (digest(token.encode()),)
        statement = "DELETE FROM browser_sessions WHERE hash = ?"
        await self._keys.transact(lambda file: file.execute(statement, where))
