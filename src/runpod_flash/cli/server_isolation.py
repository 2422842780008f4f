"""How `flash server` keeps the apps that it serves apart."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from platformdirs import user_state_path

from runpod_flash.engines.local.environments.environments import cache_directory
from runpod_flash.engines.local.isolation import Isolation, User
from runpod_flash.engines.local.processes.namespaces import apart_refusal
from runpod_flash.errors import ConfigurationError
from runpod_flash.volume_places import volumes_directory

if TYPE_CHECKING:
    from runpod_flash.control.data_dir import DataDirectory
    from runpod_flash.project.catalog import Catalog

Apart = Literal["apps", "none"]


def open_isolation(
    wanted: Apart, worker_user: str, directory: DataDirectory
) -> tuple[Isolation | None, str]:
    """What keeps apps apart; or nothing, and why the system does not permit it, as a phrase.

    Raises `ConfigurationError` for a user that is not there.
    """
    if wanted == "none":
        return None, ""
    user = _worker_user(worker_user) if os.geteuid() == 0 else None
    refusal = apart_refusal(None if user is None else (user.uid, user.gid))
    if refusal:
        return None, refusal
    # (The last has the keys that are kept for this user.)
    hidden = (
        directory.path,
        volumes_directory(),
        cache_directory(),
        user_state_path("flash", appauthor=False),
    )
    return Isolation(directory.homes, Path.home(), hidden, user), ""


def unreadable(isolation: Isolation | None, catalog: Catalog) -> list[str]:
    """What of the code of these endpoints workers may not read, a sentence each."""
    if isolation is None:
        return []
    found = dict.fromkeys(isolation.unreadable(each.spec.entry) for each in catalog.endpoints)
    return [each for each in found if each]


def _worker_user(name: str) -> User:
    import pwd

    try:
        found = pwd.getpwnam(name)
    except KeyError:
        raise ConfigurationError(
            f"--worker-user {name}: there is no such user; make one: useradd --system {name}"
        ) from None
    if found.pw_uid == 0:
        raise ConfigurationError(
            f"--worker-user {name} is root, who is kept from nothing; name another user"
        )
    return User(name, found.pw_uid, found.pw_gid)
