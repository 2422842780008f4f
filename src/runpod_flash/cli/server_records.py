"""Opens what `flash server` keeps beside its jobs: keys, apps, releases, templates, volumes."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from runpod_flash.control.blobs import Blobs
from runpod_flash.control.kept_apps import KeptApps
from runpod_flash.control.releases import Releases
from runpod_flash.control.shelf import Shelf
from runpod_flash.control.vault import Vault
from runpod_flash.control.volumes.registry import Volumes
from runpod_flash.control.worker_tokens import WorkerTokens
from runpod_flash.gateway.management import Records
from runpod_flash.gateway.sessions import Place

if TYPE_CHECKING:
    from runpod_flash.cli.server_options import Options
    from runpod_flash.control.data_dir import DataDirectory
    from runpod_flash.control.keys import Keys
    from runpod_flash.engines.local.isolation import Isolation


async def open_records(
    options: Options, directory: DataDirectory, keys: Keys, isolation: Isolation | None
) -> Records:
    """The records in a server's directory; volumes are given to whom `isolation` has workers be."""
    give = (lambda _: None) if isolation is None else isolation.give
    volumes = Volumes(directory.volumes, options.database, time.time, give)
    await volumes.load()
    tokens = WorkerTokens(time.time, options.database)
    await tokens.load()
    vault = Vault(directory.vault_key)
    return Records(
        keys=keys,
        place=_place(directory, options.datacenter),
        releases=Releases(options.database, time.time, vault, options.keep_releases),
        shelf=Shelf(options.database, time.time, vault),
        tokens=tokens,
        volumes=volumes,
    )


def _place(directory: DataDirectory, datacenter: str) -> Place:
    kept = KeptApps(directory.path / "kept-apps")
    return Place(directory.apps(), Blobs(directory.path / "blobs"), kept, datacenter)
