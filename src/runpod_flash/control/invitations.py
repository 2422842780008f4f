"""Links that make one key each, for whoever has the link: how people come to a server."""

from __future__ import annotations

import json
import secrets
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from runpod_flash.control.key import digest
from runpod_flash.control.keys import NameTakenError, insert
from runpod_flash.errors import ConfigurationError

if TYPE_CHECKING:
    import sqlite3

    from runpod_flash.control.key import KeyScope
    from runpod_flash.control.keys import Keys, NewKey

_COLUMNS = "id, name, scope, endpoints, key_seconds, created_at, expires_at"


@dataclass(frozen=True)
class Invitation:
    """The key that a link makes: as a `Key` has it, and for how long it holds, None for ever."""

    id: str
    name: str
    scope: KeyScope
    endpoints: tuple[str, ...]
    key_seconds: float | None
    created_at: float
    expires_at: float


class NewInvitation(NamedTuple):
    """An invitation, and the token in its link: that is known only now."""

    invitation: Invitation
    token: str


class SpentLinkError(ConfigurationError):
    """The link does not work."""


class Invitations:
    """Kept in the server's file, by the hashes of their tokens, until they are used or expire."""

    def __init__(self, keys: Keys) -> None:
        self._keys = keys

    async def create(
        self,
        name: str,
        scope: KeyScope,
        seconds: float,
        endpoints: tuple[str, ...] = (),
        key_seconds: float | None = None,
    ) -> NewInvitation:
        """A link that works for so many seconds.

        Raises `ConfigurationError` for what would be no key, and `NameTakenError`.
        """
        self._keys.make(name, scope, endpoints)
        if self._keys.free_name(name) != name:
            raise NameTakenError(f"there is a key named {name!r}; choose another name")
        now, token = self._keys.ring.clock(), secrets.token_urlsafe(32)
        new = Invitation(
            f"inv_{secrets.token_hex(6)}", name, scope, endpoints, key_seconds, now, now + seconds
        )
        row = (
            new.id, digest(token.encode()), new.name, new.scope, json.dumps(new.endpoints),
            new.key_seconds, new.created_at, new.expires_at,
        )  # fmt: skip
        statement = f"INSERT INTO invitations VALUES ({', '.join('?' * len(row))})"
        await self._keys.transact(lambda file: file.execute(statement, row))
        return NewInvitation(new, token)

    async def pending(self) -> list[Invitation]:
        """Those that still work, the oldest first."""

        def work(file: sqlite3.Connection) -> list[Invitation]:
            self._forget_old(file)
            rows = file.execute(f"SELECT {_COLUMNS} FROM invitations ORDER BY created_at, id")
            return [_invitation(row) for row in rows]

        return await self._keys.transact(work)

    async def find(self, token: str) -> Invitation:
        """That of a link, which is as good as before; raises `SpentLinkError`."""
        return await self._keys.transact(lambda file: self._look(file, token))

    async def redeem(self, token: str) -> NewKey:
        """The key of a link, which then works no more; raises `SpentLinkError`."""
        found = await self.find(token)
        new = self._keys.make(
            self._keys.free_name(found.name), found.scope, found.endpoints, found.key_seconds
        )
        await self._keys.transact(lambda file: self._exchange(file, token, new))
        self._keys.admit(new)
        return new

    async def revoke(self, invitation_id: str) -> bool:
        """End one; whether there was one of that id."""
        statement, where = "DELETE FROM invitations WHERE id = ?", (invitation_id,)
        return await self._keys.transact(lambda file: file.execute(statement, where).rowcount > 0)

    def _exchange(self, file: sqlite3.Connection, token: str, new: NewKey) -> None:
        # One transaction: of two who click at once, one gets a key.
        found = self._look(file, token)
        file.execute("DELETE FROM invitations WHERE id = ?", (found.id,))
        insert(file, new)

    def _look(self, file: sqlite3.Connection, token: str) -> Invitation:
        self._forget_old(file)
        statement = f"SELECT {_COLUMNS} FROM invitations WHERE hash = ?"
        row = file.execute(statement, (digest(token.encode()),)).fetchone()
        if row is None:
            raise SpentLinkError("this link does not work: each works once, for a limited time")
        return _invitation(row)

    def _forget_old(self, file: sqlite3.Connection) -> None:
        file.execute("DELETE FROM invitations WHERE expires_at <= ?", (self._keys.ring.clock(),))


def _invitation(row: tuple[str, str, KeyScope, str, float | None, float, float]) -> Invitation:
    id_, name, scope, endpoints, key_seconds, created_at, expires_at = row
    return Invitation(
        id_, name, scope, tuple(json.loads(endpoints)), key_seconds, created_at, expires_at
    )
