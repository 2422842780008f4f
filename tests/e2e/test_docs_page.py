"""The page /docs in a real browser: what it lists can be tried out, without a network."""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from urllib.request import urlopen

import pytest
from websockets.asyncio.client import connect

from e2e.dev_server import dev

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from websockets.asyncio.client import ClientConnection

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
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


@contextmanager
def browser(profile: Path) -> Iterator[str]:
    """A headless Chromium; the address of its one page's debugger."""
    assert CHROMIUM is not None
    options = "--headless --no-sandbox --disable-gpu --disable-background-networking"
    process = subprocess.Popen(
        [
            CHROMIUM,
            *options.split(),
            "--no-first-run",
            "--remote-debugging-port=0",
            f"--user-data-dir={profile}",
            "about:blank",
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        port_file = profile / "DevToolsActivePort"
        until = time.monotonic() + 30
        while not port_file.exists() or not port_file.read_text().strip():
            assert time.monotonic() < until, "Chromium did not start"
            time.sleep(0.05)
        port = port_file.read_text().splitlines()[0]
        with urlopen(f"http://127.0.0.1:{port}/json", timeout=10) as answer:
            pages = json.load(answer)
        yield next(page["webSocketDebuggerUrl"] for page in pages if page["type"] == "page")
    finally:
        process.terminate()
        process.wait(10)


class Page:
    """One page, asked by the DevTools protocol."""

    def __init__(self, socket: ClientConnection) -> None:
        self._socket = socket
        self._calls = 0

    async def send(self, method: str, **parameters: Any) -> Any:
        self._calls += 1
        await self._socket.send(
            json.dumps({"id": self._calls, "method": method, "params": parameters})
        )
        while True:
            answer = json.loads(await self._socket.recv())
            if answer.get("id") == self._calls:
                return answer["result"]

    async def run(self, script: str) -> Any:
        found = await self.send("Runtime.evaluate", expression=script, returnByValue=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    async def until(self, script: str, seconds: float = 20) -> Any:
        """What the script gives, once that is something."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            found = await self.run(script)
            if found:
                return found
            await asyncio.sleep(0.5)
        text = await self.run("document.body.innerText")
        raise AssertionError(f"nothing came of {script}:\n{text}")


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


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium (Debian: apt install chromium)")
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
