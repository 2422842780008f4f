"""Starts worker processes through a supervisor, and hears when all of a worker is gone.

`Launcher` is the seam: a fresh process, or a fork of one that has imported what workers need; a
container or an actor later. How processes are parented, and ended however this one dies, is told in
supervisor.py.
"""

from __future__ import annotations

import hashlib
import json
import signal
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import socket
    from collections.abc import Collection, Mapping
    from pathlib import Path

_MAX_HELD = 64
_CRASHES = {"SIGSEGV", "SIGBUS", "SIGILL", "SIGFPE", "SIGABRT", "SIGTRAP", "SIGSYS"}


@dataclass(frozen=True)
class Mount:
    """A directory that the worker sees at `target`: below `/`, or where a directory exists.

    Without a source it sees an empty one there.
    """

    source: Path | None
    target: str
    read_only: bool = False


@dataclass(frozen=True)
class Ahead:
    """What a Python program imports in any case, so that a launcher may have it imported ahead.

    `program` is its own module, found in `home`; `modules` are those that it comes to need. Between
    the two, `folders` become the first places where it looks: what has a name there stays theirs.
    `learned` are modules of its packages that it is likely to need; one may be left out. `inside`
    says that packages may run only where the program does: in its view, and as its user.
    """

    home: Path
    program: str
    modules: tuple[str, ...] = ()
    folders: tuple[Path, ...] = ()
    learned: tuple[str, ...] = ()
    inside: bool = False


@dataclass(frozen=True)
class Snapshot:
    """What else a Python program may have done ahead: its `load_ahead` is called with `told`.

    It belongs to that `endpoint` alone. (JSON values; an equal `told` leads to an equal state.)
    """

    endpoint: str
    told: Mapping[str, Any]

    @cached_property
    def digest(self) -> str:
        return hashlib.sha256(json.dumps(self.told, sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True)
class LaunchOrder:
    """A process to start: `argv` with the word `{link}` for the link's descriptor, `env` as it is.

    `link` is the worker's end and is closed here by the launch. `held` are descriptors (locks)
    that stay open until the worker and all its descendants are gone, even if this process dies;
    the caller closes its own copies after the launch. Empty `cpus` means all. With `ahead`, `argv`
    is a Python, the path of a script, and its arguments. `user` are the numbers of the user and
    group that it is to be, which only root can order. With `snapshot`, it may go on from there. A
    `zygote` is waited for with all that it has started, even if it ends before. `own` names
    variables that no other worker has, such as a token. `owner` is for whom it is started; see
    `Launcher.forget`.
    """

    worker_id: str
    argv: tuple[str, ...]
    env: Mapping[str, str]
    cwd: Path
    link: socket.socket
    held: tuple[int, ...] = ()
    cpus: frozenset[int] = frozenset()
    mounts: tuple[Mount, ...] = ()
    ahead: Ahead | None = None
    user: tuple[int, int] | None = None
    snapshot: Snapshot | None = None
    zygote: bool = False
    own: frozenset[str] = frozenset()
    owner: str = ""

    def __post_init__(self) -> None:
        if not self.argv:
            raise ValueError("a launch order names no program")
        if len(self.held) > _MAX_HELD:
            raise ValueError(f"{len(self.held)} descriptors to hold are more than {_MAX_HELD}")


@dataclass(frozen=True)
class ProcessExit:
    """A worker and all its descendants are gone; a negative `returncode` is a signal's number."""

    worker_id: str
    returncode: int


class ProcessEvents(Protocol):
    """What is heard of a process after `launch` returned, on the loop; `exited` comes last."""

    def exited(self, exit: ProcessExit) -> None: ...

    def output(self, worker_id: str, line: str) -> None:
        """A line of standard output or error; a line over 64 KiB comes in parts."""


class Process(Protocol):
    """A started process. `pid` is its id for this process, whatever it is for itself.

    `mounts_error` says why it runs without its mounts; empty: it has them.

    `slow_start` says why it could not be had with modules imported ahead, where that is for good;
    `left_out` which modules could not be, and why; `no_snapshot` why it has to load all by itself.
    """

    @property
    def pid(self) -> int: ...

    @property
    def mounts_error(self) -> str: ...

    @property
    def slow_start(self) -> str: ...

    @property
    def left_out(self) -> Mapping[str, str]: ...

    @property
    def no_snapshot(self) -> str: ...

    def kill(self) -> None:
        """End the process and all its descendants; the exit is reported as an event."""


class Launcher(Protocol):
    async def launch(self, order: LaunchOrder, events: ProcessEvents) -> Process:
        """Start a process; returns when its program runs. Raises OSError, naming what failed."""

    def prepare(self, order: LaunchOrder) -> None:
        """Have ready what makes the next launch of such an order fast. Starts nothing of its own.

        The order's link may be closed.
        """

    async def expect(self, order: LaunchOrder) -> None:
        """As `prepare`, where no such worker was started yet; returns when that is there.

        What workers were started from stays before it.
        """

    def programs(self) -> Collection[str]:
        """The first words of what runs, and of what is kept ready: these are to stay."""

    async def forget(self, owner: str) -> None:
        """End what is kept ready for one whose processes have ended; returns when that is gone."""

    async def close(self) -> None:
        """Kill every process; returns when all are gone and their exits were reported."""

    def close_in_child(self) -> None:
        """Let go of the processes in a forked copy of this one: they are the parent's."""


def describe(returncode: int) -> str:
    """A phrase for how a process ended, to follow "the worker"."""
    if returncode >= 0:
        return f"exited with code {returncode}"
    try:
        name = signal.Signals(-returncode).name
    except ValueError:
        name = f"signal {-returncode}"
    if name == "SIGKILL":
        return "was killed by SIGKILL (out of memory?)"
    return f"crashed with {name}" if name in _CRASHES else f"was killed by {name}"
