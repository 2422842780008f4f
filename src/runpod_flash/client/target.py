"""Servers that this program calls: its app at each, and what is left of it at the end."""

from __future__ import annotations

import functools
import os
import time
from concurrent import futures
from contextlib import suppress
from typing import TYPE_CHECKING

from runpod_flash.client import ending, terminal
from runpod_flash.client.connection import Connection
from runpod_flash.client.http import HttpBackend
from runpod_flash.client.session import ProgramApp, detached

if TYPE_CHECKING:
    from runpod_flash.client.chosen import Chosen

# So long may the server take to end this program's app.
_CLOSE_SECONDS = 2.0


class Target:
    """A server that this program calls: its app there, and a backend for each endpoint."""

    def __init__(self, chosen: Chosen) -> None:
        self._connection = Connection(chosen.address, named_by=chosen.by)
        self._app = ProgramApp(self._connection)
        self._backends: dict[str, HttpBackend] = {}

    def backend(self, endpoint: str) -> HttpBackend:
        if endpoint not in self._backends:
            self._backends[endpoint] = HttpBackend(self._connection, self._app, endpoint)
        return self._backends[endpoint]

    def finish(self) -> None:
        """Send what is on its way, say in one line what is left, and end this program's app."""
        with suppress(KeyboardInterrupt):
            if not ending.interrupted():
                self._settle()
        self._say_what_is_left()
        with suppress(Exception):  # the server finds it out by itself
            self._connection.spawn(self._app.end()).result(_CLOSE_SECONDS)

    def abandon(self) -> None:
        """In a forked child: let go of what is the parent's."""
        self._connection.abandon()

    def _settle(self) -> None:
        """Wait until all jobs have been sent, and a moment for those that have just ended."""
        sent = [each for backend in self._backends.values() for each in backend.left()]
        futures.wait(sent)
        for text in {str(error): None for each in sent if (error := each.exception())}:
            terminal.say(f"a job was not sent: {text}")
        until = time.monotonic() + ending.SETTLE_SECONDS
        while self._count(None) and time.monotonic() < until:
            time.sleep(0.01)

    def _count(self, deployed: bool | None) -> int:
        """How many jobs have not ended, of the endpoints that are there without us, or not."""
        asked = [b for b in self._backends.values() if deployed in (None, b.deployed)]
        return sum(len(backend.left()) for backend in asked)

    def _say_what_is_left(self) -> None:
        own, others = self._count(deployed=False), self._count(deployed=True)
        if detached():
            own, others = 0, own + others
        if others:
            text = f"{ending.jobs(others)} not waited for: {self._connection.origin} goes on"
            terminal.say(text)
        if own:
            terminal.say(
                f"cancelled {ending.jobs(own)} not waited for: this program's app at "
                f"{self._connection.origin} ends with it; FLASH_DETACH=1 keeps the app until its "
                "jobs have ended"
            )


_targets: dict[str, Target] = {}


def backend_at(chosen: Chosen, endpoint: str) -> HttpBackend:
    """The backend of an endpoint at a server, made on first use; a forked child makes its own."""
    if chosen.address not in _targets:
        target = Target(chosen)
        _hook_once()
        _targets[chosen.address] = target
    return _targets[chosen.address].backend(endpoint)


@functools.cache
def _hook_once() -> None:
    os.register_at_fork(after_in_child=_abandon_all)
    ending.at_thread_shutdown(_finish_all)


def _finish_all() -> None:
    for target in _targets.values():
        target.finish()


def _abandon_all() -> None:
    for target in _targets.values():
        target.abandon()
    _targets.clear()
