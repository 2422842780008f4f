"""Tokens of workers that are started elsewhere: one each, for its own endpoint, that dies with it.

Hashes are kept in memory and, where there is a file, in SQLite: such workers go on when the server
is started anew.
"""

from __future__ import annotations

import hashlib
import secrets
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from runpod_flash.plane.store.database import transact

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

# A worker that has not come for so long after its token was made will not come.
UNUSED_SECONDS = 86_400.0
# One of which nothing was heard for so long is dead; its jobs are given to others much sooner.
SILENT_SECONDS = 600.0
_PREFIX = "fw."


class NewWorker(NamedTuple):
    """A worker that may come. The token is known only now."""

    id: str
    token: str


@dataclass(slots=True, eq=False)
class Registered:
    """A worker that has a token. `heard_at` begins with its token, or with the server's start.

    While connections of it are open, nothing else need be heard; `ends` end them.
    """

    id: str
    endpoint: str
    hash: bytes
    created_at: float
    used: bool
    heard_at: float
    ends: list[Callable[[], object]] = field(default_factory=list)


class WorkerTokens:
    """On the plane's loop; `clock` gives seconds since 1970. The file is `database.prepare`d."""

    def __init__(self, clock: Callable[[], float], path: Path | None = None) -> None:
        self._clock = clock
        self._path = path
        self._workers: dict[str, Registered] = {}
        self.externals: list[str] = []

    async def load(self) -> None:
        """Read what an earlier server has written."""
        rows = await self._transact("SELECT id, endpoint, hash, created_at, used FROM workers")
        now = self._clock()
        for id_, endpoint, hash_, created_at, used in rows:
            heard_at = now if used else created_at
            self._workers[id_] = Registered(id_, endpoint, hash_, created_at, bool(used), heard_at)
        names = await self._transact("SELECT name FROM external_endpoints ORDER BY created_at")
        self.externals = [name for (name,) in names]

    async def issue(self, endpoint: str, worker_id: str = "") -> NewWorker:
        """A token for a new worker of the endpoint, whose id is made up if it has none."""
        await self._sweep()
        now, worker_id = self._clock(), worker_id or f"{endpoint}-{secrets.token_hex(4)}"
        token = f"{_PREFIX}{worker_id}.{secrets.token_urlsafe(24)}"
        worker = Registered(worker_id, endpoint, _hash(token), now, used=False, heard_at=now)
        await self._transact(
            "INSERT INTO workers VALUES (?, ?, ?, ?, 0)", worker_id, endpoint, worker.hash, now
        )
        self._workers[worker_id] = worker
        return NewWorker(worker_id, token)

    def check(self, endpoint: str, worker_id: str, token: str) -> bool:
        """Whether the worker may work for the endpoint."""
        worker = self._workers.get(worker_id)
        if worker is None or worker.endpoint != endpoint or self._dead(worker):
            return False
        return secrets.compare_digest(_hash(token), worker.hash)

    def heard(self, worker_id: str) -> None:
        """The worker lives."""
        worker = self._workers.get(worker_id)
        if worker is not None:
            worker.heard_at = self._clock()

    async def came(self, worker_id: str) -> None:
        """The worker is there; a server that is started anew waits for it."""
        self.heard(worker_id)
        worker = self._workers.get(worker_id)
        if worker is not None and not worker.used:
            worker.used = True
            await self._transact("UPDATE workers SET used = 1 WHERE id = ?", worker_id)

    @asynccontextmanager
    async def connected(self, worker_id: str, end: Callable[[], object]) -> AsyncIterator[None]:
        """A worker with a good token lives for as long as this lasts; revoking that calls `end`."""
        worker = self._workers[worker_id]
        worker.ends.append(end)
        try:
            await self.came(worker_id)
            yield
        finally:
            worker.ends.remove(end)
            self.heard(worker_id)

    async def revoke(self, worker_id: str) -> bool:
        """End a token, at once; whether there was one."""
        found = self._workers.pop(worker_id, None)
        if found is not None:
            for end in found.ends:
                end()
            await self._transact("DELETE FROM workers WHERE id = ?", worker_id)
        return found is not None

    def of(self, endpoint: str) -> list[Registered]:
        """The endpoint's workers whose tokens are good."""
        known = self._workers.values()
        return [each for each in known if each.endpoint == endpoint and not self._dead(each)]

    async def add_external(self, name: str) -> None:
        """Keep the name of an endpoint that only workers from elsewhere serve."""
        if name not in self.externals:
            await self._transact(
                "INSERT OR IGNORE INTO external_endpoints VALUES (?, ?)", name, self._clock()
            )
            self.externals.append(name)

    async def drop_external(self, name: str) -> None:
        """Forget it, and the tokens of its workers."""
        if name in self.externals:
            self.externals.remove(name)
            await self._transact("DELETE FROM external_endpoints WHERE name = ?", name)
        for worker in [each for each in self._workers.values() if each.endpoint == name]:
            await self.revoke(worker.id)

    def _dead(self, worker: Registered) -> bool:
        if worker.ends:
            return False
        patience = SILENT_SECONDS if worker.used else UNUSED_SECONDS
        return self._clock() - worker.heard_at > patience

    async def _sweep(self) -> None:
        for worker in [each for each in self._workers.values() if self._dead(each)]:
            await self.revoke(worker.id)

    async def _transact(self, statement: str, *values: object) -> list[Any]:
        if self._path is None:
            return []
        return await transact(self._path, lambda file: file.execute(statement, values).fetchall())


def worker_of(token: str) -> str:
    """The id of the worker whose token this is; empty if it is none."""
    worker_id = token.removeprefix(_PREFIX).rpartition(".")[0]
    return worker_id if token.startswith(_PREFIX) else ""


def _hash(token: str) -> bytes:
    return hashlib.sha256(token.encode()).digest()
