"""Keys of our own servers, one for each origin; a key is never sent to another one."""

from __future__ import annotations

import json
import os
from contextlib import suppress
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from platformdirs import user_state_path

from runpod_flash.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_PORTS = {"http": 80, "https": 443}
_LOOPBACK = ("localhost", "127.0.0.1", "::1")


def origin_of(address: str) -> str:
    """`scheme://host:port` of a server's address; raises `ConfigurationError` if it is none."""
    parts = urlsplit(address)
    try:
        port = parts.port or _PORTS.get(parts.scheme)
    except ValueError:
        port = None
    if parts.scheme not in _PORTS or not parts.hostname or port is None:
        raise ConfigurationError(
            f"{address!r} is no address of a server; give one such as http://localhost:8888"
        )
    return f"{parts.scheme}://{parts.hostname}:{port}"


def key_for(address: str) -> str | None:
    """The key for a server: `FLASH_API_KEY`, else the one that is kept for its origin."""
    given = os.environ.get("FLASH_API_KEY")
    if given:
        return given
    for origin in _aliases(origin_of(address)):
        with suppress(OSError, ValueError, KeyError, TypeError):
            return str(json.loads(_file(origin).read_text(encoding="utf-8"))["key"])
    return None


def keep_key(address: str, key: str) -> Path:
    """Keep a key for this user's programs; the file that it is in."""
    file = _file(origin_of(address))
    file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    new = file.with_suffix(".new")
    descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with open(descriptor, "w", encoding="utf-8") as stream:  # noqa: PTH123 - it is a descriptor
        json.dump({"key": key}, stream)
    new.replace(file)
    return file


def _aliases(origin: str) -> Iterator[str]:
    """The origin, and the other names of this machine for itself."""
    yield origin
    parts = urlsplit(origin)
    if parts.hostname in _LOOPBACK:
        for host in _LOOPBACK:
            yield f"{parts.scheme}://{host}:{parts.port}"


def _file(origin: str) -> Path:
    name = origin.replace("://", "_").replace(":", "_").replace("/", "_")
    return user_state_path("flash", appauthor=False) / "keys" / f"{name}.json"
