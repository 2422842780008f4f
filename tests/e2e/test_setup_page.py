"""The page /setup in a real browser: its button makes a key, and its lines use it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from websockets.asyncio.client import connect

from e2e.browser import Page, browser, needs_chromium
from integration.test_keyed_server import guarded
from runpod_flash.control.invitations import Invitations

if TYPE_CHECKING:
    from pathlib import Path

    from integration.served import Served
    from runpod_flash.control.keys import Keys

LINES = "document.querySelectorAll('pre')[2]?.textContent"
# (The page's own style, which its policy has to let in.)
BUTTON = "getComputedStyle(document.querySelector('button')).cursor"


@needs_chromium
def test_the_button_makes_a_key_that_works_and_only_once(tmp_path: Path) -> None:
    async def scenario(served: Served, keys: Keys) -> None:
        token = (await Invitations(keys).create("setup", "admin", 60)).token
        link = f"{served.address}/setup?token={token}"
        with browser(profile) as debugger:
            async with connect(debugger, max_size=None) as socket:
                page = Page(socket)
                await page.send("Page.navigate", url=link)
                assert (
                    await page.until(f"document.querySelector('button') && {BUTTON}") == "pointer"
                )
                assert not list(keys.ring)
                await page.run("document.querySelector('button').click()")
                lines = str(await page.until(LINES)).splitlines()
                await page.send("Page.navigate", url=link)
                title = "document.title.includes('does not work') && document.title"
                assert await page.until(title) == "Flash: This link does not work"
        assert lines[0] == f"export FLASH_TARGET={served.address}"
        key = lines[1].removeprefix("export FLASH_API_KEY=")
        found = keys.ring.find(key.encode())
        assert found is not None
        assert found.may("admin")
        assert lines[2:] == ["flash whoami"]

    profile = tmp_path / "profile"
    profile.mkdir()
    guarded(tmp_path / "project", scenario, files={})
