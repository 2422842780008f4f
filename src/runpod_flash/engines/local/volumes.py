"""The directory that a worker sees as its network volume, and what there is to say about it."""

from __future__ import annotations

import asyncio
import threading
from contextlib import suppress
from typing import TYPE_CHECKING, Protocol

from runpod_flash.engines.local.capacity import human_bytes
from runpod_flash.volume_places import directory, usage_bytes

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from runpod_flash.spec import EndpointSpec, VolumeMount

VOLUME_TARGET = "/runpod-volume"


class Volumes(Protocol):
    """Where volumes lie on this machine."""

    async def place(self, mount: VolumeMount) -> Path:
        """The directory of a volume, made if it is new.

        Raises `ConfigurationError` for one that neither is there nor can be made.
        """

    def quota(self, mount: VolumeMount) -> int:
        """How many GB it should hold at most."""


class UsersVolumes:
    """Those of this user, below their data directory: each by its data center and name."""

    async def place(self, mount: VolumeMount) -> Path:
        path = directory(mount.name, mount.datacenter)
        path.mkdir(parents=True, exist_ok=True)
        return path

    def quota(self, mount: VolumeMount) -> int:
        return mount.size


def volume_of(spec: EndpointSpec, datacenter: str = "") -> VolumeMount | None:
    """Of several volumes the one in the node's data center, where that is known.

    Else the one in the endpoint's first data center, or the first of all.
    """
    for place in (datacenter, *spec.placement.datacenters):
        for mount in spec.placement.volumes:
            if mount.datacenter == place:
                return mount
    return next(iter(spec.placement.volumes), None)


def misplaced(spec: EndpointSpec, datacenter: str) -> str:
    """Why the endpoint cannot run in this data center, as a phrase; empty where it can."""
    wanted, volumes = spec.placement.datacenters, spec.placement.volumes
    if not datacenter:
        return ""
    if wanted and datacenter not in wanted:
        return f"it asks for {' or '.join(wanted)}, and this machine is in {datacenter}"
    if volumes and not any(mount.datacenter == datacenter for mount in volumes):
        places = " and ".join(sorted({mount.datacenter for mount in volumes}))
        return f"its volumes are in {places}, and this machine is in {datacenter}"
    return ""


def warn_of_quota(name: str, path: Path, size: int, say: Callable[[str], None]) -> None:
    """Say on the running loop if the volume holds more than its size; measured in a thread.

    Nobody waits for that: a volume may hold a million files.
    """
    loop = asyncio.get_running_loop()

    def measure() -> None:
        used = usage_bytes(path)
        if used > size * 1_000_000_000:
            text = f"volume {name!r} holds {human_bytes(used)}, more than size={size}"
            with suppress(RuntimeError):  # the program has ended meanwhile
                loop.call_soon_threadsafe(say, text)

    threading.Thread(target=measure, name="flash-quota", daemon=True).start()


def mount_note(reason: str) -> str:
    """The note on an exception in a worker whose volume could not be mounted."""
    return (
        f"flash: {VOLUME_TARGET} cannot be mounted for workers on this machine "
        f"({reason or 'user namespaces are not allowed'}): "
        "use the directory that FLASH_VOLUME_PATH names"
    )
