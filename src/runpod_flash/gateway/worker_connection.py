"""One connection of a worker on another machine: first what it is to run, then its link."""

from __future__ import annotations

import asyncio
import socket
from contextlib import closing, suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

from runpod_flash.errors import FlashError
from runpod_flash.links.base import LogLine
from runpod_flash.links.framed import FramedLink
from runpod_flash.links.relay import first, pass_on, put_in, read_words, words
from runpod_flash.plane.events import Logged, Notice
from runpod_flash.plane.pool import Elsewhere
from runpod_flash.wire import frames
from runpod_flash.wire.frames import Frame

if TYPE_CHECKING:
    from collections.abc import Sequence

    from runpod_flash.engines.base import StartOrder
    from runpod_flash.gateway.messages import Receive, Send
    from runpod_flash.gateway.projects import Projects
    from runpod_flash.plane.plane import Plane
    from runpod_flash.plane.pool import Pool, Worker
    from runpod_flash.project.tree import TreeFile
    from runpod_flash.spec import EndpointSpec

_NORMAL, _PROTOCOL_ERROR = 1000, 1002
_LONGEST = 2000


class _Ending(NamedTuple):
    """Why a connection ends: `reason` is a phrase about the worker. `agreed`: it was to go."""

    reason: str
    agreed: bool = False
    code: int = _NORMAL


class WorkerConnection:
    """See the module. `receive` and `send` are those of an accepted WebSocket."""

    def __init__(
        self,
        plane: Plane,
        projects: Projects,
        worker_id: str,
        pool: Pool,
        receive: Receive,
        send: Send,
    ) -> None:
        self._plane = plane
        self._projects = projects
        self._worker_id = worker_id
        self._pool = pool
        self._receive = receive
        self._send = send
        self._attached = False
        self._over: asyncio.Future[_Ending] = asyncio.get_running_loop().create_future()
        self.gone = asyncio.Event()

    def end(self, code: int, reason: str) -> None:
        """Close it, for a reason that is a phrase about the worker."""
        if not self._over.done():
            self._over.set_result(_Ending(reason, code=code))

    async def serve(self) -> None:
        """Returns when one of the two ends has left; once it is `gone`, the plane knows it not."""
        try:
            ending = await first(self._whole(), self._wait_for_end())
            if self._attached:
                self._plane.detach(self._worker_id, ending.reason, agreed=ending.agreed)
        finally:
            self._plane.identities.ended(self._worker_id)
            self.gone.set()
        with suppress(OSError):
            reason = ending.reason[:100]
            await self._send({"type": "websocket.close", "code": ending.code, "reason": reason})

    async def _wait_for_end(self) -> _Ending:
        return await self._over

    async def _whole(self) -> _Ending:
        try:
            return await self._prepare()
        except FlashError as error:
            await self._say("refused", why=str(error))
            self._notice(f"the worker {self._worker_id} gets nothing to run: {error}")
            return _Ending("got nothing to run")
        except OSError:
            return _Ending("lost its connection")
        except (ValueError, KeyError, TypeError) as error:
            return _Ending(f"sent what cannot be read: {error}", code=_PROTOCOL_ERROR)

    # Until the worker runs

    async def _prepare(self) -> _Ending:
        order = self._plane.order(self._worker_id, self._pool)
        files = await asyncio.to_thread(self._projects.files, order.spec)
        listed = [[file.path, file.digest, file.executable] for file in files]
        spec = _at(order.spec, "").to_wire()
        await self._say(
            "order",
            worker=self._worker_id,
            spec=spec,
            env=dict(order.env),
            identity=dict(order.identity),
            files=listed,
        )
        await self._bring(order.spec, files, (await self._expect("lacks"))["digests"])
        told = await self._expect("started", "failed")
        if told["t"] == "failed":
            self._notice(f"the worker {self._worker_id} cannot start: {told['why']:.{_LONGEST}}")
            return _Ending("could not be started")
        given = self._plane.caller_env(self._pool)
        named = await asyncio.to_thread(self._projects.variables, order.spec, files, given)
        return await self._link(order, named, told)

    async def _bring(
        self, spec: EndpointSpec, files: Sequence[TreeFile], digests: Sequence[str]
    ) -> None:
        known = {file.digest: file for file in files}
        for digest in digests:
            data = await asyncio.to_thread(self._projects.content, spec, known[digest])
            blob = frames.encode(Frame("blob", {"digest": digest}, (data,)))
            await self._pass(b"".join(blob))

    # While it runs

    async def _link(
        self, order: StartOrder, caller_env: dict[str, str], told: dict[str, Any]
    ) -> _Ending:
        ours, theirs = socket.socketpair()
        theirs.setblocking(False)
        with closing(theirs):
            imported: asyncio.Queue[Sequence[str]] = asyncio.Queue()
            loop, token = asyncio.get_running_loop(), str(told["token"])
            link = FramedLink(ours, loop, self._worker_id, token, imported.put_nowait)
            spec = _at(order.spec, str(told["root"]))
            devices = tuple(map(str, told["devices"]))
            started = Elsewhere(order, spec, caller_env, str(told["node"]), devices)
            self._plane.detach(self._worker_id, "has connected anew")
            self._attached = True
            worker = self._plane.attach(self._pool, self._worker_id, link, started)
            if worker.stale or self._plane.draining or self._plane.find(self._pool.key) is None:
                self._plane.retire(worker)  # while it was prepared, something has changed
            return await first(
                self._inward(worker, theirs), self._outward(theirs), self._tell(imported)
            )

    async def _outward(self, theirs: socket.socket) -> _Ending:
        await pass_on(theirs, self._pass)
        return _Ending("was let go")

    async def _tell(self, imported: asyncio.Queue[Sequence[str]]) -> NoReturn:
        """Pass on what the worker has imported: its machine does not look into the link."""
        while True:
            await self._say("imported", modules=list(await imported.get()))

    async def _inward(self, worker: Worker, theirs: socket.socket) -> _Ending:
        leaves = False
        while True:
            message = await self._hear()
            if isinstance(message, bytes):
                await put_in(theirs, message)
            elif message["t"] == "output":
                line = LogLine(self._worker_id, str(message["text"]))
                self._plane.events.publish(
                    Logged(worker.pool.spec.name, line, worker.pool.spec.app)
                )
            elif message["t"] == "leave":
                leaves = True
                self._plane.retire(worker)
            elif message["t"] == "exited":
                return _Ending(str(message["reason"])[:_LONGEST], leaves)

    # Messages

    async def _expect(self, *kinds: str) -> dict[str, Any]:
        message = await self._hear()
        if isinstance(message, bytes) or message["t"] not in kinds:
            raise ValueError(f"{' or '.join(kinds)} was to come")
        return message

    async def _hear(self) -> bytes | dict[str, Any]:
        """The next message; raises `ConnectionError` at the end."""
        message = await self._receive()
        while message["type"] == "websocket.connect":
            message = await self._receive()
        if message["type"] == "websocket.disconnect":
            raise ConnectionResetError
        data = message.get("bytes")
        return data if data is not None else read_words(message["text"])

    async def _say(self, kind: str, **fields: Any) -> None:
        await self._send({"type": "websocket.send", "text": words(kind, **fields)})

    async def _pass(self, piece: bytes) -> None:
        await self._send({"type": "websocket.send", "bytes": piece})

    def _notice(self, text: str) -> None:
        spec, said = self._pool.spec, self._pool.said
        if text not in said:  # the machine tries again and again
            said.add(text)
            self._plane.events.publish(Notice(spec.name, text, spec.app))


def _at(spec: EndpointSpec, root: str) -> EndpointSpec:
    """The spec on another machine, which has the project elsewhere."""
    return replace(spec, entry=replace(spec.entry, root=root))
