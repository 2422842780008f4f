"""Runs jobs: sync functions in threads, async ones on the loop, generators chunk by chunk."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import functools
import inspect
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from runpod_flash.context import current_job
from runpod_flash.wire import failures
from runpod_flash.wire.carried import carried
from runpod_flash.wire.codec import Payload, decode, encode
from runpod_flash.wire.failures import Failure
from runpod_flash.worker import eager, undeclared
from runpod_flash.worker.arguments import bind

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Generator

    from runpod_flash.spec import EndpointSpec
    from runpod_flash.wire.frames import Frame
    from runpod_flash.worker.link import PlaneLink
    from runpod_flash.worker.output import Output

_END = object()
_UNTOLD = ("runpod_flash.errors", "SerializationError")


class _Running:
    """One job in this worker. `credits` is None for a stream without a bound."""

    def __init__(self, frame: Frame) -> None:
        fields = frame.fields
        self.id: str = fields["job"]
        self.attempt: int = fields["attempt"]
        self.form: str = fields["form"]
        self.method: str = fields.get("method", "")
        self.trusted: bool = fields["trusted"]
        self.arguments, self.constructor = carried(frame)
        self.credits: int | None = fields.get("credits")
        self.room: asyncio.Event | None = None
        self.task: asyncio.Task[None] | None = None
        self.begun = False
        self.in_thread = False
        self.cancelled = False

    def cancel(self) -> None:
        """Stop at the next await. Code in a thread cannot be stopped: its end is waited for."""
        self.cancelled = True
        # A task that is cancelled before its first step never runs, and would not report its end.
        if self.task is not None and self.begun and not self.in_thread:
            self.task.cancel()

    def begin(self) -> None:
        self.begun = True
        if self.cancelled:
            raise asyncio.CancelledError

    async def take_credit(self) -> None:
        """Wait until the consumer has room for one more chunk."""
        if self.credits is None:
            return
        while self.credits == 0:
            self.room = asyncio.Event()
            await self.room.wait()
        self.credits -= 1

    def grant(self, chunks: int) -> None:
        if self.credits is not None:
            self.credits += chunks
            if self.room is not None:
                self.room.set()


@functools.lru_cache(maxsize=1000)
def _shape(function: Callable[..., Any]) -> str:
    """What calling the function gives."""
    if inspect.isasyncgenfunction(function):
        return "async generator"
    if inspect.isgeneratorfunction(function):
        return "generator"
    return "coroutine" if inspect.iscoroutinefunction(function) else "value"


class JobRunner:
    """Runs up to `max_concurrency` jobs at once; the plane does not send more.

    `ended` is called after each.
    """

    def __init__(
        self,
        link: PlaneLink,
        spec: EndpointSpec,
        target: Any,
        out: Output,
        ended: Callable[[], None],
    ) -> None:
        self._link = link
        self._ended = ended
        self._spec = spec
        self._target = target
        self._out = out
        self._jobs: dict[str, _Running] = {}
        self._instances = _Instances(target)
        self._threads = ThreadPoolExecutor(
            spec.placement.max_concurrency, thread_name_prefix="flash-job"
        )

    def handle(self, frame: Frame) -> None:
        if frame.type == "job":
            job = _Running(frame)
            self._jobs[job.id] = job
            job.task = eager.task(self._run(job))
            return
        found = self._jobs.get(frame.fields.get("job", ""))
        if found is None or found.attempt != frame.fields["attempt"]:
            return
        if frame.type == "cancel":
            found.cancel()
        elif frame.type == "credit":
            found.grant(frame.fields["chunks"])

    def only_job(self) -> str:
        running = list(self._jobs)
        return running[0] if len(running) == 1 else ""

    def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def _run(self, job: _Running) -> None:
        token = current_job.set(job.id)
        try:
            job.begin()
            await self._call(job)
        except asyncio.CancelledError as error:
            self._out.end_job(job.id)
            if job.cancelled:
                self._link.job("stopped", job.id, job.attempt, {})
            else:
                self._fail(job, error)
        except BaseException as error:
            self._fail(job, error)
            if not isinstance(error, Exception):
                # SystemExit in a function ends its job, not the worker.
                return
        finally:
            current_job.reset(token)
            self._jobs.pop(job.id, None)
            self._ended()

    def _fail(self, job: _Running, error: BaseException) -> None:
        self._out.end_job(job.id)
        fields = {"job": job.id, "attempt": job.attempt}
        try:
            undeclared.explain(error, self._spec.name)
            self._link.failure("failed", failures.capture(error), fields)
        except BaseException as fault:  # also what methods of the exception raise, as SystemExit
            # Without an answer its caller would wait for ever.
            text = f"the function failed, and its exception cannot be told ({type(fault).__name__})"
            self._link.failure("failed", Failure(*_UNTOLD, text[:1000]), fields)

    def _finish(self, job: _Running, result: Any) -> None:
        payload = encode(result, room=self._link.room)
        self._out.end_job(job.id)
        self._link.result(job.id, job.attempt, payload)

    async def _call(self, job: _Running) -> None:
        function = self._target
        if self._spec.entry.kind == "class":
            function = await self._method(job)
        assert job.arguments is not None
        value = decode(job.arguments, trusted=job.trusted)
        job.arguments = None  # a large value is not kept twice
        args, kwargs = bind(function, value, job.form)
        del value
        shape = _shape(getattr(function, "__func__", function))
        if shape == "async generator":
            await self._stream(job, function(*args, **kwargs))
        elif shape == "generator":
            await self._stream(job, self._steps(job, function(*args, **kwargs)))
        elif shape == "coroutine":
            self._finish(job, await function(*args, **kwargs))
        else:
            result = await self._in_thread(job, functools.partial(function, *args, **kwargs))
            if inspect.isawaitable(result):
                result = await result
            self._finish(job, result)

    async def _method(self, job: _Running) -> Any:
        build = functools.partial(self._instances.build, job.constructor, job.trusted)
        instance = await self._in_thread(job, build)
        return getattr(instance, job.method or "__call__")

    async def _in_thread(self, job: _Running, step: Callable[[], Any]) -> Any:
        run = contextvars.copy_context().run
        job.in_thread = True
        try:
            return await asyncio.get_running_loop().run_in_executor(
                self._threads, run, _without_stop_iteration, step
            )
        finally:
            job.in_thread = False
            if job.cancelled:
                raise asyncio.CancelledError

    async def _steps(
        self, job: _Running, values: Generator[Any, None, None]
    ) -> AsyncGenerator[Any, None]:
        # One context for all steps, so that the generator finds its variables again.
        run = contextvars.copy_context().run
        step = functools.partial(run, next, values, _END)
        try:
            while (value := await self._in_thread(job, step)) is not _END:
                yield value
        except BaseException:
            await self._in_thread(job, functools.partial(run, values.close))
            raise

    async def _stream(self, job: _Running, values: AsyncGenerator[Any, None]) -> None:
        index = 0
        async with contextlib.aclosing(values):  # its `finally` belongs to the job
            async for value in values:
                await job.take_credit()
                payload = encode(value, room=self._link.room)
                self._link.chunk(job.id, job.attempt, payload, index)
                index += 1
        self._finish(job, None)


def _without_stop_iteration(step: Callable[[], Any]) -> Any:
    """No future takes a StopIteration (before 3.12 it would never be done)."""
    try:
        return step()
    except StopIteration as error:
        raise RuntimeError("the function raised StopIteration") from error


class _Instances:
    """The objects of a class endpoint: one for each set of constructor arguments, built once."""

    def __init__(self, target: Any) -> None:
        self._target = target
        self._lock = threading.Lock()
        self._built: dict[tuple[bytes, ...], Any] = {}

    def build(self, constructor: Payload | None, trusted: bool) -> Any:
        key: tuple[bytes, ...] = ()
        if constructor is not None:
            key = (constructor.body, *map(bytes, constructor.buffers))
        with self._lock:
            if key not in self._built:
                args, kwargs = [], {}
                if constructor is not None:
                    given = decode(constructor, trusted=trusted)
                    args, kwargs = given["args"], given["kwargs"]
                self._built[key] = self._target(*args, **kwargs)
            return self._built[key]
