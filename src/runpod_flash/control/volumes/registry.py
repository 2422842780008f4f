"""Which network volumes a server has: rows of its SQLite file, each with a folder of files."""

from __future__ import annotations

import asyncio
import json
import secrets
import string
from contextlib import suppress
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from runpod_flash.control.volumes.files import VolumeFiles, delete
from runpod_flash.errors import ConfigurationError
from runpod_flash.plane.store.database import transact
from runpod_flash.suggest import did_you_mean

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

    from runpod_flash.spec import VolumeMount

T = TypeVar("T")

_NOTE = "volume.json"
_ID_LENGTH = 10
_ALPHABET = string.ascii_lowercase + string.digits


class Volume(NamedTuple):
    """A volume. `size` is in GB, `created_at` in POSIX seconds."""

    id: str
    name: str
    size: int
    datacenter: str
    created_at: float


class VolumeExistsError(ConfigurationError):
    """The data center has a volume of that name."""


class Volumes:
    """Lives on an event loop; the file is read and written in threads, and is `database.prepare`d.

    Below `folder`, each volume has a folder by its id, so that it may be renamed while workers
    use it: `files` is what they see, `uploads` what is on its way there. `give` is called with a
    new directory of files.
    """

    def __init__(
        self,
        folder: Path,
        database: Path,
        clock: Callable[[], float],
        give: Callable[[Path], None] = lambda _: None,
    ) -> None:
        self._folder = folder
        self._database = database
        self._clock = clock
        self._give = give
        self._volumes: dict[str, Volume] = {}
        self._changing = asyncio.Lock()
        self._sweeping: asyncio.Future[None] | None = None

    async def load(self) -> None:
        """Read which there are, and finish removing those that were being removed."""
        rows = await self._transact(lambda file: file.execute("SELECT * FROM volumes").fetchall())
        self._volumes = {row[0]: Volume(*row) for row in rows}
        for found in self._noted():
            await self._adopt(found)
        for volume in self:
            self._make_folders(volume)
            await self._sweep_uploads(volume, started=True)
        self._sweep()

    async def sweep_every(self, seconds: float) -> None:
        """Drop uploads that nobody goes on with, until it is cancelled."""
        while True:
            await asyncio.sleep(seconds)
            for volume in self:
                with suppress(OSError):  # (it has just been removed)
                    await self._sweep_uploads(volume, started=False)

    async def _sweep_uploads(self, volume: Volume, *, started: bool) -> None:
        files = VolumeFiles(self.files(volume), self.uploads(volume))
        await asyncio.to_thread(files.sweep, started=started)

    def __iter__(self) -> Iterator[Volume]:
        return iter(sorted(self._volumes.values(), key=lambda each: (each.name, each.datacenter)))

    def get(self, volume_id: str) -> Volume | None:
        return self._volumes.get(volume_id)

    def named(self, mount: VolumeMount) -> Volume | None:
        """The volume that an endpoint means, if it is there."""
        if mount.id:
            return self.get(mount.id)
        wanted = (mount.name, mount.datacenter)
        return next((each for each in self if (each.name, each.datacenter) == wanted), None)

    def files(self, volume: Volume) -> Path:
        """What its workers see."""
        return self._folder / volume.id / "files"

    def uploads(self, volume: Volume) -> Path:
        """What is on its way there; no worker sees it."""
        return self._folder / volume.id / "uploads"

    async def create(self, name: str, size: int, datacenter: str) -> Volume:
        """Raises `VolumeExistsError`; the values are checked by whoever calls."""
        async with self._changing:
            volume = Volume(_new_id(), name, size, datacenter, self._clock())
            self._check_name(volume)
            await self._insert(volume)
            return volume

    async def update(self, volume: Volume, name: str, size: int) -> Volume:
        """Give it another name or size; raises `VolumeExistsError`."""
        async with self._changing:
            changed = volume._replace(name=name, size=size)
            self._check_name(changed)
            statement = "UPDATE volumes SET name = ?, size = ? WHERE id = ?"
            await self._transact(lambda file: file.execute(statement, (name, size, volume.id)))
            self._volumes[volume.id] = changed
            self._note(changed)
            return changed

    async def remove(self, volume: Volume) -> None:
        """Forget it, and delete its files."""
        async with self._changing:
            if self._volumes.pop(volume.id, None) is None:
                return
            # Before its row: whatever ends this server, no later one takes it for a lost volume.
            (self._folder / volume.id / _NOTE).unlink(missing_ok=True)
            statement = "DELETE FROM volumes WHERE id = ?"
            await self._transact(lambda file: file.execute(statement, (volume.id,)))
        self._removed.mkdir(exist_ok=True, mode=0o700)
        with suppress(FileNotFoundError):  # somebody has deleted it by hand
            (self._folder / volume.id).rename(self._removed / volume.id)
        self._sweep()

    async def meant(self, mount: VolumeMount) -> Volume:
        """The volume that an endpoint means: made where it is named and absent.

        Raises `ConfigurationError` for an id that none has.
        """
        found = self.named(mount)
        if found is not None:
            return found
        if mount.id:
            hint = did_you_mean(mount.id, self._volumes)
            raise ConfigurationError(
                f"NetworkVolume(id={mount.id!r}): this server has no volume of that id.{hint} "
                "`flash volume list` shows them; by name=, one is made where none is there"
            )
        async with self._changing:
            found = self.named(mount)  # another may have been first
            if found is None:
                made = (mount.name, mount.size, mount.datacenter)
                found = Volume(_new_id(), *made, self._clock())
                await self._insert(found)
            return found

    async def ensure(self, mounts: Iterable[VolumeMount]) -> None:
        """Have all of them; raises as `meant`, before any is made."""
        mounts = list(mounts)
        for mount in sorted(mounts, key=lambda each: not each.id):
            await self.meant(mount)

    async def place(self, mount: VolumeMount) -> Path:
        """The directory that workers see; raises as `meant`."""
        return self.files(await self.meant(mount))

    def quota(self, mount: VolumeMount) -> int:
        """How many GB it should hold at most."""
        found = self.named(mount)
        return mount.size if found is None else found.size

    @property
    def _removed(self) -> Path:
        return self._folder / "removed"

    def _noted(self) -> Iterator[Volume]:
        """Those whose folders are here and whose rows are not: the store was put back from a copy
        that is older than they are."""
        for note in sorted(self._folder.glob(f"*/{_NOTE}")):
            with suppress(OSError, ValueError, TypeError):
                volume = Volume(**json.loads(note.read_text(encoding="utf-8")))
                if volume.id == note.parent.name and volume.id not in self._volumes:
                    yield volume

    async def _adopt(self, volume: Volume) -> None:
        with suppress(VolumeExistsError):
            self._check_name(volume)
            await self._insert(volume)
            return
        await self._insert(volume._replace(name=f"{volume.name} {volume.id}"))

    def _note(self, volume: Volume) -> None:
        """Beside its files, what its row says."""
        note = self._folder / volume.id / _NOTE
        part = note.with_suffix(".part")
        part.write_text(json.dumps(volume._asdict()), encoding="utf-8")
        part.replace(note)

    def _sweep(self) -> None:
        """Delete what is removed; nobody waits for that: it may be a million files."""
        self._sweeping = asyncio.get_running_loop().run_in_executor(None, _empty, self._removed)

    def _check_name(self, volume: Volume) -> None:
        for each in self:
            same = (each.name, each.datacenter) == (volume.name, volume.datacenter)
            if same and each.id != volume.id:
                raise VolumeExistsError(
                    f"{volume.datacenter} has a volume {volume.name!r} (id {each.id}); choose "
                    "another name"
                )

    async def _insert(self, volume: Volume) -> None:
        self._make_folders(volume)
        statement = f"INSERT INTO volumes VALUES ({', '.join('?' * len(volume))})"
        await self._transact(lambda file: file.execute(statement, volume))
        self._volumes[volume.id] = volume

    def _make_folders(self, volume: Volume) -> None:
        self.uploads(volume).mkdir(parents=True, exist_ok=True, mode=0o700)
        files = self.files(volume)
        files.mkdir(exist_ok=True)
        self._give(files)
        self._note(volume)

    async def _transact(self, work: Callable[[sqlite3.Connection], T]) -> T:
        return await transact(self._database, work)


def _empty(folder: Path) -> None:
    """Delete what is in the folder, and not itself: the next one may be about to come in."""
    with suppress(FileNotFoundError):
        for each in folder.iterdir():
            delete(each)


def _new_id() -> str:
    return "".join(secrets.choice(_ALPHABET) for _ in range(_ID_LENGTH))
