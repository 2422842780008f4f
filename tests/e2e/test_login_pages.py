"""`flash login` with a real browser: the good ways, and what other pages try.

With `LOGIN_PICTURES` naming a directory, what the pages look like is left there.
"""

from __future__ import annotations

import asyncio
import os
import re
import sys
import threading
from contextlib import asynccontextmanager, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any

from websockets.asyncio.client import connect

from e2e.browser import Page, browser, needs_chromium
from integration.test_keyed_server import guarded
from runpod_flash.control.invitations import Invitations
from unit.command_line import MAIN

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

    from integration.served import Served
    from runpod_flash.control.keys import Keys

APPROVE = '[name=decision][value="approve"]'
DENY = '[name=decision][value="deny"]'


class Command:
    """A `flash login` that runs, of somebody with a home of their own."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    async def line(self, pattern: str) -> str:
        """What the pattern's group is in the next line that matches it."""
        assert self._process.stdout is not None
        seen = []
        while line := (await self._process.stdout.readline()).decode():
            seen.append(line)
            found = re.search(pattern, line)
            if found:
                return found[1]
        raise AssertionError(f"no {pattern} in {seen}")

    async def end(self) -> tuple[int, str]:
        output, _ = await asyncio.wait_for(self._process.communicate(), 60)
        assert self._process.returncode is not None
        return self._process.returncode, output.decode()


class Room:
    """A server, a person's browser, and their terminals."""

    def __init__(self, served: Served, keys: Keys, page: Page, folder: Path) -> None:
        self.served = served
        self.keys = keys
        self.page = page
        self.folder = folder

    async def login(self, home: str, *options: str) -> Command:
        return await self.flash(home, "login", "--server", self.served.address, *options)

    async def flash(self, home: str, *words: str) -> Command:
        folder = self.folder / home
        folder.mkdir(exist_ok=True)
        return Command(
            await asyncio.create_subprocess_exec(
                sys.executable, "-c", MAIN, *words,
                cwd=folder,
                env={"HOME": str(folder), "PATH": "/usr/bin:/bin", "PYTHONUNBUFFERED": "1"},
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.STDOUT,
            )
        )  # fmt: skip

    async def sees(self, text: str) -> str:
        """The page's text, once that is in it."""
        found = await self.page.until(
            f"document.body?.innerText.includes({text!r}) && document.body.innerText"
        )
        return str(found)

    async def sign_in(self, key: str) -> None:
        await self.sees("Sign in")
        await self.page.type(key)  # (its field has the focus)
        await self.page.click("form button")

    async def framed(self) -> str:
        """The address of the page's frame, where the browser has refused to show it."""
        for _ in range(40):
            tree = await self.page.send("Page.getFrameTree")
            (child,) = tree["frameTree"]["childFrames"]
            if child["frame"]["url"] not in ("", "about:blank"):
                return str(child["frame"].get("unreachableUrl", ""))
            await asyncio.sleep(0.1)
        raise AssertionError("the frame has loaded nothing")

    async def picture(self, name: str) -> None:
        folder = os.environ.get("LOGIN_PICTURES")
        if folder:
            await self.page.picture(Path(folder) / f"{name}.png")


def with_browser(tmp_path: Path, scenario: Callable[[Room], Awaitable[None]]) -> None:
    async def whole(served: Served, keys: Keys) -> None:
        async with opened(tmp_path / "profile") as page:
            await scenario(Room(served, keys, page, tmp_path))

    guarded(tmp_path / "project", whole, files={})


@asynccontextmanager
async def opened(profile: Path) -> AsyncIterator[Page]:
    profile.mkdir()
    with browser(profile) as debugger:
        async with connect(debugger, max_size=None) as socket:
            yield Page(socket)


@needs_chromium
def test_a_person_logs_in_by_the_browser_and_by_a_code(tmp_path: Path) -> None:
    async def scenario(room: Room) -> None:
        ada = await room.keys.create("ada", "admin")

        # The first time in this browser: with a key, after a wrong one.
        command = await room.login("laptop", "--no-browser")
        await room.page.open(await command.line(r"^  (http\S+)"))
        await room.sign_in("flash_wrong")
        await room.sees("has no such key")
        await room.picture("wrong-key")
        await room.sign_in(ada.secret)
        asked = await room.sees("Allow this login?")
        assert "a program on this computer, at 127.0.0.1:" in asked
        await room.picture("consent")
        await room.page.click(APPROVE)
        await room.sees("You may close this page")
        await room.picture("done")
        address = await room.page.run("location.href")
        assert address == f"{room.served.address}/oauth/done"
        code, output = await command.end()
        assert code == 0, output
        name = next(key.name for key in room.keys.ring if key.name != "ada")
        assert name.startswith("ada@")
        assert f"Logged in as {name} at {room.served.address}, who may deploy." in output
        (kept,) = (tmp_path / "laptop/.local/state/flash/keys").iterdir()
        assert kept.stat().st_mode & 0o777 == 0o600

        # Another terminal: the browser is signed in, and the code is typed.
        command = await room.login("box", "--device")
        page = await command.line(r"^Open (\S+)")
        code_shown = await command.line(r"^  (\w{4}-\w{4})$")
        await room.page.open(page)
        await room.sees("Enter the code")
        await room.page.type("bbbbbbbb")
        await room.page.click("form button")
        await room.sees("No login waits with this code")
        await room.picture("wrong-code")
        await room.page.type(code_shown.lower().replace("-", ""))
        await room.page.click("form button")
        assert code_shown in await room.sees("Allow this login?")
        await room.picture("consent-device")
        await room.page.click(APPROVE)
        await room.sees("Go back to your terminal")
        code, output = await command.end()
        assert (code, "who may deploy" in output) == (0, True), output
        assert len(list(room.keys.ring)) == 3

        # The second one logs out, and the first one logs in anew: both keys end.
        code, output = await (await room.flash("box", "logout")).end()
        assert (code, output) == (0, f"The key of {room.served.address} is forgotten here.\n")
        command = await room.login("laptop", "--no-browser")
        await room.page.open(await command.line(r"^  (http\S+)"))
        await room.sees("Allow this login?")
        await room.page.click(APPROVE)
        assert (await command.end())[0] == 0
        assert [key.name for key in room.keys.ring] == ["ada", f"{name}-2"]

        # And one that is denied.
        command = await room.login("denied", "--no-browser", "--scope", "admin")
        await room.page.open(await command.line(r"^  (http\S+)"))
        await room.sees("Your admin key, once more")
        await room.picture("consent-admin")
        await room.page.click(DENY)
        await room.sees("No key was made")
        code, output = await command.end()
        assert (code, "the login was denied" in output) == (1, True), output
        assert not (tmp_path / "denied/.local").exists()
        assert len(list(room.keys.ring)) == 2

    with_browser(tmp_path, scenario)


@needs_chromium
def test_who_is_invited_logs_in_without_ever_typing_a_key(tmp_path: Path) -> None:
    async def scenario(room: Room) -> None:
        link = await Invitations(room.keys).create("bob", "invoke", 60)
        await room.page.open(f"{room.served.address}/setup?token={link.token}")
        assert "bob" in await room.sees("Make the key")
        await room.picture("invited")
        await room.page.click("button")
        shown = await room.sees("Keep it now")
        assert f"flash login --server {room.served.address}" in shown
        await room.picture("invited-key")
        command = await room.login("laptop", "--no-browser")
        await room.page.open(await command.line(r"^  (http\S+)"))
        await room.sees("your key may only invoke")
        await room.picture("consent-narrowed")
        await room.page.click(APPROVE)
        code, output = await command.end()
        assert (code, "Logged in as bob@" in output) == (0, True), output
        assert "who may invoke." in output

    with_browser(tmp_path, scenario)


@contextmanager
def elsewhere(html: str) -> Iterator[str]:
    """A page of another program on this machine, where the browser's cookies go as well."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("content-type", "text/html")
            self.end_headers()
            self.wfile.write(html.encode())

        def log_message(self, *_: Any) -> None:
            """The terminal is pytest's."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        yield f"http://localhost:{server.server_port}/"
        server.shutdown()


@needs_chromium
def test_other_pages_allow_nothing_in_the_name_of_who_is_signed_in(tmp_path: Path) -> None:
    async def scenario(room: Room) -> None:
        ada = await room.keys.create("ada", "deploy")
        command = await room.login("laptop", "--no-browser", "--timeout", "60")
        asked = await command.line(r"^  (http\S+)")
        await room.page.open(asked)
        await room.sign_in(ada.secret)
        await room.sees("Allow this login?")
        seal = await room.page.run("document.querySelector('[name=seal]').value")

        # A frame over which a person would click unawares.
        framed = f'<iframe id="f" src="{asked}" width="800" height="600"></iframe><p>shown</p>'
        with elsewhere(framed) as evil:
            await room.page.open(evil)
            await room.sees("shown")
            assert await room.framed() == asked  # (what the browser would not show)
            await room.picture("framed")
            await room.page.click("#f")

        # A form that sends itself, even with a seal that somebody has seen.
        form = (
            f'<form method="post" action="{asked}"><input name="seal" value="{seal}">'
            '<input name="decision" value="approve"></form><script>document.forms[0].submit()'
            "</script>"
        )
        with elsewhere(form) as evil:
            await room.page.open(evil)
            await room.sees("was not sent by a page of this server")

        # An answer that nobody has asked for, at the port that waits for one.
        back = re.search(r"redirect_uri=http%3A%2F%2F127.0.0.1%3A(\d+)", asked)
        assert back
        await room.page.open(f"http://127.0.0.1:{back[1]}/callback?code=forged&state=forged")
        await room.sees("was dropped")

        # A link that sends the code elsewhere.
        await room.page.open(asked.replace("127.0.0.1%3A", "evil.example%3A"))
        await room.sees("This login cannot go on")
        await room.picture("foreign")

        # None of that was in the person's way.
        await room.page.open(asked)
        await room.sees("Allow this login?")
        assert [key.name for key in room.keys.ring] == ["ada"]
        await room.page.click(APPROVE)
        await room.sees("You may close this page")
        code, output = await command.end()
        assert code == 0, output

    with_browser(tmp_path, scenario)
