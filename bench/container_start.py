"""How soon does a container answer, beside create and start by the engine's command?

    scripts/bench container_start
    DOCKER_HOST=unix:///run/podman/podman.sock ENGINE=podman scripts/bench container_start

IMAGE (python:3.12-slim) has to be there. With QUEUE_IMAGE, an image with the package `runpod`,
also to the first job that it takes. With PAUSE=1 also to the first answer of one that was paused,
and with CHECKPOINT=1 as well of one that CRIU has written to the disk.

All take turns. What the image takes to boot is not the engine's: the program in it says when its
process began, and when it listened or first called the address of jobs, and that is taken off.
"""

from __future__ import annotations

import asyncio
import json
import os
import shlex
import subprocess
import time
import urllib.request
from typing import Any

from harness import Result, leave, need

from runpod_flash import Endpoint, PodTemplate
from runpod_flash.client.embedded import embedded_backend

# When a process began, in a container as well.
BEGAN = """
def began():
    ticks = float(open("/proc/self/stat").read().rpartition(")")[2].split()[19])
    up = float(open("/proc/uptime").read().split()[0])
    return time.time() - up + ticks / os.sysconf("SC_CLK_TCK")
"""
SERVER = f"""
import http.server, json, os, time
{BEGAN}
told = {{"began": began()}}

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
# (The package is not touched: the interpreter says when it connects.)
WORKER = f"""
import os, sys, time
{BEGAN}
told = {{"began": began()}}

def heard(event, args):
    if event == "socket.connect" and isinstance(args[1], tuple):
        told.setdefault("asked", time.time())

sys.addaudithook(heard)
import runpod

runpod.serverless.start({{"handler": lambda job: {{**told, "took": time.time()}}}})
"""
ROUNDS = 15
ENGINE = shlex.split(os.environ.get("ENGINE", "docker"))
IMAGE = os.environ.get("IMAGE", "python:3.12-slim")
PYTHON = os.environ.get("IMAGE_PYTHON", "/usr/local/bin/python")

QUEUE_IMAGE = os.environ.get("QUEUE_IMAGE", "")

server = Endpoint(
    name="server",
    image=IMAGE,
    cpu="cpu3c-1-2",
    template=PodTemplate(
        dockerArgs=json.dumps({"entrypoint": [PYTHON, "-c", SERVER], "cmd": []}),
        ports="8000/http",
    ),
)
worker = Endpoint(
    name="worker",
    image=QUEUE_IMAGE or IMAGE,
    cpu="cpu3c-1-2",
    template=PodTemplate(
        dockerArgs=json.dumps({"entrypoint": [PYTHON, "-c", WORKER], "cmd": []}),
    ),
)


async def by_flash() -> float:
    """Milliseconds from the request to the first /ping, without the image's own boot."""
    start = time.time()
    told: dict[str, float] = await server.get("/times")
    boot = told["listened"] - told["began"]
    _stop_all()
    return 1000 * (told["asked"] - start - boot)


async def job_by_flash() -> float:
    """Milliseconds from a job's submission until it is taken, without the image's own boot."""
    start = time.time()
    told: dict[str, float] = (await worker.runsync({}, timeout=120)).output
    boot = told["asked"] - told["began"]
    _stop_all()
    return 1000 * (told["took"] - start - boot)


def _stop_all() -> None:
    """Return when no container is left."""
    plane = embedded_backend().plane

    async def stop() -> None:
        for each in plane.workers():
            await plane.engine.stop(each.id)

    asyncio.run_coroutine_threadsafe(stop(), embedded_backend()._loop).result()
    while any(pool.workers for pool in plane.pools()):
        time.sleep(0.01)


def engine(*words: str) -> str:
    """What the engine's command writes."""
    done = subprocess.run([*ENGINE, *words], capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(ENGINE)} {words[0]}: {done.stderr}")
    return done.stdout.strip()


def create(image: str, program: str, *options: str) -> str:
    quiet = [] if ENGINE[0].endswith("docker") else ["--quiet"]
    return engine("create", *quiet, *options, "--entrypoint", PYTHON, image, "-c", program)


def by_command(image: str, program: str) -> float:
    """Milliseconds of `create` and `start`."""
    start = time.monotonic()
    container = create(image, program)
    engine("start", container)
    took = 1000 * (time.monotonic() - start)
    engine("rm", "--force", container)
    return took


class Warm:
    """A container of the server that has answered, for what can be done with one."""

    def __init__(self) -> None:
        self._container = create(IMAGE, SERVER, "--publish", "127.0.0.1::8000")
        engine("start", self._container)
        self.answer()

    def answer(self) -> None:
        """Return when it has answered."""
        address = engine("port", self._container, "8000/tcp")
        while True:
            try:
                urllib.request.urlopen(f"http://{address}/times").read()
            except OSError:
                time.sleep(0.002)
            else:
                return

    def back(self, away: tuple[str, ...], *again: str) -> float:
        """Milliseconds until it answers `again`, after it was put `away`."""
        engine(*away, self._container)
        start = time.monotonic()
        engine(*again, self._container)
        self.answer()
        return 1000 * (time.monotonic() - start)

    def remove(self) -> None:
        engine("rm", "--force", self._container)


def check() -> None:
    """The image is there, or this benchmark is left out."""
    need(ENGINE[0])
    found = subprocess.run([*ENGINE, "image", "inspect", IMAGE], capture_output=True, check=False)
    if found.returncode:
        leave(f"{ENGINE[0]} has no image {IMAGE}: pull it, or set IMAGE, ENGINE and DOCKER_HOST.")


async def starts(result: Result, image: str, program: str, ours: Any, title: str) -> None:
    await ours()  # connects, and makes what the first container needs
    by_command(image, program)
    rounds: dict[str, list[float]] = {"create and start": [], "flash, without boot": []}
    for _ in range(ROUNDS):
        rounds["create and start"].append(by_command(image, program))
        rounds["flash, without boot"].append(await ours())
    result.compare(title, "ms", rounds, "create and start")


def pauses(result: Result) -> None:
    ways = {"pause, unpause": (("pause",), "unpause")}
    if os.environ.get("CHECKPOINT"):
        ways["checkpoint, restore"] = (("container", "checkpoint"), "container restore")
    warm = {name: Warm() for name in ways}
    rounds: dict[str, list[float]] = {name: [] for name in ("create and start", *ways)}
    for _ in range(ROUNDS):
        rounds["create and start"].append(by_command(IMAGE, SERVER))
        for name, (away, again) in ways.items():
            rounds[name].append(warm[name].back(away, *again.split()))
    for each in warm.values():
        each.remove()
    result.compare("A warm container's next answer", "ms", rounds, "create and start")


async def main() -> None:
    check()
    result = Result(__file__, str(__doc__), ENGINE[0])
    await starts(result, IMAGE, SERVER, by_flash, "A container's first 200 on /ping")
    if QUEUE_IMAGE:
        title = "The first job that a container takes"
        await starts(result, QUEUE_IMAGE, WORKER, job_by_flash, title)
    if os.environ.get("PAUSE"):
        pauses(result)
    result.save()


if __name__ == "__main__":
    asyncio.run(main())
