"""Calling an endpoint: makes the job, sends it to the backend, and brings its end back."""

from __future__ import annotations

import asyncio
import os
from concurrent.futures import Future
from contextlib import aclosing, suppress
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from runpod_flash.client.backend import STREAM_WINDOW, Submission, backend_for
from runpod_flash.errors import JobError
from runpod_flash.plane.futures import complete
from runpod_flash.plane.store.base import Call, Policy
from runpod_flash.wire.codec import decode, encode
from runpod_flash.wire.failures import restore

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Iterator, Sequence

    from runpod_flash.client.backend import Backend
    from runpod_flash.functions import RemoteInstance, Target
    from runpod_flash.job import EndpointJob
    from runpod_flash.plane.store.base import CallForm
    from runpod_flash.plane.views import Ended
    from runpod_flash.wire.codec import Payload
    from runpod_flash.wire.module_names import ModuleNames


class Invocation(NamedTuple):
    """A call of a decorated function, or of a method of an object on the workers."""

    target: Target
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    method: str = ""
    instance: RemoteInstance | None = None


async def value(invocation: Invocation) -> Any:
    """Run and await the result. Cancelling the awaiting task cancels the job."""
    backend = _backend(invocation)
    submission = _call(backend, invocation)
    loop = asyncio.get_running_loop()
    future: asyncio.Future[Ended] = loop.create_future()
    backend.submit(submission, partial(settle, loop, future), loop)
    try:
        end = await future
    except asyncio.CancelledError:
        backend.cancel(submission.job_id)
        raise
    return result_of(end, backend.names)


def value_here(invocation: Invocation) -> Any:
    """Run and wait for the result, in a thread without a running event loop."""
    refuse_in_loop(f"{invocation.target.name}.call()")
    backend = _backend(invocation)
    submission = _call(backend, invocation)
    future: Future[Ended] = Future()
    backend.submit(submission, future.set_result)
    end = wait_here(backend, submission.job_id, future)
    backend.forget(submission.job_id)
    return result_of(end, backend.names)


async def stream(invocation: Invocation) -> AsyncGenerator[Any, None]:
    """Run a generator and yield its chunks. Leaving early cancels the job."""
    backend = _backend(invocation)
    submission = _call(backend, invocation, STREAM_WINDOW)
    backend.submit(submission)
    ended = False
    try:
        async with aclosing(chunks(backend, submission.job_id)) as items:
            async for item in items:
                yield item
        ended = True
    finally:
        if not ended:
            backend.cancel(submission.job_id)
        backend.forget(submission.job_id)


def stream_here(invocation: Invocation) -> Iterator[Any]:
    """`stream` for code without an event loop."""
    refuse_in_loop(f"{invocation.target.name}.call()")
    backend = _backend(invocation)
    submission = _call(backend, invocation, STREAM_WINDOW)
    backend.submit(submission)
    return _iterate_here(backend, submission.job_id)


def _iterate_here(backend: Backend, job_id: str) -> Iterator[Any]:
    end: Ended | None = None
    start = 0
    try:
        while end is None:
            future: Future[tuple[Sequence[Payload], Ended | None]] = Future()
            backend.chunks(job_id, start, lambda found, last, f=future: f.set_result((found, last)))  # type: ignore[misc]
            found, end = wait_here(backend, job_id, future)
            for payload in found:
                yield decode(payload, trusted=True, names=backend.names)
            start += len(found)
    finally:
        if end is None:
            backend.cancel(job_id)
        backend.forget(job_id)
    if end.failure is not None:
        raise restore(end.failure, backend.names)


def submit(invocation: Invocation) -> EndpointJob:
    """Queue a job and go on."""
    backend = _backend(invocation)
    return _queued(backend, invocation.target, _call(backend, invocation))


def submit_input(target: Target, value: Any, webhook: str = "") -> EndpointJob:
    """Queue a job with an `input` as the queue API has it; a server tells `webhook` of its end."""
    method, rest = target.split_input(value)
    backend = backend_for(target)
    payload = encode(rest, backend.names, backend.room)
    submission = _submission(target, payload, "input", method)
    return _queued(backend, target, submission._replace(webhook=webhook) if webhook else submission)


def _queued(backend: Backend, target: Target, submission: Submission) -> EndpointJob:
    from runpod_flash.job import EndpointJob

    job = EndpointJob({"id": submission.job_id, "status": "IN_QUEUE"}, target.endpoint)
    job._attach(backend, will_hear=True)
    backend.submit(submission, job._on_end)
    return job


async def chunks(backend: Backend, job_id: str, start: int = 0) -> AsyncGenerator[Any, None]:
    """The chunks of a job's stream from number `start`; raises what the job failed with."""
    loop = asyncio.get_running_loop()
    end: Ended | None = None
    while end is None:
        future: asyncio.Future[tuple[Sequence[Payload], Ended | None]] = loop.create_future()
        backend.chunks(job_id, start, _settle_pair(loop, future))
        found, end = await future
        for payload in found:
            start += 1
            yield decode(payload, trusted=True, names=backend.names)
    if end.state == "UNKNOWN":
        raise LookupError(f"job {job_id!r} is not known: it never was, or ended too long ago")
    if end.failure is not None:
        raise restore(end.failure, backend.names)


def result_of(end: Ended, names: ModuleNames) -> Any:
    """The value that a job ended with; raises what it failed with."""
    if end.failure is not None:
        raise restore(end.failure, names)
    if end.payload is None:
        raise JobError(f"the job ended as {end.state} and left no result")
    return decode(end.payload, trusted=True, names=names)


def refuse_in_loop(what: str) -> None:
    """Blocking here would stop the event loop, and with it what the call waits for."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return
    raise RuntimeError(f"{what} would block the running event loop; await the call instead")


def wait_here(
    backend: Backend, job_id: str, future: Future[Any], timeout: float | None = None
) -> Any:
    """The future's result, at most `timeout` seconds from now; Ctrl-C cancels the job."""
    try:
        return future.result(timeout)
    except KeyboardInterrupt:
        backend.cancel(job_id)
        raise


def _backend(invocation: Invocation) -> Backend:
    """The backend, for a call that can be: a wrong one starts nothing."""
    target, args, kwargs, method, _ = invocation
    target.check(args, kwargs, method)
    return backend_for(target)


def _call(backend: Backend, invocation: Invocation, window: int = 0) -> Submission:
    target, args, kwargs, method, instance = invocation
    payload = encode({"args": list(args), "kwargs": kwargs}, backend.names, backend.room)
    constructor = None
    if instance is not None:
        given, named = instance._flash_arguments
        if given or named:
            arguments = {"args": list(given), "kwargs": named}
            constructor = encode(arguments, backend.names, backend.room)
    return _submission(target, payload, "call", method, constructor, window)


def _submission(
    target: Target,
    payload: Payload,
    form: CallForm,
    method: str = "",
    constructor: Payload | None = None,
    window: int = 0,
) -> Submission:
    spec = target.spec
    return Submission(
        job_id=os.urandom(16).hex(),
        spec=spec,
        env=target.env,
        call=Call(payload, form, method, constructor),
        policy=Policy.of(spec.placement),
        credits=window,
        describe=target.discovered,
    )


def settle(loop: asyncio.AbstractEventLoop, future: asyncio.Future[Any], result: Any) -> None:
    """Complete a future of this thread's running loop, or of another's, which may have closed."""
    if asyncio._get_running_loop() is loop:
        complete(future, result)
        return
    with suppress(RuntimeError):
        loop.call_soon_threadsafe(complete, future, result)


def _settle_pair(
    loop: asyncio.AbstractEventLoop, future: asyncio.Future[Any]
) -> Callable[[Sequence[Payload], Ended | None], None]:
    return lambda found, end: settle(loop, future, (found, end))
