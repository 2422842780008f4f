"""Brings the requests of routes to workers: the least loaded one, or the first that starts."""

from __future__ import annotations

import asyncio
import json
from functools import partial
from typing import TYPE_CHECKING, Any

from runpod_flash.errors import ConnectionClosedError, JobTimeoutError, WorkerLostError
from runpod_flash.plane.exchange import Exchange
from runpod_flash.plane.futures import complete
from runpod_flash.plane.pool import WorkerState
from runpod_flash.wire.failures import restore
from runpod_flash.wire.module_names import NO_ALIAS

if TYPE_CHECKING:
    from collections.abc import Callable

    from runpod_flash.links.base import Part
    from runpod_flash.plane.dispatcher import Dispatcher
    from runpod_flash.plane.exchange import Message, Receive, Scope, Send
    from runpod_flash.plane.pool import Pool, Worker
    from runpod_flash.wire.failures import Failure


class Requests:
    """Everything runs on the plane's loop. `changed(pool)` asks for the reconciler."""

    def __init__(
        self,
        dispatcher: Dispatcher,
        clock: Callable[[], float],
        changed: Callable[[Pool], None],
    ) -> None:
        self._dispatcher = dispatcher
        self._clock = clock
        self._changed = changed
        self._closed = False

    async def serve(self, pool: Pool, scope: Scope, receive: Receive, send: Send) -> None:
        """Have a worker answer one HTTP request or WebSocket.

        Raises `FlashError` where no response was started: the cause why no worker starts, or
        `WorkerLostError`. A response that cannot be finished is broken off.
        """
        first = await receive()
        if first["type"] == "http.disconnect":
            return
        exchange = Exchange(scope, receive, send, first)
        exchange.open()
        try:
            await self._answer(pool, exchange)
        except ConnectionError:
            if not exchange.gone:
                raise
        finally:
            exchange.close()

    async def _answer(self, pool: Pool, exchange: Exchange) -> None:
        pool.work_came(self._clock())
        attempts = pool.spec.placement.max_attempts if exchange.repeatable else 1
        for left in reversed(range(attempts)):
            worker = await self.worker(pool, exchange)
            self._begin(worker, exchange)
            try:
                await exchange.relay()
            except (WorkerLostError, JobTimeoutError) as error:
                if exchange.started:
                    await exchange.cut()
                    raise ConnectionAbortedError(str(error)) from error
                if not left or isinstance(error, JobTimeoutError):
                    raise
            else:
                return

    # Choosing a worker

    @staticmethod
    def _least_loaded(pool: Pool) -> Worker | None:
        ready = [w for w in pool.workers.values() if w.state is WorkerState.READY]
        return min(ready, key=lambda worker: len(worker.exchanges), default=None)

    async def worker(self, pool: Pool, exchange: Exchange | None = None) -> Worker:
        """A worker that is ready, waited for.

        Raises why there will be none, or that the client of the exchange has left.
        """
        ready = self._least_loaded(pool)
        if ready is not None:
            return ready
        if self._closed:
            raise ConnectionClosedError("the request was not accepted: the plane is closed")
        found: asyncio.Future[Worker] = asyncio.get_running_loop().create_future()
        waiting = (self._clock(), found)
        pool.waiting.append(waiting)
        if exchange is not None:
            exchange.on_gone = lambda: complete(found, None, ConnectionError("the client has left"))
        self._changed(pool)
        try:
            given = await found
        finally:
            if exchange is not None:
                exchange.on_gone = None
            if waiting in pool.waiting:
                pool.waiting.remove(waiting)
                self._changed(pool)
        # (It may have ended in the turn in which it was given.)
        there = given.pool.workers.get(given.id) is given
        return given if there else await self.worker(pool, exchange)

    def pump(self, pool: Pool) -> None:
        """Give waiting requests to workers."""
        while pool.waiting and (worker := self._least_loaded(pool)) is not None:
            _, found = pool.waiting.popleft()
            if not found.done():
                # Counted at once, so that the next one goes to another worker.
                key = f"coming-{id(found)}"
                worker.exchanges[key] = None
                found.set_result(worker)
                found.add_done_callback(partial(self._came, worker, key))

    def _came(self, worker: Worker, key: str, _: asyncio.Future[Worker]) -> None:
        self._ended(worker, key)

    def fail_waiting(self, pool: Pool, failure: Failure) -> None:
        """Tell those who wait why there is no worker."""
        while pool.waiting:
            complete(pool.waiting.popleft()[1], None, restore(failure, NO_ALIAS))

    # While a worker has it

    def _begin(self, worker: Worker, exchange: Exchange) -> None:
        worker.exchanges[exchange.id] = exchange
        self._dispatcher.hold(exchange.id, worker)
        exchange.attach(worker)
        pool = worker.pool
        if len(worker.exchanges) >= pool.spec.scaling.scaler_value:
            self._changed(pool)
        limit = pool.spec.placement.execution_timeout_ms
        if limit and not exchange.is_websocket:
            expired = partial(self._time_out, worker, exchange, limit)
            self._dispatcher.limits.set(exchange.id, limit / 1000, expired)

    def arrived(self, worker: Worker, part: Part) -> None:
        """A part of an exchange has come from its worker."""
        exchange = worker.exchanges.get(part.exchange)
        if exchange is not None and not exchange.gone:
            exchange.arrived(part)
        if part.kind == "end" or part.fields.get("end"):
            self._ended(worker, part.exchange)

    def _ended(self, worker: Worker, exchange: str) -> None:
        worker.exchanges.pop(exchange, None)
        worker.ghosts.discard(exchange)
        self._dispatcher.limits.drop(exchange)
        self._dispatcher.released(exchange, worker)

    def _time_out(self, worker: Worker, exchange: Exchange, limit: int) -> None:
        if worker.exchanges.get(exchange.id) is not exchange:
            return
        exchange.fail(JobTimeoutError(f"the request ran longer than its {limit} ms"))
        self._dispatcher.disown(worker, exchange.id)
        exchange.call_off()

    def retire(self, pool: Pool) -> None:
        """Have the WebSockets of workers that are to be replaced connect again."""
        for worker in pool.workers.values():
            if worker.state is WorkerState.DRAINING:
                for exchange in list(worker.exchanges.values()):
                    if exchange is not None:
                        exchange.retire()

    def lost(self, worker: Worker, death: str = "") -> None:
        """Fail what a worker that is gone leaves unanswered."""
        text = f"{death or f'the worker {worker.id} ended'} while it answered the request"
        for exchange in list(worker.exchanges.values()):
            if exchange is not None:
                exchange.fail(WorkerLostError(text))
                self._dispatcher.limits.drop(exchange.id)
                self._dispatcher.released(exchange.id, worker)
        worker.exchanges.clear()

    def close(self) -> None:
        """Accept nothing more."""
        self._closed = True

    async def describe(self, pool: Pool) -> dict[str, Any] | None:
        """The OpenAPI document of the pool's routes, from a running worker; None without one."""
        if self._least_loaded(pool) is None:
            return None
        body = bytearray()
        unasked: asyncio.Future[Message] = asyncio.get_running_loop().create_future()
        messages = iter([{"type": "http.request", "body": b"", "more_body": False}])

        async def receive() -> Message:
            return next(messages, None) or await unasked

        async def send(message: Message) -> None:
            body.extend(message.get("body", b""))

        scope = {"type": "openapi", "path": "/", "query_string": b"", "headers": []}
        await self.serve(pool, scope, receive, send)
        document: dict[str, Any] = json.loads(body)
        return document
