"""Workers' logs over HTTP: server-sent events, and what a query asks of them."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING

from runpod_flash.gateway.messages import header, query
from runpod_flash.gateway.problems import problem
from runpod_flash.links.leaving import left
from runpod_flash.plane.logs.reading import LogQuery
from runpod_flash.plane.logs.record import Cursor, microseconds, parse_cursor

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from runpod_flash.gateway.messages import Message, Receive, Refusal, Scope, Send
    from runpod_flash.plane.logs.followers import Follower
    from runpod_flash.plane.logs.record import LogRecord, Source
    from runpod_flash.plane.logs.worker_logs import WorkerLogs

_MOST_LINES = 5000
_TAIL = 100
# A connection that nothing is sent on is not seen to be gone.
_ALIVE_SECONDS = 15.0
_SOURCES: tuple[Source, ...] = ("container", "system")


class LogStream:
    """An answer that goes on, until its reader leaves; like `Answer`, it is sent once."""

    def __init__(self, logs: WorkerLogs, asked: LogQuery, receive: Receive) -> None:
        self._logs = logs
        self._query = asked
        self._receive = receive

    async def send(self, send: Send) -> None:
        headers = [
            (b"content-type", b"text/event-stream"),
            (b"cache-control", b"no-store"),
            (b"x-accel-buffering", b"no"),
        ]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        if not self._query.follow:
            async for batch in self._logs.read(self._query):
                await send(_part(_events(batch)))
        else:
            await self._follow(send)
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _follow(self, send: Send) -> None:
        follower = self._logs.follower(self._query)
        works = (
            self._pass_on(follower, send),
            _keep_alive(send),
            left(self._receive),
            follower.cut.wait(),
        )
        tasks = [asyncio.ensure_future(work) for work in works]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._logs.leave(follower)
            for task in tasks:
                task.cancel()
        for task in done:
            task.result()
        if follower.cut.is_set():
            raise ConnectionAbortedError("the reader of a log is too slow")
        raise ConnectionError("the client has left")

    async def _pass_on(self, follower: Follower, send: Send) -> None:
        await send(_part(b": follows\n\n"))  # so that the reader knows that it misses nothing
        async for batch in self._logs.read(self._query, follower):
            await send(_part(_events(batch)))


async def _keep_alive(send: Send) -> None:
    while True:
        await asyncio.sleep(_ALIVE_SECONDS)
        await send(_part(b":\n\n"))


def _part(body: bytes) -> Message:
    return {"type": "http.response.body", "body": body, "more_body": True}


def _events(records: Iterable[LogRecord]) -> bytes:
    return b"".join(
        f"id: {record.cursor}\ndata: {json.dumps(record.fields())}\n\n".encode()
        for record in records
    )


# What is asked


def log_query(scope: Scope, endpoint: str = "", worker: str | None = None) -> LogQuery:
    """The query of a request; 422 says what is wrong with it."""
    given = query(scope)
    return LogQuery(
        endpoint=endpoint,
        worker=worker,
        source=_source(given.get("source")),
        request=given.get("request", ""),
        tail=_tail(given.get("tail")),
        after=_after(given, header(scope, b"last-event-id")),
        follow=_flag(given.get("follow")),
    )


def _source(given: str | None) -> Source | None:
    found = [each for each in _SOURCES if each == given]
    if given is not None and not found:
        raise _wrong("source", given, "it is container or system")
    return found[0] if found else None


def _tail(given: str | None) -> int:
    if given is None:
        return _TAIL
    if not (given.isascii() and given.isdigit()) or int(given) > _MOST_LINES:
        raise _wrong("tail", given, f"it is a number of lines from 0 to {_MOST_LINES}")
    return int(given)


def _flag(given: str | None) -> bool:
    if given not in (None, "true", "false"):
        raise _wrong("follow", given or "", "it is true or false")
    return given != "false"


def _after(given: Mapping[str, str], last_event_id: str | None) -> Cursor | None:
    try:
        if last_event_id:
            return parse_cursor(last_event_id)
        return Cursor(microseconds(given["since"])) if "since" in given else None
    except (ValueError, OverflowError):
        name, value = ("Last-Event-ID", last_event_id) if last_event_id else ("since", "")
        value = value or given.get("since", "")
        raise _wrong(name, value, "it is a time such as 2026-06-01T12:00:00Z") from None


def _wrong(name: str, value: str, allowed: str) -> Refusal:
    return problem(
        422, "Request validation failed.", f"{name}: {value!r} is not allowed; {allowed}"
    )
