"""The page /docs in a real browser: what it lists can be tried out, without a network."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING

from websockets.asyncio.client import connect

from e2e.browser import Page, browser, needs_chromium
from e2e.dev_server import dev
from integration.test_keyed_server import guarded

if TYPE_CHECKING:
    from pathlib import Path

    from integration.served import Served
    from runpod_flash.control.keys import Keys

FILES = {
    "worker.py": """
        from runpod_flash import Endpoint

        @Endpoint(name="double", cpu="cpu3c-1-2")
        def double(x: int = 21) -> int:
            return 2 * x
    """,
    "web.py": """
        from runpod_flash import Endpoint

        api = Endpoint(name="api", cpu="cpu3c-1-2")

        @api.post("/shout")
        async def shout(text: str) -> dict:
            return {"shouted": text.upper()}
    """,
}
FIND = """
[...document.querySelectorAll('.opblock')].find(block =>
  block.querySelector('.opblock-summary-path').textContent.replace(/\\u200b/g, '') === PATH)
"""
SHOWN = "BLOCK.querySelector('.live-responses-table .response-col_description pre')?.textContent"


async def try_out(page: Page, path: str) -> str:
    """Open the operation, execute it as it is filled in, and read the answer."""
    block = f"({FIND.replace('PATH', json.dumps(path)).strip()})"
    await page.until(f"!!{block}")
    await page.run(f"{block}.querySelector('.opblock-summary-control').click()")
    await page.until(f"!!{block}.querySelector('.execute')")
    # (Filled in only after it is shown: a click before that does nothing.)
    click = f"{block}.querySelector('.execute').click()"
    shown = SHOWN.replace("BLOCK", block)
    return str(await page.until(f"(() => {{const s = {shown}; if (!s) {click}; return s}})()"))


@needs_chromium
def test_a_function_and_a_route_can_be_tried_out(tmp_path: Path) -> None:
    async def scenario(address: str, debugger: str) -> tuple[str, str]:
        async with connect(debugger, max_size=None) as socket:
            page = Page(socket)
            await page.send("Page.navigate", url=f"{address}/docs")
            function = await try_out(page, "/worker/runsync")
            route = await try_out(page, "/web/shout")
        return function, route

    profile = tmp_path / "profile"
    profile.mkdir()
    project = tmp_path / "project"
    project.mkdir()
    with dev(project, FILES) as server:
        address = server.address
        server.wait_for("ready in")
        with browser(profile) as debugger:
            function, route = asyncio.run(scenario(address, debugger))
    assert '"output": 42' in function, function
    assert '"shouted": "TEXT"' in route, route


@needs_chromium
def test_where_keys_are_asked_for_the_page_asks_for_one_and_calls_with_it(tmp_path: Path) -> None:
    async def scenario(served: Served, keys: Keys) -> None:
        secret = (await keys.create("ci")).secret
        with browser(profile) as debugger:
            async with connect(debugger, max_size=None) as socket:
                page = Page(socket)
                await page.send("Page.navigate", url=f"{served.address}/docs")
                why = "document.getElementById('why')?.textContent"
                assert "needs a key of this server" in str(await page.until(why))
                await page.run(f"document.getElementById('key').value = {json.dumps(secret)}")
                await page.run("document.querySelector('#ask button').click()")
                answer = await try_out(page, "/worker/runsync")
                assert '"output": 42' in answer, answer
                assert await page.run("document.getElementById('ask').hidden")

    profile = tmp_path / "profile"
    profile.mkdir()
    guarded(tmp_path / "project", scenario, files=FILES)
