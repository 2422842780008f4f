"""Requests of routes: which worker gets them, and what becomes of them when it goes."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, Any

import pytest

from runpod_flash.errors import JobTimeoutError, WorkerLostError, WorkerStartError
from runpod_flash.links.base import Part
from runpod_flash.plane.pool import WorkerState
from runpod_flash.wire.failures import capture, to_wire
from unit.rig import Rig, play, spec

if TYPE_CHECKING:
    from runpod_flash.plane.pool import Pool
    from runpod_flash.testing import ScriptedWorker


class Client:
    """One client of an ASGI application: what it sends, and what it was sent."""

    def __init__(
        self, rig: Rig, pool: Pool, method: str = "GET", kind: str = "http", body: Any = (b"",)
    ) -> None:
        self.sent: list[Any] = []
        self._coming: deque[Any] = deque()
        self._more = asyncio.Event()
        if kind == "websocket":
            self.put({"type": "websocket.connect"})
        for index, piece in enumerate(body if kind == "http" else ()):
            more = index + 1 < len(body)
            self.put({"type": "http.request", "body": piece, "more_body": more})
        scope = {
            "type": kind,
            "method": method,
            "path": "/x",
            "query_string": b"",
            "headers": [(b"host", b"h")],
        }
        work = rig.plane.serve_request(pool, scope, self._receive, self._send)
        self.task = asyncio.ensure_future(work)

    def put(self, message: Any) -> None:
        self._coming.append(message)
        self._more.set()

    def leave(self) -> None:
        self.put({"type": "http.disconnect"})

    async def _receive(self) -> Any:
        while not self._coming:
            self._more.clear()
            await self._more.wait()
        return self._coming.popleft()

    async def _send(self, message: Any) -> None:
        self.sent.append(message)

    @property
    def body(self) -> bytes:
        return b"".join(m.get("body", b"") for m in self.sent)


async def turns(count: int = 50) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


def started(worker: ScriptedWorker) -> list[str]:
    return [part.exchange for part in worker.link.parts if part.kind == "start"]


def respond(worker: ScriptedWorker, exchange: str, body: bytes = b"ok", **fields: Any) -> None:
    given = {"status": 200, "headers": [["x", "y"]], "more": False, "end": True, **fields}
    worker.link.events.exchange(Part(exchange, "response", given, body))


def routes(rig: Rig, workers: tuple[int, int] = (0, 3), value: float = 2, **more: Any) -> Pool:
    return rig.plane.declare(
        spec("r", workers, scaler="REQUEST_COUNT", scaler_value=value, **more), {}
    )


def test_a_request_waits_for_the_first_worker_and_gets_its_answer() -> None:
    async def scenario(rig: Rig) -> None:
        client = Client(rig, routes(rig))
        await turns()
        (worker,) = rig.engine.of("r")
        (exchange,) = started(worker)
        respond(worker, exchange, b"hello")
        await client.task
        assert client.sent[0]["status"] == 200
        assert client.sent[0]["headers"] == [(b"x", b"y")]
        assert client.body == b"hello"

    play(scenario)


def test_workers_grow_with_the_requests_in_flight_and_go_when_idle() -> None:
    async def scenario(rig: Rig) -> None:
        pool = routes(rig, value=2)
        clients = [Client(rig, pool) for _ in range(6)]
        await turns()
        assert len(rig.engine.of("r")) == 3
        for worker in rig.engine.of("r"):
            for exchange in started(worker):
                respond(worker, exchange)
        await asyncio.gather(*(client.task for client in clients))
        await asyncio.sleep(61)
        assert rig.engine.of("r") == []

    play(scenario)


def test_the_least_loaded_worker_gets_the_next_request() -> None:
    async def scenario(rig: Rig) -> None:
        pool = routes(rig, (2, 2), value=100)
        await turns()
        for _ in range(4):
            Client(rig, pool)
            await turns()
        assert [len(started(worker)) for worker in rig.engine.of("r")] == [2, 2]

    play(scenario)


def test_a_safe_request_is_answered_by_another_worker_when_its_own_dies() -> None:
    async def scenario(rig: Rig) -> None:
        client = Client(rig, routes(rig))
        await turns()
        rig.engine.of("r")[0].exit()
        await turns()
        (second,) = rig.engine.of("r")
        respond(second, started(second)[0], b"again")
        await client.task
        assert client.body == b"again"

    play(scenario)


def test_a_request_is_not_left_with_a_worker_that_ends_as_it_is_ready() -> None:
    async def scenario(rig: Rig) -> None:
        client = Client(rig, routes(rig), "POST")
        await turns()
        (first,) = rig.engine.of("r")
        first.link.become_ready()
        first.exit()
        await turns()
        (second,) = rig.engine.of("r")
        second.link.become_ready()
        await turns()
        respond(second, started(second)[0], b"by the second")
        await client.task
        assert client.body == b"by the second"

    play(scenario, ready_at_once=False)


def test_a_request_that_may_have_changed_something_is_not_repeated() -> None:
    async def scenario(rig: Rig) -> None:
        client = Client(rig, routes(rig), "POST")
        await turns()
        rig.engine.of("r")[0].exit()
        with pytest.raises(WorkerLostError, match="was killed by SIGKILL while it answered"):
            await client.task

    play(scenario)


def test_a_response_that_was_begun_is_broken_off_when_its_worker_dies() -> None:
    async def scenario(rig: Rig) -> None:
        client = Client(rig, routes(rig))
        await turns()
        (worker,) = rig.engine.of("r")
        respond(worker, started(worker)[0], b"half", more=True, end=False)
        await turns()
        worker.exit()
        with pytest.raises(ConnectionAbortedError):
            await client.task
        assert client.body == b"half"

    play(scenario)


def test_requests_fail_with_the_cause_when_no_worker_can_start() -> None:
    async def scenario(rig: Rig) -> None:
        rig.engine.refusals.append(WorkerStartError("no module named torch"))
        client = Client(rig, routes(rig))
        with pytest.raises(WorkerStartError, match="no module named torch"):
            await client.task

    play(scenario)


def test_a_client_that_leaves_while_it_waits_takes_no_worker() -> None:
    async def scenario(rig: Rig) -> None:
        pool = routes(rig)
        client = Client(rig, pool)
        await turns()
        client.leave()
        await asyncio.sleep(0.1)
        assert client.task.done()
        assert not pool.waiting
        assert not client.sent

    play(scenario, ready_at_once=False)


def test_the_worker_is_told_of_a_client_that_has_left_and_counts_as_busy_until_it_ends() -> None:
    async def scenario(rig: Rig) -> None:
        pool = routes(rig)
        client = Client(rig, pool)
        await turns()
        (worker,) = rig.engine.of("r")
        client.leave()
        await asyncio.sleep(0.1)
        assert client.task.done()
        assert worker.link.parts[-1].kind == "disconnect"
        assert pool.requests() == 1
        worker.link.events.exchange(Part(started(worker)[0], "end", {}))
        assert pool.requests() == 0

    play(scenario)


def test_a_body_goes_no_faster_than_the_worker_takes_it() -> None:
    async def scenario(rig: Rig) -> None:
        pieces = [b"x" * 600_000] * 4
        Client(rig, routes(rig), "POST", body=pieces)
        await turns()
        (worker,) = rig.engine.of("r")
        (exchange,) = started(worker)
        assert sum(len(part.data) for part in worker.link.parts) == 1_200_000
        worker.link.events.exchange(Part(exchange, "credit", {"bytes": 1_200_000}))
        await turns()
        assert sum(len(part.data) for part in worker.link.parts) == 2_400_000
        assert worker.link.parts[-1].fields["more"] is False

    play(scenario)


def test_a_web_socket_is_asked_to_connect_again_when_the_code_changes() -> None:
    async def scenario(rig: Rig) -> None:
        pool = routes(rig)
        client = Client(rig, pool, kind="websocket")
        await turns()
        (worker,) = rig.engine.of("r")
        (exchange,) = started(worker)
        worker.link.events.exchange(Part(exchange, "websocket", {"event": "accept"}))
        await turns()
        routes(rig, code="changed")
        await client.task
        assert client.sent[-1] == {"type": "websocket.close", "code": 1012, "reason": ""}
        assert worker.link.parts[-1].fields["code"] == 1012
        worker.link.events.exchange(Part(exchange, "end", {}))
        await turns()
        assert worker.link.stopping

    play(scenario)


def test_a_request_in_flight_finishes_on_its_worker_when_the_code_changes() -> None:
    async def scenario(rig: Rig) -> None:
        pool = routes(rig)
        before = Client(rig, pool)
        await turns()
        (old,) = rig.engine.of("r")
        routes(rig, code="changed")
        after = Client(rig, pool)
        await turns()
        (_, new) = rig.engine.of("r")
        assert len(started(new)) == 1
        assert not old.link.stopping
        respond(old, started(old)[0], b"old")
        respond(new, started(new)[0], b"new")
        await asyncio.gather(before.task, after.task)
        assert (before.body, after.body) == (b"old", b"new")
        await turns()
        assert old.link.stopping

    play(scenario)


def test_code_that_outlives_its_time_limit_has_its_worker_replaced() -> None:
    async def scenario(rig: Rig) -> None:
        pool = routes(rig, execution_timeout_ms=500)
        client = Client(rig, pool)
        await turns()
        (worker,) = rig.engine.of("r")
        with pytest.raises(JobTimeoutError, match="500 ms"):
            await client.task
        assert worker.link.parts[-1].fields["cancel"] is True
        await asyncio.sleep(3)
        assert rig.engine.killed == [worker.worker_id]

    play(scenario)


def test_a_route_that_ends_without_a_response_says_what_it_raised() -> None:
    async def scenario(rig: Rig) -> None:
        client = Client(rig, routes(rig))
        await turns()
        (worker,) = rig.engine.of("r")
        failure = to_wire(capture(ValueError("bad")))
        worker.link.events.exchange(Part(started(worker)[0], "end", {"failure": failure}))
        with pytest.raises(ValueError, match="bad"):
            await client.task

    play(scenario)


def test_an_endpoint_that_is_withdrawn_finishes_what_runs_and_refuses_what_waits() -> None:
    async def scenario(rig: Rig) -> None:
        pool = routes(rig, (0, 1))
        running = Client(rig, pool)
        await turns()
        (worker,) = rig.engine.of("r")
        rig.plane.withdraw(pool)
        assert rig.plane.find(pool.key) is None
        respond(worker, started(worker)[0])
        await running.task
        await turns()
        assert worker.link.stopping

    play(scenario)


def test_a_worker_can_be_started_before_there_is_work() -> None:
    async def scenario(rig: Rig) -> None:
        pool = routes(rig)
        await turns()
        assert rig.engine.of("r") == []
        await rig.plane.warm(pool)
        assert [w.state for w in pool.workers.values()] == [WorkerState.READY]
        await asyncio.sleep(61)
        assert rig.engine.of("r") == []

    play(scenario)
