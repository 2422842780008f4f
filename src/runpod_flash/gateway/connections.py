"""A client's connection, beyond its requests: how it is written to, and who hears of its end."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from uvicorn.protocols.http.auto import AutoHTTPProtocol

if TYPE_CHECKING:
    from collections.abc import Callable

    from runpod_flash.gateway.messages import Scope

# Where it is in the state of a request's ASGI scope.
_PLACE = "flash.connection"


class Connection:
    """One that is open; on the loop. `close_idle` ends it, unless a request is being answered."""

    def __init__(self, close_idle: Callable[[], None]) -> None:
        self._close_idle = close_idle
        self._lost: dict[object, Callable[[], None]] = {}
        self._shared = False

    @property
    def kept(self) -> bool:
        """Whether it is not to be ended for being idle."""
        return bool(self._lost)

    def keep(self, holder: object, lost: Callable[[], None]) -> None:
        """Have `lost` called once the other end has closed it; until then it may be idle.

        One that has several holders is that of something in between, and tells of none of them.
        """
        self._shared = self._shared or bool(self._lost.keys() - {holder})
        self._lost = {} if self._shared else {holder: lost}

    def let_go(self, holder: object) -> None:
        """It may end again, and does so if it is idle."""
        if self._lost.pop(holder, None) is not None:
            self._close_idle()

    def ended(self, *, by_peer: bool) -> None:
        """It is no more."""
        lost, self._lost = self._lost, {}
        if by_peer:
            for each in lost.values():
                each()


# The head of a larger piece is sent apart, and the piece not copied.
_JOINED_BYTES = 64 << 10


class _Joining:
    """A transport that sends the head of a response together with what follows it in that turn.

    Uvicorn writes them one after the other: each would be a call of the system, and wake the
    client.
    """

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self._loop = asyncio.get_running_loop()
        self._head = b""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        if self._head and len(data) <= _JOINED_BYTES:
            data, self._head = self._head + data, b""
        elif data[:9] == b"HTTP/1.1 ":
            self._send_head()
            self._head = data
            self._loop.call_soon(self._end_turn)
            return
        self._send_head()
        self._transport.write(data)

    def _end_turn(self) -> None:
        if not self._transport.is_closing():  # as after a reset
            self._send_head()

    def _send_head(self) -> None:
        head, self._head = self._head, b""
        if head:
            self._transport.write(head)

    def close(self) -> None:
        self._send_head()
        self._transport.close()


class KeptHTTPProtocol(AutoHTTPProtocol):  # type: ignore[misc,valid-type]
    """Uvicorn's, with a `Connection` that its requests show, and fewer writes."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._connection = Connection(self.timeout_keep_alive_handler)
        self._peer_closed = False
        state: dict[str, Any] = vars(self)["app_state"]
        self.app_state = {**state, _PLACE: self._connection}

    def connection_made(self, transport: asyncio.Transport) -> None:
        super().connection_made(_Joining(transport))

    def timeout_keep_alive_handler(self) -> None:
        """It has been idle for a while."""
        busy = self.cycle is not None and not self.cycle.response_complete
        if not (busy or self._connection.kept):
            super().timeout_keep_alive_handler()

    def eof_received(self) -> None:
        self._peer_closed = True
        super().eof_received()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._connection.ended(by_peer=self._peer_closed or exc is not None)


def connection_of(scope: Scope) -> Connection | None:
    """The connection that a request came by, where the server tells."""
    found: Connection | None = scope.get("state", {}).get(_PLACE)
    return found
