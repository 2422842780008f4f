"""The embedded plane: a serving plane inside the caller's process, on a thread of its own."""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import os
import signal
import sys
import threading
import time
from concurrent.futures import TimeoutError as FutureTimeoutError
from typing import TYPE_CHECKING

from runpod_flash.client import ending, terminal
from runpod_flash.client.console import TerminalConsole
from runpod_flash.client.machine import machine_plane
from runpod_flash.errors import ConfigurationError, ConnectionClosedError, FlashError
from runpod_flash.plane.events import JobEnded, Logged, Notice
from runpod_flash.plane.store.base import NewJob
from runpod_flash.plane.store.memory import MemoryStore
from runpod_flash.plane.views import Ended, JobViews, ended
from runpod_flash.project.entry import module_names
from runpod_flash.wire.failures import capture
from runpod_flash.wire.remote_traceback import format_remote
from runpod_flash.wire.shared_memory import SharedMemory, most_bytes

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Sequence
    from concurrent.futures import Future
    from typing import Any

    from runpod_flash.client.backend import Submission
    from runpod_flash.engines.local.node import Node
    from runpod_flash.functions import Target
    from runpod_flash.plane.events import Event
    from runpod_flash.plane.exchange import Receive, Scope, Send
    from runpod_flash.plane.plane import Plane
    from runpod_flash.plane.store.base import Chunk, Job
    from runpod_flash.plane.views import Snapshot
    from runpod_flash.wire.codec import Payload
    from runpod_flash.wire.failures import Failure
    from runpod_flash.wire.tags import Room

_CLOSE_SECONDS = 5.0


class EmbeddedBackend:
    """`Backend` on a plane of this process. Its thread alone starts processes, and never ends.

    (A parent-death signal fires when the thread that started the child ends.)
    """

    def __init__(self, node: Node | None = None) -> None:
        self.names = module_names()
        self._loop = asyncio.new_event_loop()
        self._loop.set_exception_handler(self._went_wrong)
        self._fault: Failure | None = None
        self._console = TerminalConsole()
        self._memory = SharedMemory(most_bytes(), self._later)
        self.room: Room = self._memory.room
        self._thread = threading.Thread(target=self._serve, name="flash-plane", daemon=True)
        self._thread.start()
        try:
            self.plane: Plane = self._run(self._make_plane(node))
        except BaseException:  # a setting of the engine is wrong
            self._loop.call_soon_threadsafe(self._loop.stop)
            raise
        self._views = JobViews(self.plane)
        self.plane.events.subscribe(terminal.Printer(self._console.line), Logged, Notice)

    def _serve(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_forever()
        self._loop.close()

    async def _make_plane(self, node: Node | None) -> Plane:
        store = MemoryStore(time.monotonic)
        env = dict(os.environ)
        return machine_plane(store, env, node=node, console=self._console, memory=self._memory)

    def _went_wrong(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """Fail all jobs with a fault that nobody else deals with: they might wait for ever.

        Where no job waits, the next one fails: what it needs may not have been done.
        """
        error = context.get("exception")
        uncaught = "handle" in context or "task" in context
        if not uncaught or not isinstance(error, Exception):
            loop.default_exception_handler(context)
            return
        text = f"an internal error in Flash's plane: {error!r}; please report it"
        failure = capture(FlashError(text), origin="system")
        self._fault = failure = failure._replace(traceback=format_remote(error))
        if self.plane.unfinished():  # looked at last, for a submit looks at the fault last
            self._fault = None
            self.plane.fail_all(failure)

    def _later(self, seconds: float, function: Callable[[], None]) -> None:
        with contextlib.suppress(RuntimeError):  # the plane is closed
            self._loop.call_soon_threadsafe(self._loop.call_later, seconds, function)

    def _run(self, work: Coroutine[Any, Any, Any], timeout: float | None = None) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(timeout)

    # Backend

    def submit(
        self,
        submission: Submission,
        on_end: Callable[[Ended], None] | None = None,
        reader: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        pool = self.plane.declare(submission.spec, submission.env)
        job_id = submission.job_id
        if on_end is not None:
            callback = on_end

            def follow(event: Event) -> None:
                if isinstance(event, JobEnded):
                    callback(ended(event.job))

            self.plane.events.follow(job_id, follow)
        try:
            self.plane.submit(
                pool,
                NewJob(
                    job_id,
                    pool.key,
                    submission.call,
                    submission.policy,
                    credits=submission.credits,
                    kept=reader is None,
                ),
                reader,
            )
        except BaseException:
            if on_end is not None:
                self.plane.events.unfollow(job_id, follow)
            raise
        if self._fault is not None:
            fault, self._fault = self._fault, None
            self._loop.call_soon_threadsafe(self.plane.fail_all, fault)

    def serve_request(
        self, target: Target, scope: Scope, receive: Receive, send: Send
    ) -> Future[None]:
        """Have an endpoint's worker answer a request (an ASGI call, on the plane's loop)."""
        pool = self.plane.declare(target.spec, target.env)
        work = self.plane.serve_request(pool, scope, receive, send)
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    def wait(self, job_id: str, on_end: Callable[[Ended | None], None]) -> None:
        self._views.wait(job_id, lambda job: on_end(None if job is None else ended(job)))

    def chunks(
        self, job_id: str, start: int, on_chunks: Callable[[Sequence[Payload], Ended | None], None]
    ) -> None:
        def arrived(chunks: Sequence[Chunk], job: Job | None) -> None:
            end = ended(job) if job is not None else None if chunks else Ended("UNKNOWN")
            on_chunks([chunk.payload for chunk in chunks], end)

        self._views.chunks(job_id, start, arrived)

    def look(self, job_id: str, on_look: Callable[[Snapshot | None], None]) -> None:
        on_look(self._views.look(job_id))

    def cancel(self, job_id: str) -> None:
        self.plane.cancel(job_id)

    def forget(self, job_id: str) -> None:
        self._views.forget(job_id)

    # The program's end

    def finish(self) -> None:
        """Let jobs that nobody awaits come to their end (Ctrl-C cancels them), then stop all.

        Jobs that workers submitted are among them.
        """
        try:
            if not ending.interrupted() and not self._all_ended(ending.SETTLE_SECONDS):
                left = max(self.plane.unfinished(), 1)
                text = f"waiting for {ending.jobs(left)} (Ctrl-C cancels them)"
                terminal.say(text, write=self._console.line)
                self._all_ended()
        except KeyboardInterrupt:
            terminal.say(f"cancelled {ending.jobs(self.plane.unfinished())}")
            atexit.register(_die_of_interrupt)
        self.close()

    def _all_ended(self, seconds: float | None = None) -> bool:
        """Whether all jobs have come to their end within the time."""
        one_ended = threading.Event()
        self.plane.events.subscribe(lambda _: one_ended.set(), JobEnded)
        until = None if seconds is None else time.monotonic() + seconds
        while self.plane.unfinished():
            if not one_ended.wait(until and max(until - time.monotonic(), 0)):
                return False
            one_ended.clear()
        return True

    def close(self) -> None:
        """End every worker and the plane; threads that still wait for a job are told so."""
        failure = capture(
            ConnectionClosedError("the program ended before the job"), origin="system"
        )
        with contextlib.suppress(FutureTimeoutError):  # what is left dies with this process
            self._run(self.plane.close(failure), _CLOSE_SECONDS)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(_CLOSE_SECONDS)
        self._memory.close()

    def abandon(self) -> None:
        """In a forked child: let go of the parent's workers."""
        self.plane.engine.close_in_child()
        self._memory.close()


def _die_of_interrupt() -> None:
    """End as every program that Ctrl-C ends, after all else that runs at the end."""
    atexit.unregister(_die_of_interrupt)
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError, AttributeError):
            stream.flush()
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.raise_signal(signal.SIGINT)


class _Default:
    """The plane of this process, made by the first call; a forked child gets its own."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.backend: EmbeddedBackend | None = None
        self.node: Node | None = None
        self.hooked = False

    def get(self) -> EmbeddedBackend:
        if self.backend is None:
            with self.lock:
                if self.backend is None:
                    backend = EmbeddedBackend(self.node)
                    self._hook()
                    self.backend = backend
        return self.backend

    def _hook(self) -> None:
        if not self.hooked:
            self.hooked = True
            os.register_at_fork(after_in_child=self._after_fork)
            ending.at_thread_shutdown(self._finish)

    def _finish(self) -> None:
        backend, self.backend = self.backend, None
        if backend is not None:
            backend.finish()

    def _after_fork(self) -> None:
        self.lock = threading.Lock()
        backend, self.backend = self.backend, None
        if backend is not None:
            backend.abandon()


_default = _Default()


def embedded_backend() -> EmbeddedBackend:
    """The embedded plane of this process, made on first use."""
    return _default.get()


def use_machine(node: Node) -> None:
    """Have the embedded plane of this process take its machine for that node.

    Raises `ConfigurationError` once the plane is there: its workers live where they are.
    """
    if _default.backend is not None:
        raise ConfigurationError(
            "the machine was changed after the first call of an endpoint: do it before that call"
        )
    _default.node = node
