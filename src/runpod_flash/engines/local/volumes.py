"""The directory that a worker sees as its network volume, and what there is to say about it."""

from __future__ import annotations

import asyncio
import threading
from contextlib import suppress
from typing import TYPE_CHECKING

from runpod_flash.engines.local.capacity import human_bytes
from runpod_flash.volume import directory, usage_bytes

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from runpod_flash.spec import EndpointSpec, VolumeMount

VOLUME_TARGET = "/runpod-volume"


def volume_of(spec: EndpointSpec) -> VolumeMount | None:
    """Of several volumes the one in the endpoint's first data center, else the first."""
    for place in spec.placement.datacenters:
        for mount in spec.placement.volumes:
            if mount.datacenter == place:
                return mount
    return next(iter(spec.placement.volumes), None)


def volume_directory(mount: VolumeMount) -> Path:
    """Where the volume lies on this machine, made if it is new."""
    path = directory(mount.name, mount.datacenter)
    path.mkdir(parents=True, exist_ok=True)
    return path


def warn_of_quota(mount: VolumeMount, path: Path, say: Callable[[str], None]) -> None:
    """Say on the running loop if the volume holds more than its size; measured in a thread.

    Nobody waits for that: a volume may hold a million files.
    """
    loop = asyncio.get_running_loop()

    def measure() -> None:
        used = usage_bytes(path)
        if used > mount.size * 1_000_000_000:
            text = f"volume {mount.name!r} holds {human_bytes(used)}, more than size={mount.size}"
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
