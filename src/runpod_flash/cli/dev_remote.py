"""`flash dev --target`: the addresses are here, the workers at a server, which gets each change."""

from __future__ import annotations

import asyncio
import os
import secrets
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from runpod_flash import dotenv
from runpod_flash.cli import dev_screen, output
from runpod_flash.cli.dev_changes import serve_changes
from runpod_flash.cli.dev_front import Front
from runpod_flash.client.connection import AppGoneError, Connection
from runpod_flash.client.credentials import key_for
from runpod_flash.client.session import bring, listen, wanted_app
from runpod_flash.client.terminal import Printer
from runpod_flash.errors import FlashError
from runpod_flash.gateway.forward import Forward
from runpod_flash.project.catalog import Catalog
from runpod_flash.project.tree import Tree, TreeFile, named_variables
from runpod_flash.project.watching import discover_settled

if TYPE_CHECKING:
    from collections.abc import Coroutine
    from pathlib import Path

    from runpod_flash.cli.dev_front import Options
    from runpod_flash.project.watching import Stamps

_RECONNECT_SECONDS = 0.5
_CLOSE_SECONDS = 5.0


class RemoteSession:
    """`Session` at a target."""

    def __init__(self, root: Path, options: Options, target: str) -> None:
        self._root = root
        self._options = options
        self._connection = Connection(target)
        self._id = secrets.token_hex(16)
        self._tree = Tree(root)
        self._catalog: Catalog | None = None
        self._shown = dev_screen.Changes(Catalog(""))
        self._forward = Forward(
            f"{self._connection.origin}/s/{self._id}",
            key_for(target),
            (options.host,),
            lambda told: output_line(dev_screen.request_line(told)),
        )
        self._front = Front(self._forward, options)

    @property
    def address(self) -> str:
        return self._front.server.address

    async def start(self, catalog: Catalog) -> None:
        self._catalog = catalog
        self._shown = dev_screen.Changes(catalog)
        await self._bring()
        await self._front.open().start()

    def follow(self, known: Stamps) -> None:
        self._front.tasks.spawn(self._listen())
        if self._options.reload:
            self._front.tasks.spawn(serve_changes(self._root, known, self._reload))

    async def _there(self, work: Coroutine[Any, Any, Any]) -> Any:
        """The result of what the connection's thread does."""
        return await asyncio.wrap_future(self._connection.spawn(work))

    # Bringing the code

    async def _bring(self) -> list[str]:
        """Have the server serve the catalog; the endpoints whose workers are replaced."""
        told = await self._there(
            bring(self._connection, self._id, self._wanted, self._tree.content)
        )
        return list(told["replaced"])

    def _wanted(self) -> tuple[dict[str, Any], list[TreeFile]]:
        catalog = self._catalog
        assert catalog is not None
        files = self._tree.files(each.file for each in catalog.endpoints)
        variables = {**dotenv.values(), **os.environ}
        wanted = wanted_app(catalog, files, named_variables(self._root, files, variables))
        return {**wanted, "whole": True, "warm": self._options.auto_provision}, files

    async def _reload(self, changed: tuple[str, ...]) -> None:
        began = time.monotonic()
        self._catalog = await discover_settled(self._root)
        replaced = await self._bring()
        dev_screen.problems(self._catalog.problems)
        self._shown.reloaded(changed, self._catalog, replaced, time.monotonic() - began)

    async def _listen(self) -> None:
        """Show what the workers write; a server that was started anew gets the app again."""
        printer = Printer()
        said = ""
        while True:
            try:
                await self._there(
                    listen(self._connection, f"/v2/sessions/{self._id}/events", printer)
                )
                said = ""
            except AppGoneError:
                with suppress(FlashError):
                    await self._bring()
            except FlashError as error:
                if str(error) != said:
                    said = str(error)
                    output.error(said)
            await asyncio.sleep(_RECONNECT_SECONDS)

    # The end

    async def close(self, *, stopped: bool) -> None:
        await self._front.close(lambda: None, stopped=stopped)
        with suppress(FlashError, asyncio.TimeoutError):
            ending = self._connection.ask_json("DELETE", f"/v2/sessions/{self._id}")
            await asyncio.wait_for(self._there(ending), _CLOSE_SECONDS)
        await self._forward.close()


def output_line(line: str) -> None:
    """A line about a request, on standard error as the others."""
    import click

    click.echo(line, nl=False, err=True)
