"""What an engine keeps for endpoints goes when they do."""

from __future__ import annotations

import asyncio
import gc
import time
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from behaviour.programs import FORKS
from integration.served import Served, serve
from integration.wheels import LOCAL_ONLY, make_wheel
from runpod_flash.engines.local.processes.launcher import Snapshot

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

PLAIN = """
from runpod_flash import Endpoint

@Endpoint(name="plain", cpu="cpu3c-1-2")
def plain() -> int:
    return 1
"""

PACKED = """
import time
from pathlib import Path
from runpod_flash import Endpoint

@Endpoint(name="packed", cpu="cpu3c-1-2", dependencies=["PACKAGE"])
def packed(until: str = "") -> str:
    while until and not Path(until).exists():
        time.sleep(0.05)
    import PACKAGE
    return PACKAGE.__name__
"""


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache that may hold nothing, and workers that leave nothing ready."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("FLASH_CACHE_MAX_GB", "0")
    monkeypatch.setenv("FLASH_ZYGOTES", "0")
    return tmp_path / "cache"


def packed(package: str) -> dict[str, str]:
    return {"app.py": PACKED.replace("PACKAGE", package), "requirements.txt": LOCAL_ONLY}


def built(cache: Path) -> list[str]:
    """The packages that are installed in some environment."""
    return sorted(p.stem for p in cache.glob("flash/built/[!.]*/lib/python*/site-packages/*.bin"))


async def until(condition: Callable[[], object]) -> None:
    end = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        await asyncio.sleep(0.05)


def kept_snapshots() -> list[Snapshot]:
    gc.collect()
    return [each for each in gc.get_objects() if isinstance(each, Snapshot)]


def test_what_an_app_was_given_is_not_kept_when_it_has_ended(tmp_path: Path, cache: Path) -> None:
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


def test_an_environment_goes_with_the_last_worker_of_an_earlier_build(
    tmp_path: Path, cache: Path
) -> None:
    project, go_on = tmp_path / "project", tmp_path / "go-on"
    for name in ("alpha", "beta"):
        make_wheel(project / "wheels", name)

    async def scenario(served: Served) -> None:
        running = asyncio.create_task(served.call("/v2/packed", until=str(go_on)))
        await until(lambda: built(cache) == ["alpha"] and served.plane.workers())
        await until(lambda: served.plane.workers()[0].jobs)
        await served.rewrite(packed("beta"))
        assert await served.call("/v2/packed") == "beta"
        assert built(cache) == ["alpha", "beta"]
        go_on.touch()
        assert await running == "alpha"
        await until(lambda: built(cache) == ["beta"])
        await served.rewrite(packed("alpha"))
        assert await served.call("/v2/packed") == "alpha"

    serve(project, packed("alpha"), scenario)


def test_an_environment_goes_with_its_app_and_not_with_its_worker(
    tmp_path: Path, cache: Path
) -> None:
    make_wheel(tmp_path / "project/wheels", "alpha")

    async def scenario(served: Served) -> None:
        (pool,) = served.gateway.declare_all()
        own = served.plane.declare(replace(pool.spec, app="session"), {}, {})
        await served.plane.warm(own)
        await until(lambda: built(cache) == ["alpha"])
        await served.plane.reconciler.end(own)
        await until(lambda: not own.workers)
        await asyncio.sleep(0.3)
        assert built(cache) == ["alpha"]
        await served.plane.discard("session")
        await until(lambda: not built(cache))
        # Whoever had it builds it again.
        assert await served.call("/v2/packed") == "alpha"

    serve(tmp_path / "project", packed("alpha"), scenario)


def test_an_environment_goes_with_an_endpoint_that_is_served_no_more(
    tmp_path: Path, cache: Path
) -> None:
    make_wheel(tmp_path / "project/wheels", "alpha")

    async def scenario(served: Served) -> None:
        assert await served.call("/v2/packed") == "alpha"
        await served.rewrite({"app.py": PLAIN})
        await until(lambda: not built(cache))
        assert await served.call("/v2/plain") == 1

    serve(tmp_path / "project", packed("alpha"), scenario)


def test_what_is_staged_takes_no_environment_from_what_is_served(
    tmp_path: Path, cache: Path
) -> None:
    project = tmp_path / "project"
    for name in ("alpha", "beta"):
        make_wheel(project / "wheels", name)

    async def scenario(served: Served) -> None:
        (pool,) = served.gateway.declare_all()
        await served.plane.warm(pool)
        await served.plane.reconciler.end(pool)
        await until(lambda: not pool.workers)
        spec = replace(pool.spec, build=replace(pool.spec.build, dependencies=("beta",)))
        staged = await served.plane.stage(spec, {}, {})
        assert staged is not None
        await served.plane.unstage(staged)
        await asyncio.sleep(0.3)
        assert "alpha" in built(cache)

    serve(project, packed("alpha"), scenario)


@pytest.mark.skipif(not FORKS, reason="nothing is kept ready")
def test_an_environment_stays_while_a_process_to_fork_has_it(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FLASH_ZYGOTES", "1")
    make_wheel(tmp_path / "project/wheels", "alpha")

    async def scenario(served: Served) -> None:
        (pool,) = served.gateway.declare_all()
        own = served.plane.declare(replace(pool.spec, app="session"), {}, {})
        await served.plane.prepare(own)
        await served.plane.discard("session")
        await asyncio.sleep(0.3)
        assert built(cache) == ["alpha"]
        assert await served.call("/v2/packed") == "alpha"

    serve(tmp_path / "project", packed("alpha"), scenario)
