"""NetworkVolume: storage that endpoints share and that outlives their workers.

Embedded, a volume is a directory below the user's data directory, and its id says which one. At a
server it is one of the server's, which has given it its id.
"""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING

from runpod_flash.errors import ConfigurationError
from runpod_flash.hardware import DataCenter
from runpod_flash.suggest import refuse_unknown
from runpod_flash.volume_places import directory, plain_component

if TYPE_CHECKING:
    from pathlib import Path
    from typing import NoReturn

    from runpod_flash.client.volumes.resource import ServersVolumes

MIN_SIZE_GB = 10
MAX_SIZE_GB = 4096
DEFAULT_SIZE_GB = 100
DEFAULT_DATACENTER = DataCenter.EU_RO_1

_LOCAL_ID = "local"


class NetworkVolume:
    """A volume by name (made where it does not exist) or by the id of an existing one.

    `size` is in GB, 10 to 4096: a quota that warns. `datacenter` and `dataCenterId` are the same
    setting; the second wins. Raises `ConfigurationError` (a `ValueError`) for a blank name, a name
    that cannot be a directory's, a size out of bounds, an unknown data center or field, and when
    neither name nor id is given.
    """

    def __init__(
        self,
        *,
        name: str | None = None,
        id: str | None = None,
        size: int = DEFAULT_SIZE_GB,
        datacenter: DataCenter | str | None = None,
        dataCenterId: DataCenter | str | None = None,  # noqa: N803 - the field's public name
        **unknown: NoReturn,
    ) -> None:
        refuse_unknown("NetworkVolume", unknown, _FIELDS)
        if name is None and id is None:
            raise ConfigurationError("NetworkVolume: either 'name' or 'id' must be provided.")
        self.name = None if name is None else plain_component("name", name)
        self.id = None if id is None else plain_component("id", id)
        self.size = _size(size)
        center = datacenter if dataCenterId is None else dataCenterId
        self.dataCenterId = DataCenter(DEFAULT_DATACENTER if center is None else center)
        if name is None:
            self._adopt_local_id()

    @property
    def datacenter(self) -> DataCenter:
        """Where the volume is; the same as `dataCenterId`."""
        return self.dataCenterId

    @property
    def is_created(self) -> bool:
        """Whether the volume has an id; whether it is still there is `is_deployed`'s to say."""
        return self.id is not None

    @property
    def url(self) -> str:
        """Where to look at the volume: its directory, or the hosted service's storage page.

        Raises `ConfigurationError` (a `ValueError`) while the volume has no id.
        """
        if self.id is None:
            raise ConfigurationError(
                f"NetworkVolume {self.name!r} has no id and so no url yet; await deploy() first."
            )
        if self.id.startswith(f"{_LOCAL_ID}:"):
            return self.directory.as_uri()
        console = os.environ.get("RUNPOD_CONSOLE_URL", "https://console.runpod.io")
        return f"{console}/user/storage/{self.id}"

    @property
    def resource_id(self) -> str:
        """Identity of the declaration: of name and data center, or of the id where no name is."""
        import hashlib

        text = f"id:{self.id}" if self.name is None else f"{self.name}:{self.dataCenterId.value}"
        return f"NetworkVolume_{hashlib.md5(text.encode(), usedforsecurity=False).hexdigest()}"

    @property
    def mount_name(self) -> str:
        """What tells this volume from others of its data center: its name, or else its id."""
        return self.name or self.id or ""

    @property
    def server_id(self) -> str:
        """The id that a server knows the volume by; empty where its name says which one it is."""
        local = self.id is None or self.id.startswith(f"{_LOCAL_ID}:")
        return "" if local else str(self.id)

    @property
    def directory(self) -> Path:
        """The directory that is this volume when endpoints run embedded; it may not exist yet."""
        return directory(self.mount_name, self.dataCenterId)

    async def deploy(self) -> NetworkVolume:
        """Create the volume unless it is there, set `id` unless it has one; gives itself.

        With a target, at that server. Raises `ConfigurationError` when the directory cannot be
        made, and when the server has no volume of the id.
        """
        server = await self._server()
        if server is not None:
            self.id = await asyncio.to_thread(server.deployed, self)
            return self
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigurationError(
                f"Volume {self.mount_name!r} cannot be created at {self.directory}:"
                f" {error.strerror}."
            ) from error
        if self.id is None:
            self.id = f"{_LOCAL_ID}:{self.dataCenterId.value}:{self.name}"
        return self

    async def is_deployed(self) -> bool:
        """Whether the volume has an id and is there."""
        server = await self._server()
        if server is not None:
            return await asyncio.to_thread(server.has, self)
        return self.is_created and self.directory.is_dir()

    async def undeploy(self) -> NoReturn:
        """Never deletes: data outlives programs."""
        remedy = f"remove {self.directory} yourself"
        if self.server_id:
            remedy = f"run `flash volume delete {self.server_id}`"
        raise NotImplementedError(f"Flash deletes no volumes; {remedy} if its data may go.")

    async def _server(self) -> ServersVolumes | None:
        """The volumes of the target; None without one, and for one that has none of its own."""
        from runpod_flash import context
        from runpod_flash.client.chosen import chosen_target

        target = chosen_target() if context.current is None else None  # (workers have none)
        if target is None:
            return None
        from runpod_flash.client.volumes.resource import ServersVolumes

        server = ServersVolumes(target.address)
        return server if await asyncio.to_thread(server.there) else None

    def __str__(self) -> str:
        return f"NetworkVolume:{self.id}"

    def __repr__(self) -> str:
        return (
            f"NetworkVolume(name={self.name!r}, id={self.id!r}, size={self.size},"
            f" dataCenterId={self.dataCenterId.value!r})"
        )

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, NetworkVolume):
            return NotImplemented
        return vars(self) == vars(other)

    def _adopt_local_id(self) -> None:
        # The id that deploy() gave elsewhere names the directory to attach to.
        prefix, _, rest = (self.id or "").partition(":")
        datacenter, _, name = rest.partition(":")
        if prefix == _LOCAL_ID and name:
            self.dataCenterId = DataCenter(datacenter)
            self.name = plain_component("name", name)


_FIELDS = ("name", "id", "size", "datacenter", "dataCenterId")


def _size(size: int) -> int:
    # bool is an int to Python, but True is no size.
    if isinstance(size, bool) or not isinstance(size, int):
        raise ConfigurationError(f"NetworkVolume.size must be a whole number of GB, not {size!r}.")
    if not MIN_SIZE_GB <= size <= MAX_SIZE_GB:
        raise ConfigurationError(
            f"NetworkVolume.size must be {MIN_SIZE_GB} to {MAX_SIZE_GB} GB, not {size}."
        )
    return size
