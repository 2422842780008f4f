"""Where the volumes of this machine's user lie, and how much is in one."""

from __future__ import annotations

import os
from pathlib import Path

from runpod_flash.errors import ConfigurationError
from runpod_flash.hardware import DataCenter

_LONGEST_COMPONENT = 255


def directory(volume_name: str, datacenter: DataCenter | str) -> Path:
    """Where the volume of that name and data center lies on this machine; it may not exist yet.

    Raises `ConfigurationError` for a name that is not one plain path component.
    """
    center = DataCenter(datacenter).value
    return volumes_directory() / center / plain_component("name", volume_name)


def volumes_directory() -> Path:
    """Where all volumes of this user lie on this machine."""
    from platformdirs import user_data_path

    return user_data_path("flash", appauthor=False) / "volumes"


def usage_bytes(path: Path) -> int:
    """The total length in bytes of the files below `path`; 0 if it does not exist.

    Links are not followed and a file with several names counts once. Files that go away meanwhile,
    or that cannot be looked at, count nothing.
    """
    sizes: dict[tuple[int, int], int] = {}
    for folder, _, names in os.walk(path):
        for name in names:
            try:
                found = (Path(folder) / name).lstat()
            except OSError:
                continue
            sizes[found.st_dev, found.st_ino] = found.st_size
    return sum(sizes.values())


def plain_component(field: str, value: str) -> str:
    """The value, if it can be one folder's name; else raises `ConfigurationError`."""
    if not isinstance(value, str) or not value.strip():
        raise ConfigurationError(f"NetworkVolume.{field} must be a text, not {value!r}.")
    unsafe = value in (".", "..") or "/" in value or "\\" in value or not value.isprintable()
    if unsafe or len(value.encode()) > _LONGEST_COMPONENT:
        raise ConfigurationError(
            f"NetworkVolume.{field} {value!r} cannot name a directory: use at most"
            f" {_LONGEST_COMPONENT} bytes, no '/', no '\\', no control characters, not '.' or '..'."
        )
    return value
