"""Which volumes a server has, for programs that declare one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from runpod_flash.client.control import ControlClient
from runpod_flash.errors import ConfigurationError

if TYPE_CHECKING:
    from runpod_flash.volume import NetworkVolume

_PATH = "/v2/network-volumes"


class ServersVolumes:
    """Each method asks the server; raises as `ControlClient.ask`."""

    def __init__(self, address: str) -> None:
        self._control = ControlClient(address)

    def there(self) -> bool:
        """Whether it has volumes of its own; `flash dev` has those of its user."""
        with self._control.connected() as client:
            return client.get(f"{self._control.origin}{_PATH}").status_code != 404

    def deployed(self, volume: NetworkVolume) -> str:
        """The id of a volume, made if its name is not there yet.

        Raises `ConfigurationError` for an id that the server does not know.
        """
        found = self._found(volume)
        if found is None and volume.server_id:
            raise ConfigurationError(
                f"NetworkVolume(id={volume.id!r}): {self._control.origin} has no volume of that "
                "id; `flash volume list` shows those that it has"
            )
        if found is None:
            center = volume.dataCenterId.value
            fields = {"name": volume.name, "size": volume.size, "dataCenter": center}
            found = self._control.ask("POST", _PATH, fields)
        return str(found["id"])

    def has(self, volume: NetworkVolume) -> bool:
        """Whether the volume has an id of this server."""
        return bool(volume.server_id) and self._found(volume) is not None

    def _found(self, volume: NetworkVolume) -> dict[str, Any] | None:
        there = self._control.ask("GET", _PATH)["networkVolumes"]
        wanted = (volume.name, volume.dataCenterId.value)
        for each in there:
            by_name = (each["name"], each["dataCenter"]) == wanted
            if each["id"] == volume.server_id or (not volume.server_id and by_name):
                return dict(each)
        return None
