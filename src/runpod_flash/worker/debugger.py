"""pdb in a worker, over the link: its terminal is that of whoever runs the program."""

from __future__ import annotations

import bdb
import contextlib
import dis
import itertools
import os
import pdb
import sys
import threading
from typing import TYPE_CHECKING, Any

from runpod_flash.wire.remote_traceback import LEADING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType

    from runpod_flash.context import Answer
    from runpod_flash.worker.main import Worker

_numbers = itertools.count(1)
_WORKER = os.path.dirname(__file__) + os.sep  # noqa: PTH120
# Generators and coroutines: their `return` events are mostly those of a yield or an await.
_SUSPENDABLE = 0x20 | 0x80 | 0x100 | 0x200
_FOREIGN = (*LEADING, threading.__file__)
_ends = threading.local()


class Terminal:
    """A stream to and from the person at the terminal, for one debugger."""

    encoding = "utf-8"
    errors = "replace"

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self._number = next(_numbers)
        self._unfinished = ""
        self.is_open = False

    def open(self, where: str) -> bool:
        """Whether there is a person. A thread has one debugger: its last one gives way."""
        last = getattr(_ends, "terminal", None)
        if last is not None:
            last.close()
        _ends.terminal = self
        answer = self._ask("debug", where=where)
        self.is_open = bool(answer.fields.get("open"))
        return self.is_open

    def write(self, text: str) -> int:
        # A line without an end is a prompt, most likely; it goes with the question.
        whole, end, self._unfinished = (self._unfinished + text).rpartition("\n")
        if end:
            self._tell("debug_write", text=whole + end)
        return len(text)

    def flush(self) -> None:
        pass

    def readline(self, size: int = -1) -> str:
        """The line that was entered; empty where none will be."""
        prompt, self._unfinished = self._unfinished, ""
        line = self._ask("debug_read", prompt=prompt).fields.get("line")
        return "" if line is None else f"{line}\n"

    def close(self) -> None:
        if self.is_open:
            self.is_open = False
            if self._unfinished:
                self.write("\n")
            self._tell("debug_close")

    def _tell(self, operation: str, **fields: Any) -> None:
        self._worker.call(operation, {"session": self._number, **fields})

    def _ask(self, operation: str, **fields: Any) -> Answer:
        answers: list[Answer] = []
        answered = threading.Event()

        def on_answer(answer: Answer) -> None:
            answers.append(answer)
            answered.set()

        self._worker.call(operation, {"session": self._number, **fields}, on_answer=on_answer)
        if threading.current_thread() is not threading.main_thread():
            answered.wait()
        elif not self._worker.link.wait_for(answered.is_set):
            os._exit(0)  # the plane is gone
        return answers[0]


class Debugger(pdb.Pdb):
    """Stops in the user's code only, and ends with the outermost function of it."""

    def __init__(self, worker: Worker) -> None:
        self._terminal = Terminal(worker)
        super().__init__(stdin=self._terminal, stdout=self._terminal, nosigint=True)  # type: ignore[arg-type]
        self._home = worker.spec.entry.root
        self._root: FrameType | None = None
        self._raised = False
        self._where = ""

    def begin(self, frame: FrameType, header: str | None) -> None:
        self._where = self._place(frame)
        if not self._terminal.open(self._where):
            return
        if header is not None:
            self.message(header)
        self._root = root = _outermost(frame)
        above = root.f_back
        self.set_trace(frame)
        # From here on every call would be stepped into.
        self.botframe = root
        while above is not None:
            del above.f_trace
            above = above.f_back

    def interaction(self, frame: FrameType | None, traceback: Any) -> None:
        if frame is not None:
            self._where = self._place(frame)
        if self._terminal.is_open or self._terminal.open(self._where):
            super().interaction(frame, traceback)
        elif frame is not None:
            self.set_continue()

    def inspect(self, traceback: Any) -> None:
        """Look at where an exception was raised."""
        frame = getattr(traceback, "__traceback__", traceback).tb_frame
        self._where = self._place(frame)
        self.reset()
        self.interaction(None, traceback)
        self._terminal.close()

    def do_interact(self, arg: str) -> None:
        with self._as_standard_streams():
            super().do_interact(arg)

    # Where it stops

    def stop_here(self, frame: FrameType) -> bool:
        return super().stop_here(frame) and self._is_inside(frame)

    def _is_inside(self, frame: FrameType | None) -> bool:
        while frame is not None and frame is not self._root:
            frame = frame.f_back
        return frame is not None

    def trace_dispatch(self, frame: FrameType, event: str, arg: Any) -> Any:
        try:
            follow = super().trace_dispatch(frame, event, arg)
        except bdb.BdbQuit:
            self._terminal.close()
            raise bdb.BdbQuit(f"the debugger was quit at {self._where}") from None
        if frame is self._root and self._has_ended(frame, event, arg):
            self._terminal.close()
            sys.settrace(None)
            return None
        return follow

    def _has_ended(self, frame: FrameType, event: str, arg: Any) -> bool:
        raised = self._raised
        # (For generators, those two are no errors.)
        stop = (StopIteration, StopAsyncIteration)
        self._raised = event == "exception" and not issubclass(arg[0], stop)
        if event != "return":
            return False
        code = frame.f_code
        if raised or not code.co_flags & _SUSPENDABLE:
            return True
        return dis.opname[code.co_code[frame.f_lasti]].startswith("RETURN_")

    def set_continue(self) -> None:
        super().set_continue()
        self._terminal.close()

    # Details

    def _place(self, frame: FrameType) -> str:
        name = frame.f_code.co_filename
        if self._home and name.startswith(self._home + os.sep):
            name = os.path.relpath(name, self._home)
        return f"{name}:{frame.f_lineno}"

    @contextlib.contextmanager
    def _as_standard_streams(self) -> Iterator[None]:
        own = sys.stdin, sys.stdout, sys.stderr
        there: Any = self._terminal
        sys.stdin = sys.stdout = sys.stderr = there
        try:
            yield
        finally:
            sys.stdin, sys.stdout, sys.stderr = own


def debug(worker: Worker, frame: FrameType, header: str | None) -> None:
    """Stop in this frame, if there is a terminal to debug in."""
    Debugger(worker).begin(frame, header)


def post_mortem(worker: Worker, traceback: Any) -> None:
    """Look at the traceback, or that of the exception that is being handled."""
    found = traceback if traceback is not None else sys.exc_info()[2]
    if found is None:
        raise ValueError("no traceback was given, and no exception is being handled")
    Debugger(worker).inspect(found)


def _outermost(frame: FrameType) -> FrameType:
    """The first function of the user's on the way to this frame."""
    found, each = frame, frame.f_back
    while each is not None and not each.f_code.co_filename.startswith(_WORKER):
        if not _is_between(each.f_code.co_filename):
            found = each
        each = each.f_back
    return found


def _is_between(filename: str) -> bool:
    return filename.startswith(_FOREIGN) or f"{os.sep}site-packages{os.sep}" in filename
