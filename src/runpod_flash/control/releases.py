"""What is deployed: environments of apps, and their releases, in the server's SQLite file."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from runpod_flash.control.trees import StoredFile
from runpod_flash.errors import ConfigurationError
from runpod_flash.plane.store.database import transact

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from runpod_flash.control.vault import Vault

T = TypeVar("T")
# By endpoint, then by name.
Variables = dict[str, dict[str, str]]

# So many releases of an environment stay.
KEPT = 20
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
_MAKE = "INSERT OR IGNORE INTO environments VALUES (?, ?, ?, ?)"
_COLUMNS = "number, created_at, created_by, state, cause"


class AppEnv(NamedTuple):
    """An environment of an app. Its text is what ids of its endpoints begin with."""

    app: str
    environment: str

    def __str__(self) -> str:
        return f"{self.app}-{self.environment}"


class Release(NamedTuple):
    """A release without what it holds. `state` is `preparing`, `active`, `replaced` or `failed`."""

    place: AppEnv
    number: int
    created_at: float
    created_by: str
    state: str
    cause: str


class EndpointImage(NamedTuple):
    """An endpoint's image: its name, and the digest of what a release has found under that."""

    endpoint: str
    name: str
    digest: str


def as_read(written: dict[str, Any]) -> dict[str, Any]:
    """A catalog, or what is in one, as it is when it is read again: JSON has lists only."""
    read: dict[str, Any] = json.loads(json.dumps(written))
    return read


class Content(NamedTuple):
    """What a release serves: files, and a catalog as JSON whose values of variables are empty."""

    files: Sequence[StoredFile]
    catalog: dict[str, Any]


def check_name(what: str, name: str) -> None:
    """Raise `ConfigurationError` for what cannot be the name of an app or environment."""
    if not _NAME.fullmatch(name):
        raise ConfigurationError(
            f"{name!r:.80} is no name for an {what}: letters, digits, '.', '_' and '-' make one"
        )


class BusyError(ConfigurationError):
    """Another release of the environment is being made."""


class ProjectError(ConfigurationError):
    """The environment belongs to another project."""


class Releases:
    """Each method is a transaction, in a thread. The file is `database.prepare`d.

    The vault keeps values of variables from whoever has a copy of the file. Of each environment the
    last `kept` releases that were served stay, and as many that have failed; beside these always
    the active one, and the one before it.
    """

    def __init__(
        self, path: Path, clock: Callable[[], float], vault: Vault, kept: int = KEPT
    ) -> None:
        self._path = path
        self._clock = clock
        self._vault = vault
        self.kept = kept

    async def make(self, place: AppEnv, project: str) -> None:
        """Make an environment in which nothing is served yet, unless it is there.

        Raises `ConfigurationError` for one whose endpoints would have another's ids.
        """
        check_name("app", place.app)
        check_name("environment", place.environment)
        now = self._clock()

        def work(file: sqlite3.Connection) -> None:
            _check_text(file, place)
            file.execute(_MAKE, (*place, now, project))

        await self._transact(work)

    async def begin(
        self,
        place: AppEnv,
        project: str,
        content: Content,
        by: str,
        *,
        take_over: bool = False,
    ) -> Release:
        """A release that is to be prepared; makes the environment if it is new.

        Without a project, it is of that which the environment has.

        Raises `BusyError` while another one is, and `ProjectError` where the app belongs to another
        project and is not to be taken over.
        """
        now = self._clock()
        return await self._transact(
            lambda file: _begin(file, now, place, project, content, by, take_over)
        )

    async def pin(self, release: Release, content: Content) -> None:
        """Note what the images of a release that is being prepared have been found to be."""
        statement = "UPDATE releases SET catalog = ? WHERE (app, environment, number) = (?, ?, ?)"
        row = (json.dumps(content.catalog), *release.place, release.number)
        await self._transact(lambda file: file.execute(statement, row))

    async def activate(self, release: Release, variables: Variables) -> None:
        """Its workers have started: it is served, with these values beside those that are there."""
        rows = [
            (*release.place, endpoint, name, value)
            for endpoint, values in variables.items()
            for name, value in values.items()
        ]

        def work(file: sqlite3.Connection) -> None:
            _activate(file, release)
            self._put(file, rows)
            _prune(file, release.place, self.kept)

        await self._transact(work)

    async def fail(self, release: Release, cause: str) -> None:
        """It is not served."""

        def work(file: sqlite3.Connection) -> None:
            _set_state(file, release, "failed", cause)
            _prune(file, release.place, self.kept)

        await self._transact(work)

    async def resume(self, release: Release) -> None:
        """Have an earlier release prepared again. Raises `BusyError` while another one is."""

        def work(file: sqlite3.Connection) -> None:
            _check_idle(file, release.place)
            _set_state(file, release, "preparing", "")

        await self._transact(work)

    async def recover(self) -> None:
        """After a start: what an earlier server was preparing has failed."""
        cause = "the server ended while its workers were started; deploy again"
        statement = "UPDATE releases SET state = 'failed', cause = ? WHERE state = 'preparing'"
        await self._transact(lambda file: file.execute(statement, (cause,)))

    async def environments(self) -> list[AppEnv]:
        """All there are."""
        statement = "SELECT app, name FROM environments ORDER BY app, name"
        return await self._transact(lambda file: [AppEnv(*row) for row in file.execute(statement)])

    async def of(self, place: AppEnv) -> list[Release]:
        """The releases of an environment, the newest first."""
        return await self._transact(lambda file: _releases(file, place))

    async def images(self, place: AppEnv) -> dict[int, list[EndpointImage]]:
        """Those of each release's endpoints, by its number."""
        statement = "SELECT number, catalog FROM releases WHERE (app, environment) = (?, ?)"

        def work(file: sqlite3.Connection) -> dict[int, list[EndpointImage]]:
            rows = file.execute(statement, place)
            return {number: _images(json.loads(catalog)) for number, catalog in rows}

        return await self._transact(work)

    async def content(self, release: Release) -> Content:
        return await self._transact(lambda file: _content(file, release))

    async def variables(self, place: AppEnv) -> Variables:
        """The present values of what is declared, and under the name "" those of secrets.

        Raises `ConfigurationError` where they cannot be decrypted.
        """

        def work(file: sqlite3.Connection) -> Variables:
            statement = (
                "SELECT endpoint, name, value FROM variables WHERE (app, environment) = (?, ?)"
            )
            found: Variables = {}
            for endpoint, name, value in file.execute(statement, place):
                found.setdefault(endpoint, {})[name] = self._vault.open(value)
            return found

        return await self._transact(work)

    async def secrets(self, place: AppEnv) -> dict[str, float]:
        """The names of secrets, and when each was set (POSIX)."""
        statement = (
            "SELECT name, set_at FROM variables "
            "WHERE (app, environment) = (?, ?) AND endpoint = '' ORDER BY name"
        )
        return await self._transact(lambda file: dict(file.execute(statement, place).fetchall()))

    async def set_secret(self, place: AppEnv, name: str, value: str) -> None:
        """Give all endpoints of the environment a variable, in the place of what they declare."""
        await self._transact(lambda file: self._put(file, [(*place, "", name, value)]))

    async def unset_secret(self, place: AppEnv, name: str) -> bool:
        """End a secret; whether there was one."""
        statement = "DELETE FROM variables WHERE (app, environment, endpoint, name) = (?, ?, '', ?)"
        return await self._transact(
            lambda file: file.execute(statement, (*place, name)).rowcount > 0
        )

    def _put(
        self, file: sqlite3.Connection, rows: Sequence[tuple[str, str, str, str, str]]
    ) -> None:
        now = self._clock()
        file.executemany(
            "INSERT OR REPLACE INTO variables VALUES (?, ?, ?, ?, ?, ?)",
            [(*rest, self._vault.seal(value), now) for *rest, value in rows],
        )

    async def digests(self) -> set[str]:
        """Of all files of all releases."""

        def work(file: sqlite3.Connection) -> set[str]:
            rows = file.execute("SELECT files FROM releases")
            return {digest for (files,) in rows for _, digest, _ in json.loads(files)}

        return await self._transact(work)

    async def remove(self, place: AppEnv) -> bool:
        """End an environment, with its releases and values; whether there was one."""
        statement = "DELETE FROM environments WHERE (app, name) = (?, ?)"
        return await self._transact(lambda file: file.execute(statement, place).rowcount > 0)

    async def _transact(self, work: Callable[[sqlite3.Connection], T]) -> T:
        return await transact(self._path, work)


def _begin(
    file: sqlite3.Connection,
    now: float,
    place: AppEnv,
    project: str,
    content: Content,
    by: str,
    take_over: bool,
) -> Release:
    _check_text(file, place)
    project = project or _project(file, place)
    file.execute(_MAKE, (*place, now, project))
    if take_over:
        statement = "UPDATE environments SET project = ? WHERE app = ?"
        file.execute(statement, (project, place.app))
    statement = "SELECT project FROM environments WHERE app = ? AND project != ?"
    other = file.execute(statement, (place.app, project)).fetchone()
    if other is not None:
        raise ProjectError(
            f"the app {place.app!r} was deployed from another project ({other[0]}); name yours "
            "with --app or FLASH_APP, or add --take-over"
        )
    _check_idle(file, place)
    (last,) = file.execute(
        "SELECT max(number) FROM releases WHERE (app, environment) = (?, ?)", place
    ).fetchone()
    release = Release(place, (last or 0) + 1, now, by, "preparing", "")
    files = json.dumps([list(each) for each in content.files])
    row = (*place, *release[1:], files, json.dumps(content.catalog))
    file.execute(f"INSERT INTO releases VALUES ({', '.join('?' * len(row))})", row)
    return release


def _project(file: sqlite3.Connection, place: AppEnv) -> str:
    statement = "SELECT project FROM environments WHERE (app, name) = (?, ?)"
    found = file.execute(statement, place).fetchone()
    return "" if found is None else str(found[0])


def _check_text(file: sqlite3.Connection, place: AppEnv) -> None:
    """Ids of endpoints begin with it: no two environments may have the same."""
    statement = "SELECT app, name FROM environments WHERE app || '-' || name = ?"
    for row in file.execute(statement, (str(place),)):
        if AppEnv(*row) != place:
            raise ConfigurationError(
                f"endpoints of the app {row[0]!r} in {row[1]!r} have ids that begin with {place}- "
                "already; choose another name with --app or --env"
            )


def _check_idle(file: sqlite3.Connection, place: AppEnv) -> None:
    busy = next((each for each in _releases(file, place) if each.state == "preparing"), None)
    if busy is not None:
        raise BusyError(
            f"release {busy.number} of {place} is being made by {busy.created_by}; deploy again "
            "when it is there"
        )


def _activate(file: sqlite3.Connection, release: Release) -> None:
    file.execute(
        "UPDATE releases SET state = 'replaced' WHERE (app, environment) = (?, ?) "
        "AND state = 'active'",
        release.place,
    )
    _set_state(file, release, "active", "")


def _prune(file: sqlite3.Connection, place: AppEnv, kept: int) -> None:
    """Drop what is neither among the last ones, nor served, nor what a rollback goes back to."""
    found = _releases(file, place)
    failed = [each.number for each in found if each.state == "failed"]
    served = [each.number for each in found if each.state == "replaced"]
    active = next((each.number for each in found if each.state == "active"), None)
    before = next((number for number in served if active is None or number < active), None)
    dropped = [number for number in (*failed[kept:], *served[kept - 1 :]) if number != before]
    file.executemany(
        "DELETE FROM releases WHERE (app, environment, number) = (?, ?, ?)",
        [(*place, number) for number in dropped],
    )


def _set_state(file: sqlite3.Connection, release: Release, state: str, cause: str) -> None:
    file.execute(
        "UPDATE releases SET state = ?, cause = ? WHERE (app, environment, number) = (?, ?, ?)",
        (state, cause, *release.place, release.number),
    )


def _releases(file: sqlite3.Connection, place: AppEnv) -> list[Release]:
    rows = file.execute(
        f"SELECT {_COLUMNS} FROM releases WHERE (app, environment) = (?, ?) ORDER BY number DESC",
        place,
    )
    return [Release(place, *row) for row in rows]


def _images(catalog: dict[str, Any]) -> list[EndpointImage]:
    specs = (each["spec"] for each in catalog.get("endpoints", ()))
    found = ((spec["name"], spec["build"]["container"]) for spec in specs)
    return [EndpointImage(name, c["image"], c["digest"]) for name, c in found if c is not None]


def _content(file: sqlite3.Connection, release: Release) -> Content:
    files, catalog = file.execute(
        "SELECT files, catalog FROM releases WHERE (app, environment, number) = (?, ?, ?)",
        (*release.place, release.number),
    ).fetchone()
    return Content([StoredFile(*each) for each in json.loads(files)], json.loads(catalog))
