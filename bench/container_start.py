"""How soon does a container answer, beside create and start by the engine's command?

    scripts/bench container_start
    DOCKER_HOST=unix:///run/podman/podman.sock ENGINE=podman scripts/bench container_start

IMAGE (python:3.12-slim) has to be there. Both take turns. What the image takes to boot is not the
engine's: the server in it says when its process began and when it listened, and that is taken off.
"""

from __future__ import annotations

import asyncio
import json
import os
import shlex
import subprocess
import time
from typing import TYPE_CHECKING, Any

from harness import Result, leave, need

from runpod_flash import Endpoint, PodTemplate
from runpod_flash.client.embedded import embedded_backend

if TYPE_CHECKING:
    from runpod_flash.plane.plane import Plane

SERVER = """
import http.server, json, os, time

def began():
    ticks = float(open("/proc/self/stat").read().rpartition(")")[2].split()[19])
    up = float(open("/proc/uptime").read().split()[0])
    return time.time() - up + ticks / os.sysconf("SC_CLK_TCK")

told = {"began": began()}

class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        told.setdefault("asked", time.time())
        body = json.dumps(told).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args):
        pass

server = http.server.ThreadingHTTPServer(("", 8000), Handler)
told["listened"] = time.time()
server.serve_forever()
"""
ROUNDS = 15
ENGINE = shlex.split(os.environ.get("ENGINE", "docker"))
IMAGE = os.environ.get("IMAGE", "python:3.12-slim")
PYTHON = os.environ.get("IMAGE_PYTHON", "/usr/local/bin/python")

server = Endpoint(
    name="server",
    image=IMAGE,
    cpu="cpu3c-1-2",
    template=PodTemplate(
        dockerArgs=json.dumps({"entrypoint": [PYTHON, "-c", SERVER], "cmd": []}),
        ports="8000/http",
    ),
)


async def by_flash() -> float:
    """Milliseconds from the request to the first /ping, without the image's own boot."""
    began = time.time()
    told: dict[str, float] = await server.get("/times")
    boot = told["listened"] - told["began"]
    await asyncio.wrap_future(_on_loop(_stop_all(embedded_backend().plane)))
    return 1000 * (told["asked"] - began - boot)


async def _stop_all(plane: Plane) -> None:
    for worker in plane.workers():
        await plane.engine.stop(worker.id)
    for pool in plane.pools():
        while pool.workers:
            pool.exit.clear()
            await pool.exit.wait()


def _on_loop(work: Any) -> Any:
    return asyncio.run_coroutine_threadsafe(work, embedded_backend()._loop)


def by_command() -> float:
    """Milliseconds of `create` and `start`."""
    command = [*ENGINE, "create", "--quiet", "--entrypoint", PYTHON, IMAGE, "-c", SERVER]
    if ENGINE[0].endswith("docker"):
        command.remove("--quiet")
    began = time.monotonic()
    container = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    subprocess.run([*ENGINE, "start", container], capture_output=True, check=True)
    took = 1000 * (time.monotonic() - began)
    subprocess.run([*ENGINE, "rm", "--force", container], capture_output=True, check=True)
    return took


def check() -> None:
    """The image is there, or this benchmark is left out."""
    need(ENGINE[0])
    found = subprocess.run([*ENGINE, "image", "inspect", IMAGE], capture_output=True, check=False)
    if found.returncode:
        leave(f"{ENGINE[0]} has no image {IMAGE}: pull it, or set IMAGE, ENGINE and DOCKER_HOST.")


async def main() -> None:
    check()
    result = Result(__file__, str(__doc__), ENGINE[0])
    await by_flash()  # connects, and makes what the first container needs
    by_command()
    rounds: dict[str, list[float]] = {"create and start": [], "flash, without boot": []}
    for _ in range(ROUNDS):
        rounds["create and start"].append(by_command())
        rounds["flash, without boot"].append(await by_flash())
    result.compare("A container's first 200 on /ping", "ms", rounds, "create and start")
    result.save()


if __name__ == "__main__":
    asyncio.run(main())
