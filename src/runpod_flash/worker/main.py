"""A worker's life: greet the plane, load the user's code, run jobs until told to stop."""

from __future__ import annotations

import asyncio
import contextlib
import faulthandler
import functools
import os
import socket
import sys
import time
from typing import TYPE_CHECKING, Any, NoReturn, Protocol

from runpod_flash import context, starting
from runpod_flash.bytecode import distrust_young_files
from runpod_flash.errors import FlashError, WorkerStartError
from runpod_flash.spec import EndpointSpec
from runpod_flash.wire import failures, frames
from runpod_flash.wire.frames import Frame
from runpod_flash.worker import breakpoints, code, environ, loaded, output, undeclared, unsettled
from runpod_flash.worker.imported import Imported
from runpod_flash.worker.jobs import JobRunner
from runpod_flash.worker.link import PlaneLink

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping

    from runpod_flash.context import Answer
    from runpod_flash.wire.codec import Payload


class Runner(Protocol):
    """What a worker does with the work that it gets."""

    def handle(self, frame: Frame) -> None: ...

    def only_job(self) -> str:
        """The id of the running job or request where there is just one; from any thread."""


class Worker:
    """The running worker, and what the SDK sees of it (`WorkerContext`)."""

    def __init__(self, link: PlaneLink, spec: EndpointSpec) -> None:
        self.link = link
        self.spec = spec
        self.pid = os.getpid()
        self.importing = ""
        self.runner: Runner | None = None
        self.imported = Imported(lambda *sent: self.link.send(*sent))

    @property
    def endpoint(self) -> str:
        return self.spec.name

    def call(
        self,
        operation: str,
        fields: Mapping[str, Any],
        payload: Payload | None = None,
        constructor: Payload | None = None,
        on_answer: Callable[[Answer], None] | None = None,
    ) -> None:
        job = {"parent": context.current_job.get() or self._only_job()}
        self.link.call(operation, {**job, **fields}, payload, constructor, on_answer)

    def _only_job(self) -> str:
        """Whose work a thread does that user code has started: contexts do not follow there."""
        return self.runner.only_job() if self.runner is not None else ""

    def load(self, caller_env: Mapping[str, str]) -> Any:
        """The user's function or class; raises whatever its module raises."""
        self.importing = self.spec.entry.file or "<notebook>"
        try:
            with environ.caller_variables(caller_env, self.endpoint):
                return code.load(self.spec)
        finally:
            self.importing = ""

    async def serve(self, target: Any, out: output.Output) -> None:
        """Run jobs or answer requests until the plane says stop or is gone."""
        loop = asyncio.get_running_loop()
        done = asyncio.Event()
        self.link.loop = loop

        def readable() -> None:
            arrived = self.link.receive(wait=False)
            if arrived is None:
                _end(self.link)
            for frame in arrived:
                if frame.type == "stop":
                    done.set()
                elif frame.type == "answer":
                    self.link.answered(frame)
                elif frame.type == "start":
                    continue  # known already
                elif self.runner is not None:
                    self.runner.handle(frame)

        self.link.on_kept = functools.partial(loop.call_soon, readable)
        loop.add_reader(self.link.fileno(), readable)
        loop.call_soon(readable)  # what arrived together with the start frame
        try:
            await starting.start()
            async with self._runner(target, out) as self.runner:
                # What it has imported says as well that now is the time to prepare the next.
                self.imported.tell(Frame("ready"), always=True)
                await done.wait()
        except BaseException as error:
            if self.runner is not None:
                raise
            self.refuse(error)
        loop.remove_reader(self.link.fileno())

    @contextlib.asynccontextmanager
    async def _runner(self, target: Any, out: output.Output) -> AsyncIterator[Runner]:
        ended = self.imported.tell
        if self.spec.entry.kind != "routes":
            with contextlib.closing(JobRunner(self.link, self.spec, target, out, ended)) as jobs:
                yield jobs
            return
        from runpod_flash.worker.exchanges import ExchangeRunner
        from runpod_flash.worker.routes import application

        app = application(target)
        async with app.router.lifespan_context(app) as state:
            yield ExchangeRunner(self.link, app, state, out, ended)

    def refuse(self, error: BaseException) -> None:
        """Tell the plane why this worker cannot start."""
        self.link.failure("start_failed", _start_failure(self.spec, error), {})


def _end(link: PlaneLink) -> NoReturn:
    """The plane is gone: nothing that is left to do matters to anyone."""
    try:
        os.fstat(link.fileno())
    except OSError:
        time.sleep(1)  # user code has closed it: the plane sees that, and is to say so
    os._exit(0)


def main(fd: int, worker_id: str, token: str) -> None:
    link = PlaneLink(fd)
    link.hello(worker_id, token)
    faulthandler.enable(2, all_threads=False)  # a crash in a library says where
    ready = _resume(link) or _load(link)
    if ready is not None:
        worker, target, out = ready
        asyncio.run(worker.serve(target, out))
        sys.stdout.flush()


def _load(link: PlaneLink) -> tuple[Worker, Any, output.Output] | None:
    """A worker that has imported the user's code; None where that fails, which is told."""
    start = link.receive_one()
    if start is None or start.type != "start":
        return None
    distrust_young_files()
    worker = Worker(link, EndpointSpec.from_wire(start.fields["spec"]))
    out = output.Output(link.send)
    context.enter(worker)
    breakpoints.install(worker)
    began = time.time()
    try:
        target = worker.load(start.fields["caller_env"])
        output.configure_logging()
        return worker, target, out
    except BaseException as error:
        if unsettled.changed(worker.spec.entry, error, began):
            sys.exit(f"{worker.spec.entry.file} or a file of it was being saved: {error}")
        worker.refuse(error)
    return None


def _resume(link: PlaneLink) -> tuple[Worker, Any, output.Output] | None:
    """The worker that this process's parent was to become, where it has imported the code.

    It knows what the start frame will say, and does not wait for it.
    """
    found = loaded.take()
    if found is None:
        return None
    worker: Worker = found.worker
    out = found.resume(link)
    worker.pid = os.getpid()
    context.enter(worker)
    return worker, found.target, out


def rehearse() -> None:
    """Do without effect what is done from here to the first job."""
    ours, theirs = socket.socketpair()
    with ours:
        link = PlaneLink(theirs.detach())
        link.hello("", "")
        frames.send_all(ours, Frame("job", {"job": "", "attempt": 0}))
        link.receive_one()
        loop = asyncio.new_event_loop()
        loop.add_reader(link.fileno(), loop.stop)
        frames.send_all(ours, Frame("stop"))
        loop.run_forever()
        link.receive(wait=False)
        loop.run_until_complete(asyncio.sleep(0))
        loop.close()
        link.close()


def load_ahead(told: Mapping[str, Any]) -> dict[str, Any]:
    """Import user code for workers that this process's forks become; see loaded.py."""
    return loaded.load(Worker, told)


def _start_failure(spec: EndpointSpec, error: BaseException) -> failures.Failure:
    """The error of a module that does not import, as what the waiting callers get."""
    if isinstance(error, FlashError):
        return failures.capture(error)
    undeclared.explain(error, spec.name)
    where = spec.entry.file or "the function"
    text = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    wrapped = WorkerStartError(f"no worker of {spec.name!r} can start: {where} fails with {text}")
    wrapped.__cause__ = error
    return failures.capture(wrapped)
