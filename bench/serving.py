"""What does a warm echo cost at `flash server`, beside other servers and queues?

    scripts/bench serving [PEER ...]

Flash and one peer at a time, one worker each, with 1 and with 32 clients on the same cores. Flash
keeps its jobs in SQLite as shipped, so that each answer waits for the disk; the peers keep nothing
that outlives a failure of the machine. Flash's worker has `max_concurrency=32`, and so have those
of peers that ask for a number; all but Celery run an async handler. `wrk` asks where there is HTTP.
Clients of Celery and arq are Python programs that submit a job and wait for its result, with no
HTTP in between.
*The unavoidable* is a twin of no use (`peers/unavoidable.py`), *by hand* one that answers this one
request as the API has it, and does nothing else (`peers/by_hand.py`).
"""

from __future__ import annotations

import os
import select
import shutil
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from harness import Result, Row, Table, ratio
from load import Load, load
from servers import ask, flash_server, free_port, running

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from contextlib import AbstractContextManager

FLASH = """
from runpod_flash import Endpoint

@Endpoint(name="echo", cpu="cpu3c-1-2", workers=(1, 1), max_concurrency=32)
async def echo(value):
    return value
"""
FLASH_NAME = "flash server"
PROGRAMS = Path(__file__).parent / "peers"
VALUE = {"input": {"value": "hello"}}
CLIENTS = (1, 32)
ROUNDS = 15
SECONDS = 1
# Celery's clients may wait for ever for a result that was lost.
_PATIENCE_SECONDS = 30

if TYPE_CHECKING:
    # What so many clients find in `SECONDS`.
    Ask = Callable[[int], Load]
    Start = Callable[[Path], AbstractContextManager[Ask]]


class Figure(NamedTuple):
    clients: int
    what: str
    unit: str
    of: str

    @property
    def title(self) -> str:
        return f"{self.clients} client{'s' * (self.clients > 1)}: {self.what}"


FIGURES = [
    Figure(clients, *figure)
    for clients in CLIENTS
    for figure in (
        ("round trip, p50", "ms", "p50"),
        ("round trip, p99", "ms", "p99"),
        ("requests a second", "/s", "rate"),
    )
]


def asking(url: str) -> Ask:
    said = ask(url, VALUE)
    assert "hello" in said, said
    return lambda clients: load(url, clients, SECONDS, VALUE)


@contextmanager
def flash(folder: Path) -> Iterator[Ask]:
    (folder / "app.py").write_text(FLASH)
    with flash_server(folder, "--app", ".", "--log-level", "warning") as server:
        url = f"{server.address}/v2/echo/runsync"
        server.process.answers(url, VALUE)
        yield asking(url)


@contextmanager
def by_http(program: str, path: str, options: Sequence[str], folder: Path) -> Iterator[Ask]:
    """A peer that listens; `{port}` in its options is where."""
    port = free_port()
    url = f"http://127.0.0.1:{port}{path}"
    command = [sys.executable, *program.split(), *(each.format(port=port) for each in options)]
    env = {
        "PYTHONPATH": str(PROGRAMS),
        "RAY_USAGE_STATS_ENABLED": "0",
        "BENTOML_DO_NOT_TRACK": "True",
        "BENTOML_HOME": str(folder),
    }
    with running(command, folder, env) as server:
        server.answers(url, VALUE)
        yield asking(url)


@contextmanager
def by_redis(program: str, folder: Path) -> Iterator[Ask]:
    """A queue: Redis, a worker, and clients that are a program too."""
    port = str(free_port())
    env = {"REDIS": f"redis://127.0.0.1:{port}", "PYTHONPATH": str(PROGRAMS)}
    python = [sys.executable, str(PROGRAMS / program)]
    redis = ["redis-server", "--bind", "127.0.0.1", "--port", port, "--save", ""]
    with running(redis, folder) as server:
        server.seen("Ready to accept connections")
        with running([*python, "worker"], folder, env), asker([*python, "client"], env) as told:
            told(1)  # the worker is there
            yield told


@contextmanager
def asker(command: Sequence[str], env: dict[str, str]) -> Iterator[Ask]:
    """A program that answers the number of clients and of seconds with figures."""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, env=os.environ | env, **pipes) as process:

        def told(clients: int) -> Load:
            process.stdin.write(f"{clients} {SECONDS}\n")
            process.stdin.flush()
            if not select.select([process.stdout], [], [], _PATIENCE_SECONDS)[0]:
                raise RuntimeError(f"{clients} clients heard nothing for {_PATIENCE_SECONDS} s")
            return Load(*map(float, process.stdout.readline().split()))

        try:
            yield told
        finally:
            process.kill()


def file(name: str) -> str:
    return str(PROGRAMS / name)


RUNPOD = (
    "--rp_serve_api",
    "--rp_api_host=127.0.0.1",
    "--rp_api_port={port}",
    "--rp_log_level=ERROR",
)
BENTOML = ("serve", "bentoml_echo:Echo", "--host=127.0.0.1", "--port={port}")
PEERS: dict[str, Start] = {
    "LitServe": partial(by_http, file("litserve_echo.py"), "/predict", ["{port}"]),
    "BentoML": partial(by_http, "-m bentoml", "/echo", BENTOML),
    "Ray Serve": partial(by_http, file("ray_echo.py"), "/", ["{port}"]),
    "runpod --rp_serve_api": partial(by_http, file("runpod_echo.py"), "/runsync", RUNPOD),
    "Celery with Redis": partial(by_redis, "celery_echo.py"),
    "arq": partial(by_redis, "arq_echo.py"),
    "by hand": partial(by_http, file("by_hand.py"), "/v2/echo/runsync", ["{port}"]),
    "the unavoidable": partial(by_http, file("unavoidable.py"), "/", ["{port}"]),
}
VERSIONS = ("litserve", "bentoml", "ray", "runpod", "celery", "arq", "redis-server", "uvicorn")


def in_turns(name: str, result: Result) -> dict[Figure, tuple[list[float], list[float]]]:
    """Flash's samples and the peer's, of each figure; without those that the peer cannot have."""
    loads: dict[int, list[tuple[Load, Load]]] = {}
    with ExitStack() as stack:
        root = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        asks = []
        for side, start in (("flash", flash), ("peer", PEERS[name])):
            (root / side).mkdir()
            asks.append(stack.enter_context(start(root / side)))
        for clients in CLIENTS:
            try:
                for each in asks:
                    each(clients)  # warm up
                loads[clients] = [(asks[0](clients), asks[1](clients)) for _ in range(ROUNDS)]
            except RuntimeError as error:
                result.leave_out(f"{name} ({clients})", str(error))
                break
    return {
        figure: tuple(
            [getattr(each, figure.of) for each in side]
            for side in zip(*loads[figure.clients], strict=True)
        )
        for figure in FIGURES
        if figure.clients in loads
    }


def main() -> None:
    result = Result(__file__, str(__doc__), *VERSIONS)
    found = {}
    for name, start in PEERS.items():
        if sys.argv[1:] and name not in sys.argv[1:]:
            continue
        if start.func is by_redis and shutil.which("redis-server") is None:
            result.leave_out(name, "redis-server is missing (Debian: apt install redis-server)")
            continue
        began = time.monotonic()
        try:
            found[name] = in_turns(name, result)
        except RuntimeError as error:
            result.leave_out(name, str(error))
        print(f"{name}: {time.monotonic() - began:.0f} s", flush=True)
    for figure in FIGURES:
        pairs = {name: each[figure] for name, each in found.items() if figure in each}
        if not pairs:
            continue
        ours = [sample for mine, _ in pairs.values() for sample in mine]
        rows = [
            Row(name, figure.unit, theirs, ratio(theirs, mine))
            for name, (mine, theirs) in pairs.items()
        ]
        result.add(
            Table(figure.title, FLASH_NAME, [Row(FLASH_NAME, figure.unit, ours, 1.0), *rows])
        )
    result.save()


if __name__ == "__main__":
    main()
