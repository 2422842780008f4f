"""Which ASGI server adds the least to a request?

    scripts/bench asgi_servers

A raw JSON echo: the least that an application can do. The servers take turns; each round asks every
one of them with 1 and 32 connections.
"""

from __future__ import annotations

import sys
import tempfile
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness import Result
from load import load
from servers import free_port, running

if TYPE_CHECKING:
    from collections.abc import Iterator

ROUNDS = 10
SECONDS = 1
CONNECTIONS = (1, 32)
BASE = "uvicorn (uvloop, httptools)"
SERVERS = {
    "uvicorn (asyncio, h11)": "uvicorn --loop asyncio --http h11",
    BASE: "uvicorn --loop uvloop --http httptools",
    "granian (uvloop)": "granian",
    "hypercorn (uvloop)": "hypercorn",
}
OPTIONS = {
    "uvicorn": "--lifespan off --log-level critical --no-access-log --port {port}",
    "granian": "--interface asginl --loop uvloop --no-ws --log-level error --port {port}",
    "hypercorn": "-k uvloop --log-level critical --bind 127.0.0.1:{port}",
}
REQUEST = {"input": {"text": "hello", "number": 42}}


async def echo(scope: dict[str, Any], receive: Any, send: Any) -> None:
    """The least that an application can do."""
    body = (await receive())["body"]
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


@contextmanager
def serving(command: str, folder: Path) -> Iterator[str]:
    """The address of the echo under this server, a process of its own."""
    port = free_port()
    options = OPTIONS[command.partition(" ")[0]].format(port=port)
    line = [sys.executable, *f"-m {command} {options} asgi_servers:echo".split()]
    url = f"http://127.0.0.1:{port}/"
    with running(line, folder, {"PYTHONPATH": str(Path(__file__).parent)}) as server:
        server.answers(url, REQUEST)
        yield url


def main() -> None:
    result = Result(__file__, str(__doc__), "uvicorn", "granian", "hypercorn")
    rates: dict[int, dict[str, list[float]]] = {c: {n: [] for n in SERVERS} for c in CONNECTIONS}
    latencies: dict[str, list[float]] = {name: [] for name in SERVERS}
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        urls = {name: stack.enter_context(serving(line, folder)) for name, line in SERVERS.items()}
        for _ in range(ROUNDS):
            for connections in CONNECTIONS:
                for name, url in urls.items():
                    found = load(url, connections, SECONDS, REQUEST)
                    rates[connections][name].append(found.rate)
                    if connections == 1:
                        latencies[name].append(found.p50)
    result.compare("1 connection: p50", "ms", latencies, BASE)
    for connections, rounds in rates.items():
        title = f"{connections} connection{'s' * (connections > 1)}: requests a second"
        result.compare(title, "/s", rounds, BASE)
    result.save()


if __name__ == "__main__":
    main()
