"""The keys of a server: kept in its SQLite file as hashes, and all of them in memory."""

from __future__ import annotations

import asyncio
import json
import logging
import sqlite3
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from runpod_flash.control.key import Key, KeyRing, digest, ending_of, new_id, new_secret
from runpod_flash.errors import ConfigurationError
from runpod_flash.plane.store.database import transact

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from runpod_flash.control.key import KeyScope

T = TypeVar("T")

# When keys were last used is written so often.
_NOTED_SECONDS = 60.0


class NewKey(NamedTuple):
    """A key that was made. `secret` is what its client sends: it is known only now."""

    key: Key
    secret: str


class Keys:
    """Lives on an event loop; the file is read and written in threads.

    The file is `database.prepare`d. A change counts once it is on disk, and from then on for every
    request.
    """

    def __init__(self, path: Path, clock: Callable[[], float]) -> None:
        self.ring = KeyRing(clock)
        self._path = path
        self._noted: dict[str, float | None] = {}
        self._revoking = asyncio.Lock()

    async def load(self) -> None:
        """Read the keys of the file."""
        for key, hashed, used_at in await self.transact(_all):
            self.ring.add(key, hashed, used_at)
            self._noted[key.id] = used_at

    async def create(
        self,
        name: str,
        scope: KeyScope = "invoke",
        endpoints: tuple[str, ...] = (),
        expires_in: float | None = None,
    ) -> NewKey:
        """Make a key that holds for `expires_in` seconds, or until it is revoked.

        Raises `ConfigurationError` for a wrong value, and `NameTakenError`.
        """
        new = self.make(name, scope, endpoints, expires_in)
        await self.transact(lambda file: insert(file, new))
        self.admit(new)
        return new

    async def replace(self, old: Key | None, name: str, scope: KeyScope) -> NewKey:
        """Make a key in the place of one of that name, which ends."""
        new = self.make(name, scope)

        def work(file: sqlite3.Connection) -> None:
            file.execute("DELETE FROM keys WHERE id = ?", (old.id if old is not None else "",))
            insert(file, new)

        await self.transact(work)
        if old is not None:
            self.ring.drop(old.id)
        self.admit(new)
        return new

    def make(
        self,
        name: str,
        scope: KeyScope,
        endpoints: tuple[str, ...] = (),
        expires_in: float | None = None,
    ) -> NewKey:
        """A key that is not known to the server yet."""
        now, secret = self.ring.clock(), new_secret()
        expires_at = None if expires_in is None else now + expires_in
        key = Key(new_id(), name, scope, endpoints, ending_of(secret), now, expires_at)
        return NewKey(key, secret)

    def free_name(self, wanted: str) -> str:
        """That name, with a number where a key has it."""
        taken = {key.name for key in self.ring}
        numbered = (f"{wanted}-{number}" for number in range(2, len(taken) + 3))
        return next(name for name in (wanted, *numbered) if name not in taken)

    def admit(self, new: NewKey) -> None:
        """Have the server know a key that is in the file."""
        self.ring.add(new.key, digest(new.secret.encode()))

    async def revoke(self, key_id: str) -> bool:
        """End a key, at once; whether there was one of that id.

        Raises `LastAdminError` where nobody could make another one afterwards.
        """
        async with self._revoking:
            found = self.ring.get(key_id)
            if found is None:
                return False
            self._check_others(found)
            statement = "DELETE FROM keys WHERE id = ?"
            await self.transact(lambda file: file.execute(statement, (key_id,)))
            self.ring.drop(key_id)
            self._noted.pop(key_id, None)
            return True

    def _check_others(self, revoked: Key) -> None:
        others = [key for key in self.ring if key.id != revoked.id]
        if not any(key.may("admin") and not self.ring.expired(key) for key in others):
            raise LastAdminError(
                f"{revoked.name!r} is the last key that can make keys; make another one first: "
                "flash key create NAME --scope admin"
            )

    # Last use

    async def follow(self) -> None:
        """Note from time to time when keys were last used; ends by being cancelled."""
        failing = False
        while True:
            await asyncio.sleep(_NOTED_SECONDS)
            try:
                await self.note()
                failing = False
            except sqlite3.Error as error:  # a full disk, or a file that is locked: for a while
                if not failing:
                    text = "when keys were last used cannot be written, and is tried again: %s"
                    logging.getLogger(__name__).warning(text, error)
                failing = True

    async def note(self) -> None:
        """Write when keys were last used, where that has changed."""
        used = {key.id: self.ring.used_at(key.id) for key in self.ring}
        fresh = {key_id: at for key_id, at in used.items() if at != self._noted.get(key_id)}
        if fresh:
            rows = [(at, key_id) for key_id, at in fresh.items()]
            statement = "UPDATE keys SET used_at = ? WHERE id = ?"
            await self.transact(lambda file: file.executemany(statement, rows))
            self._noted.update(fresh)

    async def transact(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Do this to the file in a thread, wholly or not at all."""
        return await transact(self._path, work)


class NameTakenError(ConfigurationError):
    """There is a key of that name."""


class LastAdminError(ConfigurationError):
    """Without this key, nobody could make keys."""


def insert(file: sqlite3.Connection, new: NewKey) -> None:
    """Write a key; raises `NameTakenError`."""
    key = new.key
    row = (
        key.id, digest(new.secret.encode()), key.name, key.ending, key.scope,
        json.dumps(key.endpoints), key.created_at, key.expires_at,
    )  # fmt: skip
    try:
        file.execute(f"INSERT INTO keys VALUES ({', '.join('?' * len(row))}, NULL)", row)
    except sqlite3.IntegrityError:
        raise NameTakenError(
            f"there is a key named {key.name!r}; revoke it first, or choose another name"
        ) from None


def _all(file: sqlite3.Connection) -> list[tuple[Key, bytes, float | None]]:
    rows = file.execute(
        "SELECT id, name, scope, endpoints, ending, created_at, expires_at, hash, used_at FROM keys"
    )
    return [
        (Key(id_, name, scope, tuple(json.loads(endpoints)), ending, made, expires), hashed, used)
        for id_, name, scope, endpoints, ending, made, expires, hashed, used in rows
    ]
