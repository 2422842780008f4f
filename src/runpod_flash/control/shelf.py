"""Resources that are nothing but what was sent: templates, and credentials of registries."""

from __future__ import annotations

import json
import secrets
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from runpod_flash.plane.store.database import transact

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable
    from pathlib import Path

    from runpod_flash.control.vault import Vault

Kind = Literal["app", "build", "registry", "template"]

_ALPHABET = "abcdefghijklmnopqrstuvwxyz0123456789"
_ID_LENGTH = 10


class Kept(NamedTuple):
    """A resource with its id, and when it was made (POSIX)."""

    id: str
    created_at: float
    fields: dict[str, Any]


def new_id() -> str:
    """An id as REST v2 has them: lower-case letters and digits."""
    return "".join(secrets.choice(_ALPHABET) for _ in range(_ID_LENGTH))


class Shelf:
    """In the server's SQLite file, which is `database.prepare`d, encrypted: they hold secrets.

    Each method is a transaction, in a thread.
    """

    def __init__(self, path: Path, clock: Callable[[], float], vault: Vault) -> None:
        self._path = path
        self._clock = clock
        self._vault = vault

    async def all(self, kind: Kind) -> list[Kept]:
        """Those of a kind, the oldest first."""

        def work(file: sqlite3.Connection) -> list[Kept]:
            statement = (
                "SELECT id, created_at, value FROM resources WHERE kind = ? ORDER BY created_at, id"
            )
            return [self._kept(row) for row in file.execute(statement, (kind,))]

        return await transact(self._path, work)

    async def get(self, kind: Kind, resource_id: str) -> Kept | None:
        def work(file: sqlite3.Connection) -> Kept | None:
            statement = "SELECT id, created_at, value FROM resources WHERE (kind, id) = (?, ?)"
            row = file.execute(statement, (kind, resource_id)).fetchone()
            return None if row is None else self._kept(row)

        return await transact(self._path, work)

    async def put(self, kind: Kind, fields: dict[str, Any], resource_id: str = "") -> Kept:
        """Keep a new resource, or other fields of one that there is."""
        made = Kept(resource_id or new_id(), self._clock(), fields)
        row = (kind, made.id, made.created_at, self._vault.seal(json.dumps(fields)))

        def work(file: sqlite3.Connection) -> None:
            file.execute(
                "INSERT INTO resources VALUES (?, ?, ?, ?) "
                "ON CONFLICT (kind, id) DO UPDATE SET value = excluded.value",
                row,
            )

        await transact(self._path, work)
        return made

    async def remove(self, kind: Kind, resource_id: str) -> bool:
        """Whether there was one."""
        statement = "DELETE FROM resources WHERE (kind, id) = (?, ?)"
        return await transact(
            self._path, lambda file: file.execute(statement, (kind, resource_id)).rowcount > 0
        )

    def _kept(self, row: tuple[str, float, bytes]) -> Kept:
        return Kept(row[0], row[1], json.loads(self._vault.open(row[2])))
