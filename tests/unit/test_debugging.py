"""Debuggers in workers, as the plane sees them: whose time stands still, who has the terminal."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from runpod_flash.plane.store.base import JobState
from unit.rig import Rig, play, spec

if TYPE_CHECKING:
    from collections.abc import Callable

    from runpod_flash.testing import ScriptedLink


@dataclass
class Desk:
    """A `Console` without a person: the test types."""

    there: bool = True
    shown: str = ""
    on_line: Callable[[str | None], object] | None = None
    closed: bool = False

    def available(self) -> bool:
        return self.there

    def write(self, text: str) -> None:
        self.shown += text

    def ask(self, prompt: str, on_line: Callable[[str | None], object]) -> None:
        assert self.on_line is None, "one question at a time"
        self.shown += prompt
        self.on_line = on_line

    def withdraw(self) -> None:
        self.on_line = None

    def close(self) -> None:
        self.closed = True

    async def type(self, rig: Rig, line: str | None) -> None:
        on_line, self.on_line = self.on_line, None
        assert on_line is not None, self.shown
        on_line(line)
        await rig.settle()


@dataclass
class Debugger:
    """A debugger in a worker, for one job."""

    link: ScriptedLink
    job: str = ""
    number: int = 1
    where: str = "app.py:1"
    asked: list[int] = field(default_factory=list)

    def open(self) -> Any:
        call = self._call("debug", where=self.where)
        return self.link.answers[call][0]["open"]

    def write(self, text: str) -> None:
        self._call("debug_write", text=text)

    def read(self) -> None:
        self.asked.append(self._call("debug_read", prompt=f"({self.job}) "))

    def close(self) -> None:
        self._call("debug_close")

    @property
    def answers(self) -> list[Any]:
        """What its questions were answered with; None for the end of the input."""
        found = [self.link.answers.get(call) for call in self.asked]
        return [answer[0].get("line") for answer in found if answer is not None]

    def _call(self, operation: str, **fields: Any) -> int:
        return self.link.call(operation, parent=self.job, session=self.number, **fields)


async def stopped_job(rig: Rig, endpoint: str = "a", **policy: Any) -> Debugger:
    """A job that runs, and whose code asks for a debugger."""
    id_ = await rig.busy(rig.declare(spec(endpoint)), **policy)
    return Debugger(rig.holder(id_), id_)


def test_no_time_limit_goes_on_while_a_debugger_is_open() -> None:
    async def scenario(rig: Rig) -> None:
        debugger = await stopped_job(rig, execution_timeout_ms=5000)
        other = await rig.busy(rig.declare(spec("b")), execution_timeout_ms=8000)
        await rig.after(3)
        assert debugger.open()
        late = await rig.busy(rig.declare(spec("c")), execution_timeout_ms=1000)
        await rig.after(3600)
        debugger.close()
        await rig.after(0.9)
        assert rig.states([debugger.job, other, late]) == ["IN_PROGRESS"] * 3
        await rig.after(0.2)
        assert rig.states([debugger.job, other, late]) == ["IN_PROGRESS"] * 2 + ["TIMED_OUT"]
        await rig.after(1)
        assert rig.state(debugger.job) is JobState.TIMED_OUT
        await rig.after(2.8)
        assert rig.state(other) is JobState.IN_PROGRESS
        await rig.after(0.2)
        assert rig.state(other) is JobState.TIMED_OUT

    play(scenario, Desk())


def test_time_goes_on_when_the_last_debugger_has_ended_however_it_ends() -> None:
    async def scenario(rig: Rig) -> None:
        other = await rig.busy(rig.declare(spec("other")), execution_timeout_ms=1000)
        closes, finishes, dies = [await stopped_job(rig, name) for name in ("x", "y", "z")]
        assert closes.open() and finishes.open() and dies.open()
        await rig.after(10)
        closes.close()
        closes.close()
        finishes.link.finish(finishes.job)
        await rig.after(10)
        assert rig.state(other) is JobState.IN_PROGRESS
        rig.worker("z").exit()
        await rig.after(1.1)
        assert rig.state(other) is JobState.TIMED_OUT

    play(scenario, Desk())


def test_a_debugger_gets_what_is_typed_until_the_input_ends() -> None:
    desk = Desk()

    async def scenario(rig: Rig) -> None:
        debugger = await stopped_job(rig)
        debugger.open()
        debugger.write("> here\n")
        debugger.read()
        assert desk.shown == f"> here\n({debugger.job}) "
        await desk.type(rig, "p x")
        debugger.read()
        await desk.type(rig, None)
        assert debugger.answers == ["p x", None]
        assert rig.notices == [f"debugging at app.py:1, in the worker {rig.worker().worker_id}"]

    play(scenario, desk)
    assert desk.closed


def test_the_terminal_changes_hands_when_its_debugger_runs_on_for_a_while() -> None:
    desk = Desk()

    async def scenario(rig: Rig) -> None:
        first, second = await stopped_job(rig, "a"), await stopped_job(rig, "b")
        for each in (first, second):
            each.open()
            each.write(f"at {each.job}\n")
            each.read()
        assert desk.shown == f"at {first.job}\n({first.job}) "
        assert rig.notices[1:] == ["breakpoint() at app.py:1 waits until the debugger is free"]
        await desk.type(rig, "n")
        await rig.after(0.2)
        first.read()  # a short step: the next line is its own
        await desk.type(rig, "n")
        assert (first.answers, second.answers) == (["n", "n"], [])
        await rig.after(0.4)
        desk.shown = ""
        first.write("back\n")
        first.read()
        await desk.type(rig, "p z")
        assert second.answers == ["p z"]
        second.close()
        assert desk.shown == f"back\n({first.job}) "

    play(scenario, desk)


def test_a_job_that_ends_otherwise_takes_its_question_back() -> None:
    desk = Desk()

    async def scenario(rig: Rig) -> None:
        first, second = await stopped_job(rig, "a"), await stopped_job(rig, "b")
        for each in (first, second):
            each.open()
            each.read()
        rig.plane.cancel(first.job)
        await rig.settle()
        assert first.answers == [None]
        assert desk.shown.endswith(f"({second.job}) ")
        first.write("not shown")
        first.read()
        assert first.answers == [None, None]
        rig.plane.cancel(second.job)
        await rig.settle()
        assert desk.on_line is None and "not shown" not in desk.shown
        assert not Debugger(first.link, first.job, 2).open(), "its job has ended"

    play(scenario, desk, stops_when_cancelled=False)


def test_where_nobody_can_be_asked_each_place_is_told_once() -> None:
    desk = Desk(there=False)

    async def scenario(rig: Rig) -> None:
        debugger = await stopped_job(rig, execution_timeout_ms=5000)
        places = ["app.py:1", "app.py:1", "app.py:2"]
        for number, where in enumerate(places):
            assert not Debugger(debugger.link, debugger.job, number, where).open()
        assert rig.notices == [
            f"breakpoint() at {where} was passed by: no terminal to debug in"
            for where in ("app.py:1", "app.py:2")
        ]
        await rig.after(5.1)
        assert rig.state(debugger.job) is JobState.TIMED_OUT

    play(scenario, desk)
    desk.there = True
    play(scenario)


def test_the_end_of_the_plane_ends_its_debuggers() -> None:
    desk = Desk()

    async def scenario(rig: Rig) -> None:
        first, second = await stopped_job(rig, "a"), await stopped_job(rig, "b")
        for each in (first, second):
            each.open()
            each.read()
        rig.plane.debugging.close()
        assert (first.answers, second.answers) == ([None], [None])

    play(scenario, desk)
    assert desk.on_line is None
