"""The plane's side of a zygote: when there is one, and whether a worker may be its fork."""

from __future__ import annotations

import json
import os
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from runpod_flash.engines.local.processes.supervisors import Supervisor

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Collection

    from runpod_flash.engines.local.processes.descriptors import Descriptors
    from runpod_flash.engines.local.processes.launcher import LaunchOrder

_PROGRAM = Path(__file__).resolve().with_name("zygote.py")
_MAX_LOSSES = 3
# What Python, the C library and the modules imported ahead read once. A zygote has nothing else.
_READ_AT_START = ("HOME", "LANG", "PATH")
_READ_AT_START_PREFIXES = ("GLIBC_", "LC_", "LD_", "MALLOC_", "OPENSSL_", "PYDANTIC_", "PYTHON")


@dataclass(frozen=True)
class Conditions:
    """What workers must have in common to be forks of one zygote."""

    python: str
    env: frozenset[tuple[str, str]]
    cwd: Path
    home: Path
    modules: tuple[str, ...]


def conditions(order: LaunchOrder) -> Conditions | None:
    """Those of an order, or None where no fork can serve it."""
    if order.ahead is None or sys.platform != "linux":
        return None
    env = frozenset((key, value) for key, value in order.env.items() if _is_read_at_start(key))
    modules = (order.ahead.program, *order.ahead.modules)
    return Conditions(order.argv[0], env, _start_folder(order), order.ahead.home, modules)


def _start_folder(order: LaunchOrder) -> Path:
    """Where Python starts, which matters to relative folders of PYTHONPATH alone.

    (A fork goes to its own folder. Each program's app at a server has another one.)
    """
    places = order.env.get("PYTHONPATH", "")
    absolute = all(map(os.path.isabs, places.split(os.pathsep))) if places else True
    return Path("/") if absolute else order.cwd


def _is_read_at_start(variable: str) -> bool:
    return variable in _READ_AT_START or variable.startswith(_READ_AT_START_PREFIXES)


class Zygote:
    """There at some times: from a while after it is first wanted until it is idle or was killed.

    `unfit` says why there is to be none.
    """

    def __init__(
        self,
        needed: Conditions,
        descriptors: Descriptors,
        loop: asyncio.AbstractEventLoop,
        apart: bool,
        delay: float,
        idle: float,
    ) -> None:
        self._needed = needed
        self._descriptors = descriptors
        self._loop = loop
        self._apart = apart
        self._delay = delay
        self._idle = idle
        self._timer: asyncio.TimerHandle | None = None
        self._current: Supervisor | None = None
        self._leaving: list[Supervisor] = []
        self._received = b""
        self._names: frozenset[str] | None = None
        self._losses = 0
        self.unfit = ""

    @property
    def supervisor(self) -> Supervisor:
        assert self._current is not None
        return self._current

    def is_ready_for(self, order: LaunchOrder) -> bool:
        self._leaving = [each for each in self._leaving if not each.ended()]
        if self._current is None or self._names is None or self.unfit:
            return False
        if self._is_lost():
            self._lose()
            return False
        folders = order.ahead.folders if order.ahead is not None else ()
        return not any(_has_module(folder, self._names) for folder in folders)

    def has_forked(self) -> None:
        self._losses = 0
        self._set_timer(self._idle, self._retire)

    def was_missed(self, refusal: OSError | None) -> None:
        """A worker is a fresh process instead: the next one need not be, if that can be helped.

        What was refused to a fork alone, and not by the system, always will be.
        """
        if refusal is not None and not refusal.errno and not self._is_lost():
            self.unfit = str(refusal)
            self._retire()
        if self._current is None and self._timer is None and not self.unfit:
            self._set_timer(self._delay, self._start)

    def _is_lost(self) -> bool:
        return self._current is None or not self._current.alive()

    def stop(self) -> None:
        """Start no more, and end one that nothing depends on yet."""
        self._set_timer(None)
        if self._names is None:
            self.close()

    def close(self) -> None:
        """End it, and those that were only waiting for their workers."""
        self._retire()
        for supervisor in self._leaving:
            supervisor.kill()
        self._leaving.clear()

    def abandon(self) -> None:
        for supervisor in (*self._leaving, self._current):
            if supervisor is not None:
                supervisor.abandon()

    def _start(self) -> None:
        self._set_timer(None)
        needed, self._received = self._needed, b""
        with suppress(OSError):  # the next worker's own start tells
            self._current = Supervisor(
                self._descriptors,
                [needed.python, str(_PROGRAM)],
                self._apart,
                [str(needed.home), *needed.modules],
                dict(needed.env),
                needed.cwd,
            )
            self._loop.add_reader(self._current.orders, self._on_ready)

    def _on_ready(self) -> None:
        try:
            data = self.supervisor.read()
        except BlockingIOError:
            return
        self._received += data
        if self._received.endswith(b"\n"):
            self._loop.remove_reader(self.supervisor.orders)
            self._take(json.loads(self._received))
        elif not data:
            self._lose()

    def _take(self, ready: dict[str, object]) -> None:
        self.unfit = str(ready.get("error", ""))
        if self.unfit:
            self._retire()
        else:
            self._names = frozenset(ready["names"])  # type: ignore[call-overload]
            self._set_timer(self._idle, self._retire)

    def _lose(self) -> None:
        self._losses += 1
        if self._losses == _MAX_LOSSES:
            self.unfit = f"the process to fork ended {_MAX_LOSSES} times by itself"
        self._retire()

    def _retire(self) -> None:
        """Let it end when its workers have; the next one is started when it is wanted."""
        self._set_timer(None)
        if self._current is not None:
            if self._names is None:
                self._loop.remove_reader(self._current.orders)
            self._current.let_go()
            self._leaving.append(self._current)
        self._current, self._names = None, None

    def _set_timer(self, seconds: float | None, action: Callable[[], None] | None = None) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = None
        if seconds is not None and action is not None:
            self._timer = self._loop.call_later(seconds, action)


def _has_module(folder: Path, names: Collection[str]) -> bool:
    """Whether a module there has one of the names. (A folder without `__init__` is behind all.)"""
    with suppress(OSError):
        alike = [path for path in folder.iterdir() if path.name.partition(".")[0] in names]
        return any(
            path.suffix in (".py", ".so") or (path / "__init__.py").exists() for path in alike
        )
    return False
