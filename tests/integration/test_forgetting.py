"""What an engine keeps for endpoints goes when they do."""

from __future__ import annotations

import gc
from dataclasses import replace
from typing import TYPE_CHECKING

from integration.served import Served, serve
from runpod_flash.engines.local.processes.launcher import Snapshot

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

PLAIN = """
from runpod_flash import Endpoint

@Endpoint(name="plain", cpu="cpu3c-1-2")
def plain() -> int:
    return 1
"""


def kept_snapshots() -> list[Snapshot]:
    gc.collect()
    return [each for each in gc.get_objects() if isinstance(each, Snapshot)]


def test_what_an_app_was_given_is_not_kept_when_it_has_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))

    async def scenario(served: Served) -> None:
        (pool,) = served.gateway.declare_all()
        spec = replace(pool.spec, app="session")
        for secret in ("one", "two"):
            own = served.plane.declare(spec, {}, {"SECRET": secret})
            await served.plane.prepare(own)
            (kept,) = kept_snapshots()
            assert kept.told["caller_env"] == {"SECRET": secret}
            del kept, own
            await served.plane.discard("session")
            assert kept_snapshots() == []

    serve(tmp_path / "project", {"app.py": PLAIN}, scenario)
