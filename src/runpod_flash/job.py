"""EndpointJob: a submitted job, to look at, wait for, stream from or cancel."""

from __future__ import annotations

from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

from runpod_flash.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Generator, Iterator

    from runpod_flash.client.backend import Backend
    from runpod_flash.endpoint import Endpoint
    from runpod_flash.functions import Target
    from runpod_flash.plane.views import Ended, Snapshot

_FINAL = frozenset({"COMPLETED", "FAILED", "CANCELLED", "TIMED_OUT"})
_UNSET = object()


class EndpointJob:
    """A job on its way. Awaiting it gives the job itself, for code that awaits `run`."""

    def __init__(self, data: dict[str, Any], endpoint: Endpoint | None) -> None:
        self._data = data
        self._endpoint = endpoint
        self._backend: Backend | None = None
        self._will_hear = False
        self._waiters: list[Callable[[], object]] = []
        self._end: Ended | None = None
        self._output: Any = _UNSET

    def _attach(self, backend: Backend, *, will_hear: bool = False) -> None:
        """`will_hear`: the backend was given `_on_end` by whoever submitted the job."""
        self._backend = backend
        self._will_hear = will_hear

    def __await__(self) -> Generator[Any, None, EndpointJob]:
        yield from ()
        return self

    def __repr__(self) -> str:
        return f"EndpointJob(id={self.id!r}, status={self._data.get('status', 'UNKNOWN')!r})"

    @property
    def id(self) -> str:
        """The job's id; empty where the data have none."""
        return str(self._data.get("id", ""))

    @property
    def done(self) -> bool:
        """Whether the job has ended, as far as is known here."""
        return self._data.get("status") in _FINAL

    @property
    def output(self) -> Any:
        """The result; None while there is none."""
        if self._output is _UNSET and self._end is not None and self._end.payload is not None:
            from runpod_flash.wire.codec import decode

            assert self._backend is not None
            self._output = decode(self._end.payload, trusted=True, names=self._backend.names)
        return self._data.get("output") if self._output is _UNSET else self._output

    @property
    def error(self) -> str | None:
        """What the job failed with, as text: type, message and remote traceback."""
        if self._end is None or self._end.failure is None:
            return self._data.get("error")
        failure = self._end.failure
        return failure.traceback.strip() or f"{failure.type_name}: {failure.message}"

    @property
    def exception(self) -> Exception | None:
        """What the job failed with, as `result` would raise it; None otherwise."""
        if self._end is None or self._end.failure is None:
            return None
        from runpod_flash.wire.failures import restore

        assert self._backend is not None
        return restore(self._end.failure, self._backend.names)

    async def status(self) -> str:
        """Look again, and give the state: IN_QUEUE, IN_PROGRESS, or how the job ended."""
        import asyncio

        from runpod_flash.calls import settle

        loop = asyncio.get_running_loop()
        future: asyncio.Future[Snapshot | Exception | None] = loop.create_future()
        self._connected().look(self.id, lambda seen: settle(loop, future, seen))
        seen = await future
        if isinstance(seen, Exception):
            raise seen
        self._take(seen)
        return str(self._data.get("status", "UNKNOWN"))

    def _take(self, seen: Snapshot | None) -> None:
        if seen is None:
            return
        self._data = {"id": self.id, "status": seen.state}
        fields = {
            "workerId": seen.worker_id or None,
            "delayTime": seen.delay_ms,
            "executionTime": seen.execution_ms,
            "waitsFor": seen.waits_for or None,
        }
        self._data.update({key: value for key, value in fields.items() if value is not None})
        if seen.ended is not None:
            self._end = seen.ended

    @property
    def waits_for(self) -> str:
        """What the job waits for, as of the last `status()`; empty where nothing is known."""
        return str(self._data.get("waitsFor", ""))

    async def wait(self, timeout: float | None = None) -> EndpointJob:
        """Wait for the job's end, however it ends; raises `TimeoutError` after `timeout` seconds.

        The job goes on after a time-out. See `result` for a wait that raises what failed.
        """
        import asyncio

        from runpod_flash.calls import settle

        if self._end is not None:
            return self
        loop = asyncio.get_running_loop()
        future: asyncio.Future[None] = loop.create_future()
        with self._listening(lambda: settle(loop, future, None)):
            try:
                await asyncio.wait_for(future, timeout)
            except asyncio.TimeoutError:
                raise self._timed_out(timeout) from None
        return self

    def result(self, timeout: float | None = None) -> Any:
        """Wait in plain code, at most `timeout` seconds; the output, or raises what failed."""
        from concurrent import futures

        from runpod_flash.calls import refuse_in_loop, result_of, wait_here

        backend = self._connected()
        if self._end is None:
            refuse_in_loop("EndpointJob.result()")
            future: futures.Future[None] = futures.Future()
            with self._listening(lambda: future.set_result(None)):
                try:
                    wait_here(backend, self.id, future, timeout)
                except futures.TimeoutError:
                    raise self._timed_out(timeout) from None
        if self._end is None:
            raise LookupError(f"job {self.id!r} is not known")
        return self.output if self._end.failure is None else result_of(self._end, backend.names)

    async def cancel(self) -> EndpointJob:
        """Ask for the job's end, and wait until it has ended."""
        self._connected().cancel(self.id)
        return await self.wait()

    async def stream(self) -> AsyncIterator[Any]:
        """The job's chunks, from the first one on; raises what the job failed with."""
        from runpod_flash.calls import chunks

        async for item in chunks(self._connected(), self.id):
            yield item

    @contextmanager
    def _listening(self, waiter: Callable[[], object]) -> Iterator[None]:
        """Have it called once, on any thread, when the job has ended or is found to be unknown.

        The backend is asked once for all of them: it cannot be told that one has given up.
        """
        backend = self._connected()
        self._waiters.append(waiter)
        try:
            if not self._will_hear:
                self._will_hear = True
                backend.wait(self.id, self._on_end)
            elif self._end is not None:  # it has come meanwhile
                self._tell()
            yield
        finally:
            with suppress(ValueError):
                self._waiters.remove(waiter)

    def _on_end(self, end: Ended | None) -> None:
        """It has ended, or is not known."""
        if end is not None:
            self._end = end
            self._data["status"] = end.state
        else:
            self._will_hear = False
        self._tell()

    def _tell(self) -> None:
        """Whoever takes a waiter away calls it: another thread may do so at this moment."""
        with suppress(IndexError):
            while True:
                self._waiters.pop()()

    def _timed_out(self, timeout: float | None) -> TimeoutError:
        state = self._data.get("status")
        return TimeoutError(f"job {self.id!r} was not done after {timeout} s (status {state})")

    def _connected(self) -> Backend:
        if self._backend is None:
            raise ConfigurationError("this EndpointJob is not connected to any endpoint")
        return self._backend


async def find_job(job_id: str, target: Target) -> EndpointJob:
    """The job with this id on the target's endpoint; raises `LookupError` if there is none."""
    from runpod_flash.client.backend import backend_for

    job = EndpointJob({"id": job_id, "status": "UNKNOWN"}, target.endpoint)
    job._attach(backend_for(target))
    if await job.status() == "UNKNOWN":
        raise LookupError(f"job {job_id!r} is not known: it never was, or ended too long ago")
    return job
