"""Releases in the server's file: how many stay, and what their files are kept for."""

from __future__ import annotations

import asyncio
import secrets
import threading
import time
from functools import partial
from typing import TYPE_CHECKING

from runpod_flash.client.machine import machine_plane
from runpod_flash.control.blobs import Blobs
from runpod_flash.control.releases import AppEnv, Content, Release, Releases
from runpod_flash.control.trees import AppTree, StoredFile
from runpod_flash.control.vault import Vault
from runpod_flash.gateway.app import Gateway
from runpod_flash.gateway.deployments import Deployments
from runpod_flash.plane.store.database import prepare
from runpod_flash.plane.store.memory import MemoryStore
from runpod_flash.project.catalog import Catalog

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from pathlib import Path

    import pytest

SHOP = AppEnv("shop", "production")
EMPTY = Content([], Catalog("").to_wire())


def play(
    folder: Path, scenario: Callable[[Releases], Coroutine[None, None, None]], kept: int = 3
) -> None:
    path = folder / "flash.db"
    prepare(path)
    asyncio.run(scenario(Releases(path, time.time, Vault(folder / "vault-key"), kept)))


async def deploy(releases: Releases, *, works: bool = True, place: AppEnv = SHOP) -> Release:
    """A release with a file of its own, which is served or has failed."""
    content = Content([StoredFile("a.py", secrets.token_hex(32), False)], {})
    release = await releases.begin(place, "project", content, "ada")
    if works:
        await releases.activate(release, {})
    else:
        await releases.fail(release, "it does not import")
    return release


async def states(releases: Releases) -> dict[int, str]:
    return {each.number: each.state for each in await releases.of(SHOP)}


def test_the_last_ones_stay_and_the_files_of_others_are_free(tmp_path: Path) -> None:
    async def scenario(releases: Releases) -> None:
        other = AppEnv("shop", "staging")
        await deploy(releases, place=other)
        for _ in range(5):
            await deploy(releases)
        assert await states(releases) == {5: "active", 4: "replaced", 3: "replaced"}
        assert len(await releases.digests()) == 4, "one for each, and the other environment's"
        assert len(await releases.of(other)) == 1

    play(tmp_path, scenario)


def test_failed_ones_push_out_none_that_was_served_and_are_bounded_themselves(
    tmp_path: Path,
) -> None:
    async def scenario(releases: Releases) -> None:
        for works in (True, True, True, *[False] * 5):
            await deploy(releases, works=works)
        served = {3: "active", 2: "replaced", 1: "replaced"}
        assert await states(releases) == {8: "failed", 7: "failed", 6: "failed", **served}
        assert (await deploy(releases)).number == 9, "no number is given twice"

    play(tmp_path, scenario)


def test_the_active_one_and_what_it_would_be_rolled_back_to_stay_however_old(
    tmp_path: Path,
) -> None:
    async def scenario(releases: Releases) -> None:
        made = [await deploy(releases) for _ in range(5)]
        await releases.resume(made[1])
        await releases.activate(made[1], {})
        releases.kept = 2  # as a server that was started with another number
        await deploy(releases, works=False)
        assert await states(releases) == {
            6: "failed", 5: "replaced", 2: "active", 1: "replaced",
        }  # fmt: skip

    play(tmp_path, scenario, kept=9)


def test_the_end_of_a_release_is_not_that_of_the_next_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gates = [threading.Event(), threading.Event()]
    reached = [threading.Event(), threading.Event()]
    waiting = iter(zip(gates, reached, strict=True))
    forget = AppTree.forget

    def slow(tree: AppTree, used: set[str]) -> None:
        """As where the files of what was served before are many."""
        gate, at = next(waiting)
        at.set()
        gate.wait(20)
        forget(tree, used)

    monkeypatch.setattr(AppTree, "forget", slow)

    async def scenario(releases: Releases) -> None:
        plane = machine_plane(MemoryStore(time.monotonic), {})
        (tmp_path / "apps").mkdir()
        served = Deployments(
            plane, partial(Gateway, plane), releases, tmp_path / "apps", Blobs(tmp_path / "blobs")
        )
        for at in reached:
            await served.rollouts.deploy(SHOP, "project", EMPTY, {}, "ada")
            if at is reached[0]:
                await asyncio.to_thread(at.wait, 20)
        gates[0].set()
        await asyncio.to_thread(reached[1].wait, 20)
        await asyncio.sleep(0.3)  # (the first one sweeps blobs at its end)
        settled = asyncio.ensure_future(served.settled(SHOP))
        await asyncio.sleep(0.1)
        found = served.preparing(SHOP), served.lines(SHOP) is not None, settled.done()
        gates[1].set()
        assert found == (True, True, False)
        await settled
        assert not served.preparing(SHOP)
        assert await states(releases) == {2: "active", 1: "replaced"}
        await served.close()
        await plane.close()

    play(tmp_path, scenario)
