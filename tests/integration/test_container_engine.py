"""How a plane finds its container engine, loses it, and lets go of it: an engine that has nothing.

(slow/test_containers.py has a real one.)
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import signal
import socketserver
import subprocess
import sys
import threading
import time
from contextlib import asynccontextmanager
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import pytest

from runpod_flash.engines.base import StartOrder
from runpod_flash.engines.docker.creation import PLANE_LABEL
from runpod_flash.engines.docker.engine import DockerEngine
from runpod_flash.engines.docker.marks import Marks
from runpod_flash.engines.docker.sweeping import LOCK_DIR, has_ended, lock_plane
from runpod_flash.engines.local.devices.leasing import Leasing
from runpod_flash.engines.local.node import Node
from runpod_flash.engines.local.volumes import UsersVolumes
from runpod_flash.errors import WorkerStartError
from runpod_flash.spec import Build, Container, EndpointSpec, Entry

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator, Sequence

    from runpod_flash.engines.base import WorkerExit
    from runpod_flash.links.image import ImageLink

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")

SPEC = EndpointSpec("it", Entry("", "", kind="image"), Build("", container=Container("web:1")))
IMAGE = {"Id": "sha256:abc", "Config": {}}
ANSWERS: dict[str, Any] = {
    "/version": {"ApiVersion": "1.41", "MinAPIVersion": "1.24"},
    "/info": {"NCPU": 1},
    "/containers/json": [],
}


class FakeEngine(socketserver.ThreadingUnixStreamServer):
    """A container engine without containers; with `fails_to_list`, it breaks off where asked.

    Answers that are functions are called.
    """

    daemon_threads = True

    def __init__(self, path: Path) -> None:
        super().__init__(str(path), _Handler)
        self.address = f"unix://{path}"
        self.answers = dict(ANSWERS)
        self.fails_to_list = False
        threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True).start()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        engine, path = self.server, self.path.partition("?")[0]
        assert isinstance(engine, FakeEngine)
        if path.endswith("/containers/json") and engine.fails_to_list:
            self.close_connection = True
            return
        found = next((v for k, v in engine.answers.items() if path.endswith(k)), None)
        found = found() if callable(found) else found
        body = json.dumps({"message": "no such thing"} if found is None else found).encode()
        self.send_response(404 if found is None else 200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_POST = do_DELETE = do_GET  # noqa: N815

    def log_message(self, *_: Any) -> None:
        pass


class FakeDesk:
    """A desk that nobody comes to: the first of its doors do not open."""

    def __init__(self, refusals: int = 0) -> None:
        self.refusals = refusals
        self.dismissing: Callable[[], Any] | None = None

    async def open(self, listen: str, host: str) -> None:
        if self.refusals:
            self.refusals -= 1
            raise OSError("no port is free")

    async def expect(
        self, endpoint: str, link: ImageLink, end: Callable[[str], None]
    ) -> dict[str, str]:
        return {}

    async def dismiss(self, worker_id: str) -> None:
        if self.dismissing is not None:
            await self.dismissing()

    async def close(self) -> None:
        pass


class Silence:
    """Events of an engine that nobody hears."""

    def worker_exited(self, exit: WorkerExit) -> None: ...
    def worker_output(self, worker_id: str, line: str) -> None: ...
    def notice(self, endpoint: str, text: str) -> None: ...


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeEngine]:
    with FakeEngine(tmp_path / "engine.sock") as engine:
        monkeypatch.setenv("DOCKER_HOST", engine.address)
        yield engine
        engine.shutdown()


@asynccontextmanager
async def plane_engine(cache: Path, desk: FakeDesk | None = None) -> AsyncIterator[DockerEngine]:
    node = Node()
    leasing = Leasing(node, "cpu")
    engine = DockerEngine(desk or FakeDesk(), node, leasing, cache, UsersVolumes())
    try:
        yield engine
    finally:
        await engine.close()


async def connect(engine: DockerEngine) -> None:
    assert await engine.pin(SPEC, {}, None) == ""


def locks(plane: str) -> int:
    """How many descriptors this process has of the plane's lock."""
    found = Path("/proc/self/fd").iterdir()
    return sum(os.path.realpath(each) == str(LOCK_DIR / f"{plane}.lock") for each in found)


def keepers(plane: str, of: int | None = None) -> Sequence[psutil.Process]:
    children = psutil.Process(of).children()
    return [each for each in children if plane in each.cmdline()]


def test_a_plane_whose_engine_went_as_it_was_found_has_its_lock_once(
    fake: FakeEngine, tmp_path: Path
) -> None:
    async def main() -> None:
        async with plane_engine(tmp_path) as engine:
            plane = engine._plane
            fake.fails_to_list = True
            for _ in range(2):
                with pytest.raises(WorkerStartError, match="does not answer any more"):
                    await connect(engine)
            fake.fails_to_list = False
            await connect(engine)
            assert locks(plane) == 1
            assert lock_plane(plane) is None
        assert locks(plane) == 0
        assert has_ended(plane)

    asyncio.run(main())


def test_a_plane_whose_desk_did_not_open_at_first_has_one_keeper_and_its_mark(
    fake: FakeEngine, tmp_path: Path
) -> None:
    async def main() -> None:
        async with plane_engine(tmp_path, FakeDesk(refusals=2)) as engine:
            for _ in range(2):
                with pytest.raises(OSError, match="no port is free"):
                    await connect(engine)
                assert not keepers(engine._plane)
                assert not Marks(tmp_path).all()
            await connect(engine)
            gc.collect()
            assert len(keepers(engine._plane)) == 1
            assert Marks(tmp_path).all() == [engine._plane]
        assert not keepers(engine._plane)
        assert not Marks(tmp_path).all()

    asyncio.run(main())


def test_what_goes_wrong_after_a_worker_is_told_and_what_still_runs_ends_with_the_engine(
    fake: FakeEngine, tmp_path: Path
) -> None:
    fake.answers["/images/web:1/json"] = IMAGE  # but no container can be made of it
    told: list[dict[str, Any]] = []
    ended: list[str] = []

    async def fails() -> None:
        raise LookupError("a fault")

    async def hangs() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0.2)
            ended.append("hangs")

    async def main() -> None:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, context: told.append(context))
        desk, events = FakeDesk(), Silence()
        async with plane_engine(tmp_path, desk) as engine:
            for number, desk.dismissing in enumerate((fails, hangs)):
                with pytest.raises(WorkerStartError, match="cannot run the image"):
                    await engine.start(StartOrder(f"it-{number}", SPEC, {}), events)
                await asyncio.sleep(0)
            assert not ended
        assert ended == ["hangs"]

    asyncio.run(main())
    (context,) = told
    assert str(context["exception"]) == "a fault"
    assert "task" in context  # so that no job waits for ever: see the embedded plane


@pytest.mark.filterwarnings("ignore:docker-credential")  # (the client warns of it as well)
def test_credentials_that_cannot_be_looked_up_are_told_with_what_to_do(
    fake: FakeEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "config.json").write_text('{"credsStore": "none-of-that-name"}')
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))

    async def main() -> None:
        async with plane_engine(tmp_path) as engine:
            with pytest.raises(WorkerStartError, match=r"could not be pulled: .*credsStore"):
                await engine.start(StartOrder("it-1", SPEC, {}), Silence())

    asyncio.run(main())


def test_a_container_that_is_being_created_as_its_plane_ends_is_removed(
    fake: FakeEngine, tmp_path: Path
) -> None:
    there: list[dict[str, Any]] = []
    asked, may_go_on = threading.Event(), threading.Event()

    async def main() -> None:
        async with plane_engine(tmp_path) as engine:

            def create() -> dict[str, str]:
                asked.set()
                may_go_on.wait(30)
                there.append({"Id": "c1", "Labels": {PLANE_LABEL: engine._plane}})
                return {"Id": "c1"}

            def remove() -> dict[str, str]:
                there.clear()
                return {}

            fake.answers |= {
                "/images/web:1/json": IMAGE,
                "/containers/create": create,
                "/containers/json": there,
                "/containers/c1/start": {},
                "/containers/c1/json": {"State": {}, "NetworkSettings": {}},
                "/containers/c1/kill": {},
                "/containers/c1": remove,
            }
            starting = asyncio.ensure_future(engine.start(StartOrder("it-1", SPEC, {}), Silence()))
            assert await asyncio.to_thread(asked.wait, 30)
            starting.cancel()
            # (Time to end too early; who waits for the container as it should does so for long.)
            asyncio.get_running_loop().call_later(0.5, may_go_on.set)
            with pytest.raises(asyncio.CancelledError):
                await starting
        may_go_on.set()  # (`run` waits for the threads.)

    asyncio.run(main())
    assert not there


FORKS = """
import asyncio, gc, os, sys, time
from pathlib import Path
from integration.test_container_engine import connect, locks, plane_engine

async def main():
    async with plane_engine(Path(sys.argv[1])) as engine:
        await connect(engine)
        print(engine._plane, flush=True)
        child = os.fork()
        if child:
            os.waitpid(child, 0)
            os._exit(1)
        try:
            engine.close_in_child()
            files = [open(os.devnull) for _ in range(20)]
            engine._keeper = None
            gc.collect()
            for file in files:
                os.fstat(file.fileno())
            print(locks(engine._plane), flush=True)
            time.sleep(1000)
        finally:
            os._exit(1)

asyncio.run(main())
"""


def test_a_forked_child_closes_nothing_but_its_copies_and_keeps_no_plane_alive(
    fake: FakeEngine, tmp_path: Path
) -> None:
    command = [sys.executable, "-c", FORKS, str(tmp_path)]
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    with subprocess.Popen(command, env=env, stdout=subprocess.PIPE, text=True) as program:
        assert program.stdout is not None
        plane = program.stdout.readline().strip()
        try:
            assert program.stdout.readline() == "0\n"
            (keeper,) = keepers(plane, program.pid)
            (child,) = [p for p in psutil.Process(program.pid).children() if p != keeper]
        finally:
            program.send_signal(signal.SIGKILL)
        assert not psutil.wait_procs([keeper], timeout=10)[1]
        assert child.is_running()
        child.kill()
    until = time.monotonic() + 5
    while Marks(tmp_path).all() and time.monotonic() < until:
        time.sleep(0.01)
    assert not Marks(tmp_path).all()
    assert has_ended(plane)
