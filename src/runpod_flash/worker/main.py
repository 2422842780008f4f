"""A worker's life: greet the plane, load the user's code, run jobs until told to stop."""

from __future__ import annotations

import asyncio
import faulthandler
import os
import sys
from typing import TYPE_CHECKING, Any

from runpod_flash import context
from runpod_flash.errors import FlashError, WorkerStartError
from runpod_flash.spec import EndpointSpec
from runpod_flash.wire import failures
from runpod_flash.wire.frames import Frame
from runpod_flash.worker import code, environ, output, undeclared
from runpod_flash.worker.jobs import JobRunner
from runpod_flash.worker.link import PlaneLink

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from runpod_flash.context import Answer
    from runpod_flash.wire.codec import Payload


class Worker:
    """The running worker, and what the SDK sees of it (`WorkerContext`)."""

    def __init__(self, link: PlaneLink, spec: EndpointSpec) -> None:
        self.link = link
        self.spec = spec
        self.importing = ""
        self.runner: JobRunner | None = None

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
        """Run jobs until the plane says stop or is gone."""
        loop = asyncio.get_running_loop()
        done = asyncio.Event()
        runner = self.runner = JobRunner(self.link, self.spec, target, out)

        def readable() -> None:
            arrived = self.link.receive(wait=False)
            if arrived is None:
                os._exit(0)  # the plane is gone: nothing that is left to do matters to anyone
            for frame in arrived:
                if frame.type == "stop":
                    done.set()
                elif frame.type == "answer":
                    self.link.answered(frame)
                else:
                    runner.handle(frame)

        loop.add_reader(self.link.fileno(), readable)
        self.link.send(Frame("ready"))
        loop.call_soon(readable)  # what arrived together with the start frame
        await done.wait()
        loop.remove_reader(self.link.fileno())
        runner.close()


def main(fd: int, worker_id: str, token: str) -> None:
    link = PlaneLink(fd)
    link.hello(worker_id, token)
    start = link.receive_one()
    if start is None or start.type != "start":
        return
    worker = Worker(link, EndpointSpec.from_wire(start.fields["spec"]))
    faulthandler.enable(2, all_threads=False)  # a crash in a library says where
    out = output.Output(link.send)
    context.enter(worker)
    try:
        target = worker.load(start.fields["caller_env"])
    except BaseException as error:
        link.failure("start_failed", _start_failure(worker.spec, error), {})
        return
    output.configure_logging()
    asyncio.run(worker.serve(target, out))
    sys.stdout.flush()


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
