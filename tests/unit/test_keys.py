"""Keys: what they may do, how they are kept, and that they end at once."""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING, Any

import pytest

from runpod_flash.control import keys as control_keys
from runpod_flash.control.invitations import Invitations, SpentLinkError
from runpod_flash.control.key import SCOPES, Key, KeyRing, digest, owners_ring
from runpod_flash.control.keys import Keys, LastAdminError, NameTakenError
from runpod_flash.control.setup import LINK_SECONDS, first_start
from runpod_flash.errors import ConfigurationError
from runpod_flash.plane.store.database import prepare
from runpod_flash.testing import ManualClock

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from runpod_flash.control.key import KeyScope


class File:
    """A server's file, opened as often as it is asked for."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.clock = ManualClock()
        prepare(path)

    async def keys(self) -> Keys:
        keys = Keys(self.path, self.clock)
        await keys.load()
        return keys

    def text(self) -> bytes:
        """All that is on disk, the log included."""
        return b"".join(each.read_bytes() for each in self.path.parent.iterdir())

    def used(self, name: str) -> float | None:
        with closing(sqlite3.connect(self.path)) as file:
            row = file.execute("SELECT used_at FROM keys WHERE name = ?", (name,)).fetchone()
        found: float | None = row[0]
        return found


@pytest.fixture
def file(tmp_path: Path) -> File:
    return File(tmp_path / "server" / "flash.db")


def run(scenario: Callable[[], Awaitable[Any]]) -> Any:
    async def whole() -> Any:
        return await scenario()

    return asyncio.run(whole())


# What a key may do


def key(**given: Any) -> Key:
    values: dict[str, Any] = {"id": "key_1", "name": "ci", "scope": "invoke", "endpoints": ()}
    return Key(**{**values, "ending": "abcd", "created_at": 0.0, **given})


@pytest.mark.parametrize(
    ("scope", "may"),
    [
        ("invoke", ["invoke"]),
        ("deploy", ["invoke", "deploy"]),
        ("admin", ["invoke", "deploy", "admin"]),
    ],
)
def test_a_scope_includes_the_smaller_ones(scope: KeyScope, may: list[str]) -> None:
    assert [each for each in SCOPES if key(scope=scope).may(each)] == may


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"name": ""}, "is no name for a key"),
        ({"name": "  "}, "is no name for a key"),
        ({"name": "two\nlines"}, "is no name for a key"),
        ({"name": "x" * 101}, "is no name for a key"),
        ({"name": "key_0"}, "ids begin with key_"),
        ({"scope": "root"}, "'root' is no scope"),
        ({"endpoints": ("a/b",)}, "'a/b' is no name of an endpoint"),
        ({"endpoints": ("a",), "scope": "admin"}, "cannot be kept to endpoints"),
    ],
)
def test_a_wrong_key_is_refused_in_a_sentence(given: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigurationError, match=said):
        key(**given)


def test_a_ring_finds_a_key_by_what_its_client_sends_and_by_nothing_else() -> None:
    ring = owners_ring("the-secret", ManualClock())
    found = ring.find(b"the-secret")
    assert found is not None
    assert found.may("deploy")
    assert not found.may("admin")
    for other in (b"", b"the-secret ", b"The-secret", digest(b"the-secret"), b"\xff"):
        assert ring.find(other) is None


def test_a_key_expires_at_its_time() -> None:
    clock = ManualClock(100.0)
    ring = KeyRing(clock)
    assert not ring.expired(key(expires_at=None))
    assert not ring.expired(key(expires_at=100.5))
    clock.advance(0.5)
    assert ring.expired(key(expires_at=100.5))


# How keys are kept


def test_a_key_is_known_again_after_a_restart_and_is_not_in_the_file(file: File) -> None:
    async def scenario() -> None:
        new = await (await file.keys()).create("ci", "deploy", ("a", "b"), expires_in=60)
        assert len(new.secret) > 45
        assert new.secret.startswith("flash_")
        again = (await file.keys()).ring.find(new.secret.encode())
        assert again == new.key
        assert (again.endpoints, again.expires_at) == (("a", "b"), file.clock() + 60)
        assert new.key.masked == f"flash_…{new.secret[-4:]}"
        assert new.secret.encode() not in file.text()
        assert new.secret[6:].encode() not in file.text()

    run(scenario)


def test_no_two_keys_are_alike_nor_have_one_name(file: File) -> None:
    async def scenario() -> None:
        keys = await file.keys()
        made = [await keys.create(f"k{n}") for n in range(20)]
        assert len({new.secret for new in made} | {new.key.id for new in made}) == 40
        with pytest.raises(NameTakenError, match="there is a key named 'k3'"):
            await keys.create("k3")
        assert len(list(keys.ring)) == 20

    run(scenario)


def test_a_revoked_key_is_unknown_at_once_and_after_a_restart(file: File) -> None:
    async def scenario() -> None:
        keys = await file.keys()
        await keys.create("admin", "admin")
        new = await keys.create("ci")
        assert await keys.revoke(new.key.id)
        assert keys.ring.find(new.secret.encode()) is None
        assert (await file.keys()).ring.find(new.secret.encode()) is None
        assert not await keys.revoke(new.key.id)

    run(scenario)


def test_the_last_key_that_can_make_keys_stays_also_when_two_are_revoked_at_once(
    file: File,
) -> None:
    async def scenario() -> None:
        keys = await file.keys()
        first = await keys.create("first", "admin")
        with pytest.raises(LastAdminError, match="'first' is the last key"):
            await keys.revoke(first.key.id)
        await keys.create("short", "admin", expires_in=10)
        second = await keys.create("second", "admin")
        file.clock.advance(10)
        both = (keys.revoke(first.key.id), keys.revoke(second.key.id))
        done = await asyncio.gather(*both, return_exceptions=True)
        assert sorted(isinstance(each, LastAdminError) for each in done) == [False, True]
        assert len([each for each in keys.ring if not keys.ring.expired(each)]) == 1

    run(scenario)


def test_the_last_use_is_written_apart_from_requests_and_known_after_a_restart(file: File) -> None:
    async def scenario() -> None:
        keys = await file.keys()
        new = await keys.create("ci")
        await keys.create("idle")
        file.clock.advance(5)
        keys.ring.find(new.secret.encode())
        assert file.used("ci") is None
        await keys.note()
        assert (file.used("ci"), file.used("idle")) == (1005.0, None)
        again = await file.keys()
        assert again.ring.used_at(new.key.id) == 1005.0
        changed = file.path.stat().st_mtime_ns, file.text()
        await again.note()
        assert (file.path.stat().st_mtime_ns, file.text()) == changed

    run(scenario)


def test_a_write_that_fails_does_not_end_the_noting_of_uses(
    file: File, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(control_keys, "_NOTED_SECONDS", 0.01)

    async def scenario() -> None:
        keys = await file.keys()
        new = await keys.create("ci")
        await keys.transact(lambda each: each.execute("ALTER TABLE keys RENAME TO away"))
        following = asyncio.create_task(keys.follow())
        keys.ring.find(new.secret.encode())
        await asyncio.sleep(0.3)
        assert not following.done()
        await keys.transact(lambda each: each.execute("ALTER TABLE away RENAME TO keys"))
        while file.used("ci") is None:
            await asyncio.sleep(0.01)
        following.cancel()

    run(lambda: asyncio.wait_for(scenario(), 30))
    assert caplog.text.count("when keys were last used cannot be written") == 1


# The first start


def test_the_first_start_makes_an_admin_key_and_a_link_and_a_later_one_nothing(file: File) -> None:
    async def scenario() -> None:
        keys = await file.keys()
        info = await first_start(keys)
        assert info is not None
        found = keys.ring.find(info.key.encode())
        assert found is not None
        assert found.may("admin")
        assert info.token.encode() not in file.text()
        assert await first_start(keys) is None
        assert await first_start(await file.keys()) is None

    run(scenario)


def test_a_link_works_once_however_often_it_is_looked_at(file: File) -> None:
    async def scenario() -> None:
        keys = await file.keys()
        links = Invitations(keys)
        token = (await links.create("ada", "deploy", 60, ("a",), 3600)).token
        for _ in range(2):
            found = await links.find(token)
            assert (found.name, found.scope, found.endpoints) == ("ada", "deploy", ("a",))
        assert token.encode() not in file.text()
        attempts = await asyncio.gather(
            *(links.redeem(token) for _ in range(4)), return_exceptions=True
        )
        (made,) = [each for each in attempts if not isinstance(each, BaseException)]
        assert all(isinstance(each, SpentLinkError) for each in attempts if each != made)
        assert keys.ring.find(made.secret.encode()) == made.key
        assert (made.key.scope, made.key.endpoints) == ("deploy", ("a",))
        assert made.key.expires_at == file.clock() + 3600
        assert len(list(keys.ring)) == 1
        with pytest.raises(SpentLinkError, match="works once"):
            await links.find(token)

    run(scenario)


def test_two_that_are_invited_under_one_name_have_two(file: File) -> None:
    async def scenario() -> None:
        keys = await file.keys()
        links = Invitations(keys)
        tokens = [(await links.create("ada", "invoke", 60)).token for _ in range(2)]
        names = [(await links.redeem(token)).key.name for token in tokens]
        assert names == ["ada", "ada-2"]
        with pytest.raises(NameTakenError, match="a key named 'ada'"):
            await links.create("ada", "invoke", 60)
        with pytest.raises(ConfigurationError, match="cannot be kept to endpoints"):
            await links.create("eve", "admin", 60, ("a",))

    run(scenario)


def test_a_link_works_for_its_time_and_a_made_up_one_never(file: File) -> None:
    async def scenario() -> None:
        keys = await file.keys()
        links = Invitations(keys)
        info = await first_start(keys)
        assert info is not None
        ended = await links.create("ada", "invoke", 2 * LINK_SECONDS)
        assert {each.name for each in await links.pending()} == {"setup", "ada"}
        assert await links.revoke(ended.invitation.id)
        assert not await links.revoke(ended.invitation.id)
        file.clock.advance(LINK_SECONDS - 1)
        await links.find(info.token)
        file.clock.advance(1)
        for wrong in (info.token, ended.token, "", "x" * 43, "ü"):
            with pytest.raises(SpentLinkError):
                await links.redeem(wrong)
        assert not await links.pending()

    run(scenario)
