"""The plane's side of a zygote: when there is one, and whether a worker may be its fork."""

from __future__ import annotations

import json
import os
import struct
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runpod_flash.engines.local.processes.supervisors import Supervisor

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Collection, Iterable, Iterator

    from runpod_flash.engines.local.processes.descriptors import Descriptors
    from runpod_flash.engines.local.processes.launcher import LaunchOrder

_PROGRAM = Path(__file__).resolve().with_name("zygote.py")
_MAX_LOSSES = 3
_MAX_LEFT_OUT = 5
# What Python, the C library and the modules imported ahead read once. A zygote has nothing else,
# unless it imports packages: those may read anything.
_READ_AT_START = ("HOME", "LANG", "PATH")
_READ_AT_START_PREFIXES = ("GLIBC_", "LC_", "LD_", "MALLOC_", "OPENSSL_", "PYDANTIC_", "PYTHON")
# What may differ between workers that are alike otherwise.
_WORKERS_OWN = {
    "CUDA_VISIBLE_DEVICES",
    "FLASH_ENDPOINT_NAME",
    "FLASH_VOLUME_PATH",
    "FLASH_WORKER_ID",
    "NVIDIA_VISIBLE_DEVICES",
    "RUNPOD_GPU_COUNT",
}


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
    imports_packages = not sys.stdlib_module_names.issuperset(_top(order.ahead.learned))
    is_read = _is_not_workers_own if imports_packages else _is_read_at_start
    env = frozenset((key, value) for key, value in order.env.items() if is_read(key))
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


def _is_not_workers_own(variable: str) -> bool:
    return variable not in _WORKERS_OWN


class ZygoteProcess:
    """One process to fork, and what it says when it has imported all: `on_ready` hears it.

    `names` are the top-level modules that it has then; None before. `on_ready` is given its answer,
    which is empty where it has ended. Raises OSError where it cannot be started.
    """

    def __init__(
        self,
        needed: Conditions,
        learned: Collection[str],
        descriptors: Descriptors,
        loop: asyncio.AbstractEventLoop,
        apart: bool,
        on_ready: Callable[[dict[str, Any]], None],
    ) -> None:
        self.learned = frozenset(learned)
        self.names: frozenset[str] | None = None
        self._loop = loop
        self._on_ready = on_ready
        self._received = b""
        self.supervisor = Supervisor(
            descriptors,
            [needed.python, str(_PROGRAM)],
            apart,
            [str(needed.home), needed.modules[0]],
            dict(needed.env),
            needed.cwd,
        )
        told = {"modules": needed.modules[1:], "learned": list(learned)}
        body = json.dumps(told).encode()
        with suppress(OSError):  # it has ended, which is read as well
            self.supervisor.orders.sendall(struct.pack("!I", len(body)) + body)
        loop.add_reader(self.supervisor.orders, self._readable)

    def is_lost(self) -> bool:
        return not self.supervisor.alive()

    def let_go(self) -> None:
        """Let it end when its workers have."""
        if self.names is None:
            self._loop.remove_reader(self.supervisor.orders)
        self.supervisor.let_go()

    def _readable(self) -> None:
        try:
            data = self.supervisor.read()
        except BlockingIOError:
            return
        self._received += data
        if data and not data.endswith(b"\n"):
            return
        self._loop.remove_reader(self.supervisor.orders)
        answer = json.loads(self._received) if data else {}
        if "names" in answer:
            self.names = frozenset(answer["names"])
        self._on_ready(answer)


class Zygote:
    """There at some times: from a while after it is first wanted until it is idle or was killed.

    It is replaced, when the next one is ready, by one that has imported what was learned meanwhile.
    `unfit` says why there is to be none, `left_out` which modules it does not import, and why.
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
        self._learned: tuple[str, ...] = ()
        self._current: ZygoteProcess | None = None
        self._coming: ZygoteProcess | None = None
        self._leaving: list[ZygoteProcess] = []
        self._losses = 0
        self.unfit = ""
        self.left_out: dict[str, str] = {}

    @property
    def supervisor(self) -> Supervisor:
        assert self._current is not None
        return self._current.supervisor

    @property
    def is_ready(self) -> bool:
        return self._current is not None

    def is_ready_for(self, order: LaunchOrder) -> bool:
        self._leaving = [each for each in self._leaving if not each.supervisor.ended()]
        if self._current is None:
            return False
        if self._current.is_lost():
            self._lose()
            return False
        folders = order.ahead.folders if order.ahead is not None else ()
        names = self._current.names or ()
        return not any(_has_module(folder, names) for folder in folders)

    def want(self, order: LaunchOrder) -> None:
        """Have one come, after a while, that has imported what the order would."""
        if order.ahead is not None:
            self._learned = order.ahead.learned
        if self.unfit or self._coming is not None:
            return
        if self._current is None and self._timer is None:
            self._set_timer(self._delay, self._start)
        elif self._current is not None and self._lacks(self._current):
            self._start()

    def has_forked(self) -> None:
        self._losses = 0
        self._set_timer(self._idle, self._retire)

    def was_refused(self, refusal: OSError) -> None:
        """What was refused to a fork alone, and not by the system, always will be."""
        if not refusal.errno and self._current is not None and not self._current.is_lost():
            self.unfit = str(refusal)
            self._retire()

    def stop(self) -> None:
        """Start no more, and end one that nothing depends on yet."""
        self._set_timer(None)
        if self._coming is not None:
            self._coming.let_go()
            self._coming.supervisor.kill()
            self._coming = None

    def close(self) -> None:
        """End it, and those that were only waiting for their workers."""
        self.stop()
        self._retire()
        for process in self._leaving:
            process.supervisor.kill()
        self._leaving.clear()

    def abandon(self) -> None:
        for process in (*self._leaving, self._current, self._coming):
            if process is not None:
                process.supervisor.abandon()

    def _lacks(self, process: ZygoteProcess) -> bool:
        return not process.learned.issuperset(self._to_import())

    def _to_import(self) -> list[str]:
        return list(_without(self._learned, self.left_out))

    def _start(self) -> None:
        self._set_timer(None)
        with suppress(OSError):  # the next worker's own start tells
            self._coming = ZygoteProcess(
                self._needed,
                self._to_import(),
                self._descriptors,
                self._loop,
                self._apart,
                self._take,
            )

    def _take(self, answer: dict[str, Any]) -> None:
        """What the one to come has said."""
        came, self._coming = self._coming, None
        assert came is not None
        if "names" in answer:
            self._retire()
            self._current = came
            self._set_timer(self._idle, self._retire)
            again = self._lacks(came)
        else:
            again = self._leave_out(answer)
            came.let_go()
            self._leaving.append(came)
        if again and not self.unfit:
            self._start()

    def _leave_out(self, answer: dict[str, Any]) -> bool:
        """Note what failed; whether to try at once without it."""
        module, error = str(answer.get("module", "")), str(answer.get("error", ""))
        if module and len(self.left_out) < _MAX_LEFT_OUT:
            self.left_out[module] = error
            return True
        if error:
            self.unfit = error
        else:
            self._count_loss()
        return False

    def _lose(self) -> None:
        self._count_loss()
        self._retire()

    def _count_loss(self) -> None:
        self._losses += 1
        if self._losses == _MAX_LOSSES:
            self.unfit = f"the process to fork ended {_MAX_LOSSES} times by itself"

    def _retire(self) -> None:
        """Let it end when its workers have; the next one is started when it is wanted."""
        self._set_timer(None)
        if self._current is not None:
            self._current.let_go()
            self._leaving.append(self._current)
        self._current = None

    def _set_timer(self, seconds: float | None, action: Callable[[], None] | None = None) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = None
        if seconds is not None and action is not None:
            self._timer = self._loop.call_later(seconds, action)


def _top(names: Iterable[str]) -> Iterator[str]:
    return (name.partition(".")[0] for name in names)


def _without(names: Iterable[str], left_out: Collection[str]) -> Iterator[str]:
    for name in names:
        if not any(name == other or name.startswith(f"{other}.") for other in left_out):
            yield name


def _has_module(folder: Path, names: Collection[str]) -> bool:
    """Whether a module there has one of the names. (A folder without `__init__` is behind all.)"""
    with suppress(OSError):
        alike = [path for path in folder.iterdir() if path.name.partition(".")[0] in names]
        return any(
            path.suffix in (".py", ".so") or (path / "__init__.py").exists() for path in alike
        )
    return False
