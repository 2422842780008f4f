"""A server has environments built, and processes to fork, before the first request."""

from __future__ import annotations

import asyncio
import shutil
from typing import TYPE_CHECKING, Any

import httpx

from behaviour.programs import FORKS, Programs, processes_of
from behaviour.servers import server
from e2e.elsewhere import until
from e2e.shop import Shop
from integration.served import Served, serve
from integration.wheels import LOCAL_ONLY, make_wheel
from runpod_flash.plane.events import Notice

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

    from behaviour.servers import Target

APP = """
import os
from pathlib import Path
from runpod_flash import Endpoint

@Endpoint(name="packed", cpu="cpu3c-1-2", dependencies=["alpha"])
def packed() -> dict:
    import alpha
    minder = Path(f"/proc/{os.getppid()}/stat").read_text().rpartition(")")[2].split()
    return {"version": alpha.VERSION, "by": Path(f"/proc/{minder[1]}/comm").read_text().strip()}
"""
BROKEN = """
from runpod_flash import Endpoint

@Endpoint(name="broken", cpu="cpu3c-1-2", dependencies=["absent"])
def broken() -> None: ...
"""
FILES = {"pyproject.toml": "[project]\nname = 'shop'\n", "requirements.txt": LOCAL_ONLY}


def await_prepared(target: Target) -> None:
    """Returns when the environment with `alpha` is there, and a process to fork where any is."""
    until(lambda: built(target), target.log.read_text)
    if FORKS:  # that has forked already, for the first worker
        await_process(target, "flash-minder")


def built(target: Target) -> list[Path]:
    pattern = "flash/built/*/lib/python*/site-packages/alpha.py"
    return list(target.cache.glob(pattern))


def await_process(target: Target, name: str) -> None:
    until(lambda: any(p.name() == name for p in processes_of(target.home)), target.log.read_text)


def assert_ready(target: Target, found: dict[str, Any]) -> None:
    """What the first request of all was answered."""
    assert found["version"] == "1.0"
    assert (found["by"] == "flash-zygote") == FORKS
    assert target.log.read_text().count("building environment: ") == 1


def test_the_first_request_of_a_served_project_finds_all_prepared(tmp_path: Path) -> None:
    shop = tmp_path / "shop"
    make_wheel(shop / "wheels", "alpha")
    Programs(shop, tmp_path).write({**FILES, "app.py": APP, "broken.py": BROKEN})
    with server(tmp_path / "server", tmp_path / "cache", "--app", str(shop)) as target:
        await_prepared(target)
        until(lambda: "cannot be prepared: " in target.log.read_text(), target.log.read_text)
        assert "absent" in target.log.read_text()
        told = httpx.post(f"{target.address}/v2/packed/runsync", json={"input": {}}, timeout=60)
        assert_ready(target, told.json()["output"])


def test_a_deploy_prepares_and_so_does_a_server_that_starts_again(tmp_path: Path) -> None:
    make_wheel(tmp_path / "shop/wheels", "alpha")
    with server(tmp_path / "server", tmp_path / "cache") as target:
        shop = Shop(tmp_path / "shop", target, {**FILES, "app.py": APP})
        shop.deploy()
        assert built(target)
        if FORKS:
            await_process(target, "flash-zygote")
        target.stop()
        shutil.rmtree(target.cache / "flash/built")
        target.start_again()
        await_prepared(target)
        assert_ready(target, shop.ask("packed"))


def test_a_request_that_comes_meanwhile_waits_for_the_same_build(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    make_wheel(tmp_path / "shop/wheels", "alpha")
    said: list[str] = []

    async def scenario(served: Served) -> None:
        served.plane.events.subscribe(lambda event: said.append(str(event)), Notice)
        (pool,) = served.gateway.declare_all()
        preparing = asyncio.ensure_future(served.plane.prepare(pool))
        await asyncio.sleep(0.1)
        assert not preparing.done()
        assert (await served.call("/v2/packed"))["version"] == "1.0"
        await preparing

    serve(tmp_path / "shop", {**FILES, "app.py": APP}, scenario)
    assert sum("building environment: " in text for text in said) == 1
    assert not any("waiting for another program" in text for text in said)
