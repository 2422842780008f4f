"""A process whose forks become workers, from the plane's side: of either kind."""

from __future__ import annotations

import json
import struct
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runpod_flash.engines.local.processes.supervisors import (
    InnerSupervisor,
    Supervisor,
    SupervisorLostError,
)

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Awaitable, Callable, Collection, Mapping

    from runpod_flash.engines.local.processes.conditions import Conditions
    from runpod_flash.engines.local.processes.descriptors import Descriptors
    from runpod_flash.engines.local.processes.launcher import LaunchOrder, ProcessExit
    from runpod_flash.engines.local.processes.supervisors import Forker
    from runpod_flash.engines.local.processes.worker_process import WorkerProcess

    OnReady = Callable[[dict[str, Any]], None]
    Launch = Callable[[LaunchOrder, Any], Awaitable[WorkerProcess]]

_FOLDER = Path(__file__).resolve().parent


class Source:
    """One process to fork. It is told what to import, and `on_ready` hears its answer.

    `names` are the top-level modules that it has then; None before. `files` are those of the user
    that it has read. The answer is empty where the process has ended.
    """

    def __init__(
        self, learned: Collection[str], loop: asyncio.AbstractEventLoop, on_ready: OnReady
    ) -> None:
        self.learned = frozenset(learned)
        self.names: frozenset[str] | None = None
        self.files: Mapping[str, list[int]] = {}
        self.forker: Forker | None = None
        self._loop = loop
        self._on_ready = on_ready
        self._received = b""
        self._reading = False

    def is_lost(self) -> bool:
        return self.forker is None or not self.forker.alive()

    def is_current(self) -> bool:
        """Whether the files that it has read are as they were."""
        return all(_state(file) == state for file, state in self.files.items())

    def let_go(self) -> None:
        """Let it end when its workers have."""
        self._stop_reading()
        if self.forker is not None:
            self.forker.let_go()

    def ended(self) -> bool:
        return self.forker is None or self.forker.ended()

    def kill(self) -> None:
        self._stop_reading()
        if self.forker is not None:
            self.forker.kill()

    def memory(self) -> int:
        """Bytes that it has written to, or shares with those that have."""
        return 0 if self.forker is None else _written_bytes(self.forker.pid)

    async def gone(self) -> None:
        if self.forker is not None:
            await self.forker.gone()

    def abandon(self) -> None:
        if self.forker is not None:
            self.forker.abandon()

    def _tell(self, forker: Forker, told: Mapping[str, Any]) -> None:
        self.forker = forker
        body = json.dumps(told).encode()
        with suppress(OSError):  # it has ended, which is read as well
            forker.orders.sendall(struct.pack("!I", len(body)) + body)
        self._loop.add_reader(forker.orders, self._readable)
        self._reading = True

    def _readable(self) -> None:
        assert self.forker is not None
        try:
            data = self.forker.read()
        except BlockingIOError:
            return
        self._received += data
        if data and not data.endswith(b"\n"):
            return
        self._stop_reading()
        self._answer(json.loads(self._received) if data else {})

    def _answer(self, answer: dict[str, Any]) -> None:
        if "names" in answer:
            self.names = frozenset(answer["names"])
            self.files = answer.get("files", {})
        self._on_ready(answer)

    def _stop_reading(self) -> None:
        if self._reading and self.forker is not None:
            self._reading = False
            self._loop.remove_reader(self.forker.orders)


def told_zygote(needed: Conditions, script: str, learned: Collection[str]) -> dict[str, Any]:
    """What a zygote has to do ahead. `script` is what most of its forks will run."""
    return {"modules": needed.modules[1:], "learned": list(learned), "script": script}


class ZygoteSource(Source):
    """A zygote that is a program of its own. Raises OSError where it cannot be started."""

    def __init__(
        self,
        needed: Conditions,
        script: str,
        learned: Collection[str],
        descriptors: Descriptors,
        loop: asyncio.AbstractEventLoop,
        apart: bool,
        on_ready: OnReady,
    ) -> None:
        super().__init__(learned, loop, on_ready)
        supervisor = Supervisor(
            descriptors,
            [needed.python, str(_FOLDER / "zygote.py")],
            apart,
            [str(needed.home), needed.modules[0]],
            dict(needed.env),
            needed.cwd,
        )
        self._tell(supervisor, told_zygote(needed, script, learned))


class InnerSource(Source):
    """One that is started as a worker is, by `launch`: in a worker's view, as its user.

    `order` is a worker's, `argv` the arguments of this one's Python.
    """

    def __init__(
        self,
        order: LaunchOrder,
        argv: tuple[str, ...],
        told: Mapping[str, Any],
        learned: Collection[str],
        launch: Launch,
        descriptors: Descriptors,
        loop: asyncio.AbstractEventLoop,
        on_ready: OnReady,
    ) -> None:
        super().__init__(learned, loop, on_ready)
        self._descriptors = descriptors
        self._ours, self._theirs = descriptors.socketpair()
        order = replace(
            order,
            worker_id=f"{order.worker_id} (to fork)",
            argv=(order.argv[0], *argv),
            link=self._theirs,
            held=(),
            cpus=frozenset(),
            ahead=None,
            snapshot=None,
            zygote=True,
        )
        self._launching = loop.create_task(self._start(order, told, launch))
        # (The task cannot do that: one that is cancelled before its first step does nothing.)
        self._launching.add_done_callback(self._close)

    async def _start(self, order: LaunchOrder, told: Mapping[str, Any], launch: Launch) -> None:
        try:
            process = await launch(order, _Silence())
        except OSError as error:
            lost = isinstance(error, SupervisorLostError)
            self._answer({} if lost else {"error": str(error)})
        else:
            self._tell(InnerSupervisor(self._descriptors, self._ours, process), told)

    def _close(self, _: asyncio.Task[None]) -> None:
        self._descriptors.close(self._theirs)
        if self.forker is None:
            self._descriptors.close(self._ours)

    def let_go(self) -> None:
        self._launching.cancel()
        super().let_go()

    def kill(self) -> None:
        self._launching.cancel()
        super().kill()


class _Silence:
    """The end of such a process is read from its socket, and what it prints is nobody's."""

    def exited(self, exit: ProcessExit) -> None:
        pass

    def output(self, worker_id: str, line: str) -> None:
        pass


def _written_bytes(pid: int) -> int:
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    fields = (line.split() for line in status.splitlines())
    counted = ("RssAnon:", "RssShmem:", "HugetlbPages:")
    return sum(1024 * int(field[1]) for field in fields if field and field[0] in counted)


def _state(file: str) -> list[int]:
    try:
        found = Path(file).stat()
    except OSError:
        return []
    return [found.st_mtime_ns, found.st_size]
