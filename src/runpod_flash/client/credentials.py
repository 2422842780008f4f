"""Keys of our own servers, one for each origin.

A key is never sent to another origin, nor over a network that others can read.
"""

from __future__ import annotations

import json
import os
from contextlib import suppress
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from runpod_flash import context
from runpod_flash.errors import ConfigurationError
from runpod_flash.loopback import is_loopback

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_PORTS = {"http": 80, "https": 443}
_THIS_MACHINE = ("localhost", "127.0.0.1", "[::1]")


def origin_of(address: str) -> str:
    """`scheme://host:port` of a server's address; raises `ConfigurationError` if it is none."""
    try:
        parts = urlsplit(address.strip())
        port = parts.port or _PORTS.get(parts.scheme)
    except ValueError:
        parts, port = urlsplit(""), None
    if parts.scheme not in _PORTS or not parts.hostname or port is None:
        raise ConfigurationError(f"{address!r} is no address of a server; give {_meant(address)}")
    if "@" in parts.netloc:
        where = parts.netloc.rpartition("@")[2]
        raise ConfigurationError(
            f"the address of {where} takes no user or password: give {parts.scheme}://{where}, and "
            "a key to `flash login`"
        )
    return f"{parts.scheme}://{_host(parts.hostname)}:{port}"


def _meant(address: str) -> str:
    """What to give instead: with its scheme, where only that is missing."""
    host = address.partition("/")[0].rpartition(":")[0] or address
    if "://" in address or not host or any(c.isspace() for c in host):
        return "one such as http://localhost:8888"
    return f"it with its scheme: {'http' if is_loopback(host) else 'https'}://{address}"


def key_for(address: str, *, insecure: bool = False, given: str | None = None) -> str | None:
    """The key for a server: one that is given, else `FLASH_API_KEY`, else the one that is kept.

    What is kept for a user's programs is nothing to workers. Raises as `check_kept_secret` does.
    """
    origin = origin_of(address)
    key = given or os.environ.get("FLASH_API_KEY")
    if not key and context.current is None:
        key = kept_key(origin)
    if key:
        check_kept_secret(origin, "key", insecure=insecure)
    return key


def check_kept_secret(origin: str, secret: str, *, insecure: bool = False) -> None:
    """Raise `ConfigurationError` where sending a secret would show it to the network.

    Unless that is said to be `insecure` and wanted, here or by `FLASH_INSECURE=1`.
    """
    allowed = insecure or os.environ.get("FLASH_INSECURE") == "1"
    if not allowed and not keeps_secrets(origin):
        raise ConfigurationError(
            f"the {secret} for {origin} would be sent over plain http, where others on the network "
            "can read it: use https, or allow it with FLASH_INSECURE=1 (in a command: --insecure)"
        )


def keeps_secrets(address: str) -> bool:
    """Whether nobody on the way can read what is sent: by https, or inside this machine."""
    parts = urlsplit(address)
    return parts.scheme == "https" or is_loopback(parts.hostname or "")


def kept_key(address: str) -> str | None:
    """The key that is kept for a server's origin."""
    return _kept(address).get("key")


def kept_by_login(address: str) -> str | None:
    """The key that is kept for a server's origin, if a login made it, for here alone."""
    kept = _kept(address)
    return kept.get("key") if kept.get("from") == "login" else None


def _kept(address: str) -> dict[str, str]:
    for alias in _aliases(origin_of(address)):
        with suppress(OSError, ValueError, KeyError, TypeError):
            kept = json.loads(_file(alias).read_text(encoding="utf-8"))
            return {"key": str(kept["key"]), "from": str(kept.get("from", ""))}
    return {}


def keep_key(address: str, key: str, *, by_login: bool = False) -> Path:
    """Keep a key for this user's programs; the file that it is in."""
    file = _file(origin_of(address))
    file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    new = file.with_suffix(".new")
    descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with open(descriptor, "w", encoding="utf-8") as stream:  # noqa: PTH123 - it is a descriptor
        json.dump({"key": key, **({"from": "login"} if by_login else {})}, stream)
    new.replace(file)
    return file


def known_servers() -> list[str]:
    """The origins that a key is kept for."""
    found = sorted(_folder().glob("*.json"))
    parts = (file.stem.rpartition("_") for file in found)
    return [f"{head.replace('_', '://', 1)}:{port}" for head, _, port in parts]


def forget_key(address: str) -> None:
    """Keep no key for a server's origin any more."""
    _file(origin_of(address)).unlink(missing_ok=True)


def _aliases(origin: str) -> Iterator[str]:
    """The origin, and the other names of this machine for itself."""
    yield origin
    parts = urlsplit(origin)
    if _host(parts.hostname or "") in _THIS_MACHINE:
        for host in _THIS_MACHINE:
            yield f"{parts.scheme}://{host}:{parts.port}"


def _host(name: str) -> str:
    """As an address has it."""
    return f"[{name}]" if ":" in name else name


def _file(origin: str) -> Path:
    name = origin.replace("://", "_").replace(":", "_").replace("/", "_")
    return _folder() / f"{name}.json"


def _folder() -> Path:
    from platformdirs import user_state_path

    return user_state_path("flash", appauthor=False) / "keys"
