"""A real browser for tests: a headless Chromium, asked by the DevTools protocol."""

from __future__ import annotations

import asyncio
import base64
import json
import shutil
import subprocess
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from urllib.request import urlopen

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from websockets.asyncio.client import ClientConnection

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
OPTIONS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-sync "
    "--disable-background-networking --disable-component-update"
)
needs_chromium = pytest.mark.skipif(
    CHROMIUM is None, reason="no Chromium (Debian: apt install chromium)"
)


@contextmanager
def browser(profile: Path) -> Iterator[str]:
    """A headless Chromium; the address of its one page's debugger."""
    assert CHROMIUM is not None
    process = subprocess.Popen(
        [
            CHROMIUM,
            *OPTIONS.split(),
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


class DevToolsError(Exception):
    """The browser has refused a command."""


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
                if "error" in answer:
                    raise DevToolsError(answer["error"]["message"])
                return answer["result"]

    async def run(self, script: str) -> Any:
        found = await self.send("Runtime.evaluate", expression=script, returnByValue=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    async def open(self, address: str) -> None:
        """Go there, as somebody who types the address."""
        await self.send("Page.navigate", url=address)

    async def type(self, text: str) -> None:
        """Into the field that has the focus."""
        await self.until("document.activeElement?.matches('input')")
        await self.send("Input.insertText", text=text)

    async def click(self, selector: str) -> None:
        """As a person does: what covers it would be clicked in its place."""
        script = f"JSON.stringify(document.querySelector({selector!r}).getBoundingClientRect())"
        box = json.loads(await self.run(script))
        place = {"x": box["x"] + box["width"] / 2, "y": box["y"] + box["height"] / 2}
        for kind in ("mousePressed", "mouseReleased"):
            await self.send(
                "Input.dispatchMouseEvent", type=kind, button="left", clickCount=1, **place
            )

    async def picture(self, file: Path) -> None:
        """A PNG of what is seen now."""
        taken = await self.send("Page.captureScreenshot", format="png")
        file.write_bytes(base64.b64decode(taken["data"]))

    async def until(self, script: str, seconds: float = 20) -> Any:
        """What the script gives, once that is something."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            try:
                found = await self.run(script)
            except DevToolsError:  # the page is being left at this very moment
                found = None
            if found:
                return found
            await asyncio.sleep(0.5)
        text = await self.run("document.body.innerText")
        raise AssertionError(f"nothing came of {script}:\n{text}")
