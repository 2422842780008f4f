"""Waits until the program of an image can be used, and says what is amiss where it does not come.

A server may take minutes to load its model. A worker of a queue says so itself, by asking for jobs.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Protocol

import httpx

from runpod_flash.engines.docker.known import known
from runpod_flash.engines.docker.ports import candidates, health_path, listening

if TYPE_CHECKING:
    from runpod_flash.engines.docker.images import Image
    from runpod_flash.spec import Container

START_SECONDS = 900.0
_FIRST_PAUSE, _LONGEST_PAUSE = 0.01, 0.25
# (The first packet of a connection may be lost while the bridge is being set up, and is only sent
# again after a second.)
_CONNECT_SECONDS = 0.2
_ANSWER_SECONDS = 10.0
# A server without the path that was not given, /ping, is ready as soon as it says so.
_NO_SUCH_PATH = frozenset({401, 403, 404, 405, 501})


class Started(Protocol):
    """A container that has been started."""

    @property
    def pid(self) -> int: ...
    @property
    def decided(self) -> bool:
        """Whether it has turned out what it is, or has ended."""

    def base(self, port: int) -> str:
        """The address of one of its ports; empty where it cannot be reached."""


class Readiness:
    """What is looked for in one container."""

    def __init__(self, container: Container, image: Image, started: Started) -> None:
        self._container = container
        self._ports = candidates(container, image)
        self._path = health_path(container)
        self._is_given = bool(container.health or known(container.image).health)
        self._started = started
        self._seen = "it neither asks for jobs nor listens on a port: name its port in " + _PORTS
        self._limit = container.start_seconds or START_SECONDS

    async def wait(self) -> tuple[str, str]:
        """The address of its server, or why it is none in time; both empty once it is decided."""
        loop = asyncio.get_running_loop()
        until, pause = loop.time() + self._limit, _FIRST_PAUSE
        timeout = httpx.Timeout(_ANSWER_SECONDS, connect=_CONNECT_SECONDS)
        # (Without TLS, certificates need not be loaded.)
        async with httpx.AsyncClient(timeout=timeout, trust_env=False, verify=False) as client:
            while loop.time() < until and not self._started.decided:
                base = await self._look(client)
                if base:
                    return base, ""
                await asyncio.sleep(pause)
                pause = min(pause * 1.3, _LONGEST_PAUSE)
        if self._started.decided:
            return "", ""
        return "", f"it was not ready within {self._limit:.0f} s: {self._seen}"

    async def _look(self, client: httpx.AsyncClient) -> str:
        if known(self._container.image).has_queue and not self._container.ports:
            return ""
        for port in self._listening():
            base = self._started.base(port)
            if base and await self._answers(client, base, port):
                return base
        return ""

    def _listening(self) -> tuple[int, ...]:
        """The ports that are worth asking now."""
        pid = self._started.pid
        if not pid:
            return self._ports
        found = listening(pid)
        for port in self._ports:
            if port in found.open:
                return (port,)
        if self._container.ports or (self._ports and not found.open):
            self._seen = _absent(self._ports, found.open, found.closed)
            return ()
        if not found.open and found.closed:
            self._seen = _closed(found.closed)
        return found.open

    async def _answers(self, client: httpx.AsyncClient, base: str, port: int) -> bool:
        try:
            status = (await client.get(f"{base}{self._path}")).status_code
        except httpx.HTTPError as error:
            self._seen = f"GET {self._path} on its port {port} fails with {error!r}"
            return False
        self._seen = f"GET {self._path} on its port {port} answers {status}"
        if status in (200, 201, 202) or (self._is_given and 200 < status < 300):
            return True
        if not self._is_given and status in _NO_SUCH_PATH:
            return True
        self._seen += "" if self._is_given else "; name another path in " + _HEALTH
        return False


_PORTS = "template=PodTemplate(ports='8000/http')"
_HEALTH = "template=PodTemplate(config={'health': '/health'})"


def _absent(wanted: tuple[int, ...], open_: tuple[int, ...], closed: tuple[int, ...]) -> str:
    ports = " or ".join(map(str, wanted))
    if set(wanted) & set(closed):
        return _closed(tuple(sorted(set(wanted) & set(closed))))
    if open_:
        there = " and ".join(map(str, open_))
        return f"it listens on {there} and not on {ports}: name its port in {_PORTS}"
    return f"nothing listens on its port {ports}: name its port in {_PORTS}"


def _closed(ports: tuple[int, ...]) -> str:
    there = " and ".join(f"127.0.0.1:{port}" for port in ports)
    return f"it listens on {there}, inside its container alone: have it listen on 0.0.0.0"
