"""Programs' apps on a real socket: those that end while their program comes back."""

from __future__ import annotations

import asyncio
import hashlib
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

import httpx

from integration.served import KEY, serve, write
from runpod_flash.gateway import sessions
from runpod_flash.project.catalog import Catalog
from runpod_flash.project.discovery import discover
from runpod_flash.wire import frames
from runpod_flash.wire.frames import Frame

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator, Mapping
    from pathlib import Path

    import pytest

    from integration.served import Served

OWNER = {"authorization": f"Bearer {KEY}"}
ID = "0" * 32
CODE = """
from runpod_flash import Endpoint

@Endpoint(name="double", cpu="cpu3c-1-2")
def double(x: int) -> int:
    return 2 * x
"""


class Program:
    """What a program asks of the server for its app."""

    def __init__(self, served: Served) -> None:
        # (No thread has to look its address up.)
        self.http = httpx.AsyncClient(base_url=served.address.replace("localhost", "127.0.0.1"))
        self.tree = served.root / ".server" / "apps" / ID
        self.kept = served.root / ".server" / "kept-apps" / f"{ID}.json"

    async def upload(self, text: str) -> str:
        digest = hashlib.sha256(text.encode()).hexdigest()
        body = b"".join(frames.encode(Frame("blob", {"digest": digest}, (text.encode(),))))
        answer = await self.http.post("/v2/blobs", content=body, headers=OWNER)
        assert answer.status_code == 200, answer.text
        return digest

    async def bring(
        self,
        files: Mapping[str, str],
        catalog: Catalog = Catalog(""),  # noqa: B008
    ) -> httpx.Response:
        """Bring files, by their digests."""
        wanted = {
            "app": "shop",
            "environment": "production",
            "files": [[path, digest, False] for path, digest in files.items()],
            "catalog": catalog.to_wire(),
            "caller_env": {},
            "whole": True,
        }
        return await self.http.put(f"/v2/sessions/{ID}", json=wanted, headers=OWNER)

    async def end(self) -> httpx.Response:
        return await self.http.delete(f"/v2/sessions/{ID}", headers=OWNER)

    async def call(self, x: int) -> int:
        path, value = f"/s/{ID}/v2/double/runsync", {"input": {"x": x}}
        answer = await self.http.post(path, json=value, headers=OWNER)
        assert answer.status_code == 200, answer.text
        return int(answer.json()["output"])

    async def told(self) -> str:
        """What is said where the app serves nothing."""
        answer = await self.http.get(f"/s/{ID}/nothing", headers=OWNER)
        return str(answer.json()["error"])


def play(root: Path, scenario: Callable[[Program], Awaitable[None]]) -> None:
    async def whole(served: Served) -> None:
        program = Program(served)
        async with program.http:
            await scenario(program)

    serve(root, {}, whole, control=True)


async def until_ended(program: Program) -> None:
    deadline = time.monotonic() + 20
    while "is not here" not in await program.told():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.001)


@contextmanager
def busy_threads() -> Iterator[None]:
    """Let the loop's threads, of which the server lays out files, begin with nothing else."""
    loop, go_on = asyncio.get_running_loop(), threading.Event()
    for _ in range(64):
        loop.run_in_executor(None, go_on.wait)
    try:
        yield
    finally:
        go_on.set()


def test_a_program_that_comes_back_while_its_app_ends_has_a_whole_one(tmp_path: Path) -> None:
    async def scenario(program: Program) -> None:
        project = tmp_path / "project"
        write(project, {"app.py": CODE})
        digest, catalog = await program.upload(CODE), await discover(project)
        files = dict.fromkeys(("app.py", *(f"more/{number}.py" for number in range(500))), digest)
        assert (await program.bring(files, catalog)).status_code == 200
        assert await program.call(4) == 8

        with busy_threads():
            ending = asyncio.create_task(program.end())
            await until_ended(program)
            bringing = asyncio.create_task(program.bring(files, catalog))
            await asyncio.sleep(0.2)
        assert (await ending).status_code == 200
        assert (await bringing).status_code == 200, (await bringing).text
        assert program.kept.exists()
        assert await program.call(5) == 10
        assert (await program.end()).status_code == 200
        assert not program.kept.exists()
        assert not program.tree.exists()

    play(tmp_path / "server", scenario)


def test_an_app_does_not_lapse_while_it_is_brought_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario(program: Program) -> None:
        monkeypatch.setattr(sessions, "LEASE_SECONDS", 0.2)
        files = {"a.txt": await program.upload("a")}
        assert (await program.bring({})).status_code == 200
        with busy_threads():
            bringing = asyncio.create_task(program.bring(files))
            await asyncio.sleep(0.5)
            monkeypatch.setattr(sessions, "LEASE_SECONDS", 20)
        assert (await bringing).status_code == 200
        await asyncio.sleep(0.1)
        assert "nothing is served at" in await program.told()
        assert program.kept.exists()
        assert [path.name for path in program.tree.glob("*/a.txt")] == ["a.txt"]

    play(tmp_path, scenario)


def test_an_app_that_cannot_be_laid_out_lapses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario(program: Program) -> None:
        monkeypatch.setattr(sessions, "LEASE_SECONDS", 0.1)
        refused = await program.bring({"../a": await program.upload("a")})
        assert refused.status_code == 400
        assert "cannot be laid out" in refused.text
        await until_ended(program)

    play(tmp_path, scenario)
