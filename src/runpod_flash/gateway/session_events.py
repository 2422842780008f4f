"""What the workers of a program's app write, brought to the program for as long as it listens."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING

from runpod_flash.links.leaving import leaving
from runpod_flash.plane.events import Logged, Notice
from runpod_flash.wire import frames
from runpod_flash.wire.frames import MEDIA_TYPE, Frame

if TYPE_CHECKING:
    from collections.abc import Callable

    from runpod_flash.gateway.messages import Receive, Send
    from runpod_flash.plane.events import Event, EventStream

# Something is sent so often, so that both ends see whether the other one is there.
_BEAT_SECONDS = 5.0
# Lines that the program has not taken yet; a slower one misses the first of them.
_LINES = 10_000


class Lines:
    """The lines of one app that its program has not had yet; create it on the plane's loop.

    It has one reader: a program that comes back finds what was written meanwhile.
    """

    def __init__(self, app: str, events: EventStream) -> None:
        self._app = app
        self._events = events
        self._loop = asyncio.get_running_loop()
        self._frames: deque[Frame] = deque(maxlen=_LINES)
        self.more = asyncio.Event()
        self.over = False
        events.subscribe(self._heard, Logged, Notice)

    def take(self) -> list[Frame]:
        """Those that are there; `more` is set when others are."""
        taken = list(self._frames)
        self._frames.clear()
        self.more.clear()
        return taken

    def close(self) -> None:
        """Nothing follows what was written until now."""
        self._events.unsubscribe(self._heard)
        self._loop.call_soon(self._end)

    def _end(self) -> None:
        self.over = True
        self.more.set()

    def _heard(self, event: Event) -> None:
        if isinstance(event, Logged | Notice) and event.app == self._app:
            self._loop.call_soon_threadsafe(self._put, _frame(event))

    def _put(self, frame: Frame) -> None:
        self._frames.append(frame)
        self.more.set()


def _frame(event: Logged | Notice) -> Frame:
    if isinstance(event, Notice):
        return Frame("notice", {"endpoint": event.endpoint, "text": event.text})
    line = event.line
    fields = {"endpoint": event.endpoint, "text": line.text, "worker": line.worker_id}
    return Frame("log", fields)


class Events:
    """A response that goes on until its reader leaves or the app ends.

    `joined` and `left` are called when it begins and ends; it also ends where `superseded()`.
    """

    def __init__(
        self,
        lines: Lines,
        receive: Receive,
        joined: Callable[[], None],
        left: Callable[[], None],
        superseded: Callable[[], bool],
    ) -> None:
        self._lines = lines
        self._receive = receive
        self._joined = joined
        self._left = left
        self._superseded = superseded

    async def send(self, send: Send) -> None:
        self._joined()
        try:
            with leaving(self._receive) as gone:
                await self._send(send, gone)
        finally:
            self._left()

    async def _send(self, send: Send, gone: asyncio.Future[None]) -> None:
        headers = [(b"content-type", MEDIA_TYPE.encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        while not (gone.done() or self._lines.over or self._superseded()):
            await self._wait(gone)
            if not (gone.done() or self._superseded()):
                await self._send_some(send, more=True)
        if self._lines.over:
            await self._send_some(send, more=False)

    async def _wait(self, gone: asyncio.Future[None]) -> None:
        more = asyncio.ensure_future(self._lines.more.wait())
        await asyncio.wait((more, gone), timeout=_BEAT_SECONDS, return_when="FIRST_COMPLETED")
        more.cancel()

    async def _send_some(self, send: Send, *, more: bool) -> None:
        found = self._lines.take() or [Frame("beat")]
        body = b"".join(piece for frame in found for piece in frames.encode(frame))
        await send({"type": "http.response.body", "body": body, "more_body": more})
