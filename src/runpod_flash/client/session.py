"""This program's app at a server: code that the server lacks, brought there, for as long as we run.

`gateway/sessions.py` is the other end.
"""

from __future__ import annotations

import asyncio
import os
import secrets
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runpod_flash.client import terminal
from runpod_flash.errors import ConnectionClosedError, FlashError
from runpod_flash.project.catalog import Catalog
from runpod_flash.project.closure import needed_files
from runpod_flash.project.root import find_root
from runpod_flash.project.tree import Tree, TreeFile, named_variables
from runpod_flash.wire import frames
from runpod_flash.wire.frames import Frame, FrameReader

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from runpod_flash.client.connection import Connection
    from runpod_flash.project.catalog import Discovered
    from runpod_flash.spec import EndpointSpec

# So many bytes of files go in one request.
_BATCH = 16_000_000
_RECONNECT_SECONDS = 0.5


def app_name(root: Path | None) -> str:
    """`FLASH_APP`, else the name of the project's directory."""
    return os.environ.get("FLASH_APP") or (root or find_root(Path.cwd()) or Path.cwd()).name


def environment_name() -> str:
    """`FLASH_ENV`, else `production`."""
    return os.environ.get("FLASH_ENV") or "production"


def detached() -> bool:
    """Whether jobs outlive the program which did not wait for them."""
    return os.environ.get("FLASH_DETACH", "0") not in ("", "0")


class ProgramApp:
    """The endpoints that this program has called at one server; on the connection's thread.

    What is deployed there under its app and environment is called as it is.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._id = secrets.token_hex(16)
        self._endpoints: dict[str, Discovered] = {}
        self._bases: dict[str, str] = {}
        self._trees: dict[str, Tree] = {}
        self._lock = asyncio.Lock()
        self._listening: asyncio.Task[None] | None = None
        self._said: set[str] = set()
        self._ended = False

    async def base(self, discovered: Discovered) -> str:
        """Before which address the endpoint's own are; brings the app if it must.

        Raises what `Connection.ask_json` raises.
        """
        name = discovered.spec.name
        async with self._lock:
            known = self._endpoints.get(name)
            if known is None or _differs(known, discovered):
                self._endpoints[name] = discovered
                try:
                    await self._bring()
                except BaseException:
                    self._endpoints.pop(name)
                    raise
            return self._bases.get(name, "")

    async def again(self) -> None:
        """Bring it again: the server has been started anew."""
        async with self._lock:
            await self._bring()

    async def _bring(self) -> None:
        told = await bring(self._connection, self._id, self._wanted, self._content)
        deployed: Mapping[str, Mapping[str, str]] = told["deployed"]
        for name, each in self._endpoints.items():
            there = deployed.get(name)
            self._bases[name] = str(told["base"]) if there is None else there["base"]
            if there is not None and there["code"] != each.spec.build.code:
                self._say_once(
                    name, f"the deployed code of {name} is called, which differs from that on disk"
                )
        if "base" in told and self._listening is None:
            self._listening = asyncio.ensure_future(self._listen())

    def _wanted(self) -> tuple[dict[str, Any], Sequence[TreeFile]]:
        specs = [each.spec for each in self._endpoints.values()]
        # (The program of an image needs no file of this one.)
        roots = dict.fromkeys(spec.entry.root for spec in specs if not spec.is_image)
        found = {root: self._files(root, specs) for root in roots}
        files = {file.path: file for each in found.values() for file in each}
        caller_env: dict[str, str] = {}
        for root, each in found.items():
            caller_env |= named_variables(Path(root), each, os.environ)
        catalog = Catalog(next(iter(roots), str(Path.cwd())), tuple(self._endpoints.values()))
        wanted = wanted_app(catalog, files.values(), caller_env)
        return {**wanted, "detached": detached()}, list(files.values())

    def _files(self, root: str, specs: Sequence[EndpointSpec]) -> list[TreeFile]:
        tree = self._trees.setdefault(root, Tree(Path(root)))
        return tree.files(needed_files(spec for spec in specs if spec.entry.root == root))

    def _content(self, file: TreeFile) -> bytes:
        for tree in self._trees.values():
            with suppress(OSError):
                return tree.content(file)
        return b""

    def _say_once(self, endpoint: str, text: str) -> None:
        if text not in self._said:
            self._said.add(text)
            terminal.say(text, endpoint)

    # What its workers write

    async def _listen(self) -> None:
        printer = terminal.Printer()
        while not self._ended:
            try:
                await listen(self._connection, f"/v2/sessions/{self._id}/events", printer)
            except ConnectionClosedError:
                pass  # the calls say so; until the lease is over, it can be had again
            except FlashError:
                if not self._ended:
                    with suppress(FlashError):
                        await self.again()
            if not self._ended:
                await asyncio.sleep(_RECONNECT_SECONDS)

    async def end(self) -> None:
        """Take the app away, unless it is to stay; what its workers have written is shown."""
        if self._listening is None or detached():
            return
        self._ended = True
        await self._connection.ask_json("DELETE", f"/v2/sessions/{self._id}")
        await self._listening


def wanted_app(
    catalog: Catalog, files: Iterable[TreeFile], caller_env: Mapping[str, str]
) -> dict[str, Any]:
    """An app as a server is asked for it."""
    return {
        "app": app_name(Path(catalog.root)),
        "environment": environment_name(),
        "files": [[file.path, file.digest, file.executable] for file in files],
        "catalog": catalog.to_wire(),
        "caller_env": dict(caller_env),
    }


async def bring(
    connection: Connection, session_id: str, describe: Any, content: Any
) -> dict[str, Any]:
    """Have an app served: files that the server lacks are sent first. What it has answered.

    `describe()` gives the wanted app and its files, `content(file)` the bytes of one.
    """
    while True:
        wanted, files = describe()
        told = await connection.ask_json("PUT", f"/v2/sessions/{session_id}", wanted)
        missing = set(told["missing"])
        if not missing:
            return told
        await upload(connection, [file for file in files if file.digest in missing], content)


async def upload(
    connection: Connection,
    files: Sequence[TreeFile],
    content: Callable[[TreeFile], bytes],
    sent: Callable[[int], None] = lambda _: None,
) -> None:
    """Send the content of files in a few requests; `sent` is told of the bytes of each.

    A large file goes in parts, from where an earlier upload of it has ended.
    """
    batch: list[Frame] = []
    size = 0
    for file in {file.digest: file for file in files}.values():
        data = content(file)
        if len(data) > _BATCH:
            await _upload_parts(connection, file.digest, data, sent)
            continue
        batch.append(Frame("blob", {"digest": file.digest}, (data,)))
        size += len(data)
        if size >= _BATCH:
            await _send(connection, batch)
            sent(size)
            batch, size = [], 0
    if batch:
        await _send(connection, batch)
        sent(size)


async def _upload_parts(
    connection: Connection, digest: str, data: bytes, sent: Callable[[int], None]
) -> None:
    there, part = 0, b""
    while there < len(data):
        fields = {"digest": digest, "offset": there, "size": len(data)}
        kept = await _send(connection, [Frame("part", fields, (part,))])
        sent(kept[digest] - there)
        there = kept[digest]
        part = data[there : there + _BATCH]


async def _send(connection: Connection, batch: Sequence[Frame]) -> dict[str, int]:
    """How much of each file the server has then."""
    body = b"".join(piece for frame in batch for piece in frames.encode(frame))
    kept: dict[str, int] = (await connection.ask_json("POST", "/v2/blobs", body=body))["kept"]
    return kept


async def listen(connection: Connection, path: str, printer: terminal.Printer) -> None:
    """Print what workers write, as those events bring it, until the connection ends."""
    from runpod_flash.links.base import LogLine
    from runpod_flash.plane.events import Logged, Notice

    reader = FrameReader(None)
    async with connection.streaming(path) as pieces:
        async for piece in pieces:
            for frame in reader.feed(piece):
                fields = frame.fields
                if frame.type == "log":
                    line = LogLine(fields["worker"], fields["text"])
                    printer(Logged(fields["endpoint"], line))
                elif frame.type == "notice":
                    printer(Notice(fields["endpoint"], fields["text"]))


def _differs(known: Discovered, now: Discovered) -> bool:
    return known.spec.build_digest != now.spec.build_digest or known.env != now.env
