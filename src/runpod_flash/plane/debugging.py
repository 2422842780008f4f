"""Debuggers in workers, and the one terminal that they share: who has it, and who waits.

A debugger has the terminal while it asks for a line, and for a moment after it was given one, so
that the next question of a step comes from the same place. One whose code runs on for longer lets
the others go first: what it runs may be what they wait for.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

from runpod_flash.plane.events import JobEnded, Notice

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Mapping

    from runpod_flash.links.base import WorkerCall
    from runpod_flash.plane.events import Event, EventStream
    from runpod_flash.plane.limits import TimeLimits
    from runpod_flash.plane.pool import Worker

_TURN_SECONDS = 0.3
# Of what a debugger that has to wait would have written, the end is kept.
_MAX_UNSHOWN = 1 << 20


class Console(Protocol):
    """The terminal of whoever runs this plane. No method blocks."""

    def available(self) -> bool:
        """Whether somebody is there to be asked."""

    def write(self, text: str) -> None: ...
    def ask(self, prompt: str, on_line: Callable[[str | None], object]) -> None:
        """Call back, on any thread, with the line that is entered; None at the end of the input."""

    def withdraw(self) -> None:
        """Nobody waits for the line any more."""

    def close(self) -> None: ...


@dataclass(slots=True, eq=False)
class _Session:
    """A debugger. `asked` is its question for a line; `unshown` what it may not write yet."""

    worker: Worker
    number: int
    where: str
    job: str
    follow: Callable[[Event], None] | None = None
    asked: WorkerCall | None = None
    unshown: str = ""

    @property
    def endpoint(self) -> str:
        return self.worker.pool.spec.name

    def answer(self, call: WorkerCall, **fields: Any) -> None:
        if self.worker.link is not None:
            self.worker.link.answer(call.call_id, fields, None)


class Debugging:
    """Answers the `debug` operations of `call` (docs/protocol.md); on the plane's loop."""

    def __init__(
        self,
        limits: TimeLimits,
        events: EventStream,
        loop: asyncio.AbstractEventLoop,
        console: Console | None,
    ) -> None:
        self._limits = limits
        self._events = events
        self._loop = loop
        self._console = console
        self._sessions: dict[tuple[str, int], _Session] = {}
        self._line: list[_Session] = []
        self._shown: _Session | None = None  # has the terminal
        self._announced: tuple[str, str] = ("", "")
        self._asking = False
        self._turn: asyncio.TimerHandle | None = None
        self._passed_by: set[tuple[str, str]] = set()
        self.operations: Mapping[str, Callable[[Worker, WorkerCall], None]] = {
            "debug": self._open,
            "debug_write": self._write,
            "debug_read": self._read,
            "debug_close": self._close,
        }

    # What debuggers ask

    def _open(self, worker: Worker, call: WorkerCall) -> None:
        fields = call.fields
        job, where = fields["parent"], fields["where"]
        session = _Session(worker, fields["session"], where, job)
        gone = job and job not in worker.jobs and job not in worker.exchanges
        opened = not gone and self._console is not None and self._console.available()
        if opened:
            self._begin(session)
        elif not gone and (session.endpoint, where) not in self._passed_by:
            self._passed_by.add((session.endpoint, where))
            text = f"breakpoint() at {where} was passed by: no terminal to debug in"
            self._events.publish(Notice(session.endpoint, text))
        session.answer(call, open=opened)

    def _begin(self, session: _Session) -> None:
        self._sessions[session.worker.id, session.number] = session
        self._limits.hold()
        if session.job in session.worker.jobs:
            session.follow = partial(self._happened, session)
            self._events.follow(session.job, session.follow)
            if session.job not in session.worker.jobs:  # it ended just now, on another thread
                self._end(session)

    def _write(self, worker: Worker, call: WorkerCall) -> None:
        session = self._session(worker, call)
        if session is None:
            return
        if self._shown is None:
            self._show(session)
        if self._shown is session:
            self._say(call.fields["text"])
        else:
            session.unshown = (session.unshown + call.fields["text"])[-_MAX_UNSHOWN:]

    def _read(self, worker: Worker, call: WorkerCall) -> None:
        session = self._session(worker, call)
        if session is None:  # its job has ended meanwhile
            if worker.link is not None:
                worker.link.answer(call.call_id, {}, None)
            return
        session.asked = call
        self._line.append(session)
        self._next()
        if session in self._line:
            text = f"breakpoint() at {session.where} waits until the debugger is free"
            self._events.publish(Notice(session.endpoint, text))

    def _close(self, worker: Worker, call: WorkerCall) -> None:
        session = self._session(worker, call)
        if session is not None:
            self._end(session)

    def _session(self, worker: Worker, call: WorkerCall) -> _Session | None:
        return self._sessions.get((worker.id, call.fields["session"]))

    # Whose turn it is

    def _next(self) -> None:
        if self._asking or not self._line:
            return
        if self._shown is None:
            self._show(self._line[0])
        if self._shown in self._line:
            self._ask(self._shown)

    def _show(self, session: _Session) -> None:
        self._shown = session
        self._begin_turn()
        if self._announced != (session.worker.id, session.job):
            self._announced = (session.worker.id, session.job)
            text = f"debugging at {session.where}, in the worker {session.worker.id}"
            self._events.publish(Notice(session.endpoint, text))
        self._say(session.unshown)
        session.unshown = ""

    def _ask(self, session: _Session) -> None:
        assert self._console is not None
        assert session.asked is not None
        self._line.remove(session)
        self._end_turn()
        self._asking = True
        entered = partial(self._entered, session, session.asked)
        self._console.ask(
            session.asked.fields["prompt"],
            lambda line: self._loop.call_soon_threadsafe(entered, line),
        )

    def _entered(self, session: _Session, call: WorkerCall, line: str | None) -> None:
        if session.asked is not call:
            return
        session.asked = None
        self._asking = False
        self._begin_turn()
        session.answer(call, **({} if line is None else {"line": line}))

    def _begin_turn(self) -> None:
        self._end_turn()
        self._turn = self._loop.call_later(_TURN_SECONDS, self._let_go)

    def _end_turn(self) -> None:
        if self._turn is not None:
            self._turn.cancel()
            self._turn = None

    def _let_go(self) -> None:
        self._shown = None
        self._next()

    def _say(self, text: str) -> None:
        if text and self._console is not None:
            self._console.write(text)

    # The end

    def _happened(self, session: _Session, event: Event) -> None:
        if isinstance(event, JobEnded):
            self._loop.call_soon_threadsafe(self._end, session)

    def _end(self, session: _Session) -> None:
        """Take a debugger's terminal away; one that waits for a line is told that none comes."""
        if self._sessions.pop((session.worker.id, session.number), None) is None:
            return
        self._limits.let_go()
        if session.follow is not None:
            self._events.unfollow(session.job, session.follow)
        if session in self._line:
            self._line.remove(session)
        elif session.asked is not None and self._console is not None:
            self._asking = False
            self._console.withdraw()
        if session.asked is not None:
            session.answer(session.asked)
            session.asked = None
        if self._shown is session:
            self._end_turn()
            self._let_go()

    def worker_gone(self, worker_id: str) -> None:
        for session in list(self._sessions.values()):
            if session.worker.id == worker_id:
                self._end(session)

    def close(self) -> None:
        for session in list(self._sessions.values()):
            self._end(session)
        if self._console is not None:
            self._console.close()
