"""Fetches the wheels that a release brings along, each once."""

from __future__ import annotations

import asyncio
import hashlib
import os
import secrets
from dataclasses import replace
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from runpod_flash.engines.local.environments.credentials import without_credentials
from runpod_flash.errors import EnvironmentBuildError
from runpod_flash.packing.kept import used

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from pathlib import Path

    import httpx

    from runpod_flash.packing.locking import Package

_TOGETHER = 8
_SECONDS = 60.0


def private_hosts(indexes: Iterable[str]) -> dict[str, tuple[str, str]]:
    """User and password of the indexes that have some, by host: no server fetches from there."""
    found = {}
    for place in indexes:
        parts = urlsplit(os.path.expandvars(place))
        if parts.hostname and (parts.username or parts.password):
            # In an address they are percent-encoded, in a request's header they are not.
            login = unquote(parts.username or ""), unquote(parts.password or "")
            found[parts.hostname] = login
    return found


async def fetch(
    packages: Sequence[Package],
    home: Path,
    logins: dict[str, tuple[str, str]],
    say: Callable[[str], None],
) -> list[Package]:
    """The same packages, with files on this machine. Raises `EnvironmentBuildError`."""
    import httpx

    room = asyncio.Semaphore(_TOGETHER)
    lacking = [each for each in packages if not _place(home, each).is_file()]
    if lacking:
        size = sum(each.size for each in lacking)
        number = "1 package" if len(lacking) == 1 else f"{len(lacking)} packages"
        say(f"fetching {number}{f' ({size / 1e6:.0f} MB)' if size else ''}")
    home.mkdir(parents=True, exist_ok=True)

    async def one(client: httpx.AsyncClient, package: Package) -> None:
        async with room:
            try:
                await _fetch(client, package, _place(home, package), logins)
            except (httpx.HTTPError, OSError) as error:
                why = str(error) or type(error).__name__
                raise EnvironmentBuildError(
                    f"{package.file} cannot be fetched from {without_credentials(package.url)}: "
                    f"{why}."
                ) from None

    async with httpx.AsyncClient(timeout=_SECONDS, follow_redirects=True) as client:
        await asyncio.gather(*(one(client, package) for package in lacking))
    for each in packages:
        used(_place(home, each))
    return [replace(each, url=_place(home, each).absolute().as_uri()) for each in packages]


async def _fetch(
    client: httpx.AsyncClient, package: Package, place: Path, logins: dict[str, tuple[str, str]]
) -> None:
    part = place.with_name(f".{secrets.token_hex(4)}")
    digest = hashlib.sha256()
    login = logins.get(urlsplit(package.url).hostname or "")
    try:
        async with client.stream("GET", package.url, auth=login) as response:
            response.raise_for_status()
            with part.open("wb") as stream:
                async for piece in response.aiter_bytes():
                    digest.update(piece)
                    stream.write(piece)
        if package.digest and digest.hexdigest() != package.digest:
            raise EnvironmentBuildError(f"{package.file} is not what the index says it is.")
        part.replace(place)
    finally:
        part.unlink(missing_ok=True)


def _place(home: Path, package: Package) -> Path:
    """(By content, for two indexes may have files of one name.)"""
    return home / f"{package.digest[:16]}-{package.file}"
