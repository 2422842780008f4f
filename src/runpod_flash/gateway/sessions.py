"""Apps that last as long as the program which brought them: the other end of `client/session.py`.

A session has an id of its program's own making, so that asking again is safe, and after a restart
of the server the program brings its app again; its jobs are still there. It ends when its program
says so, or is not heard of for a while.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any
from weakref import WeakValueDictionary

from runpod_flash.control.trees import AppTree
from runpod_flash.errors import ConfigurationError
from runpod_flash.gateway.brought import UNREADABLE, placed, read_catalog, read_files
from runpod_flash.gateway.messages import Answer, Refusal, answer, parse_text_json, read_body
from runpod_flash.gateway.session_events import Events, Lines
from runpod_flash.gateway.session_ids import is_session_id
from runpod_flash.plane.events import Notice
from runpod_flash.plane.tasks import Tasks
from runpod_flash.wire import frames

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from pathlib import Path

    from runpod_flash.control.blobs import Blobs
    from runpod_flash.control.kept_apps import KeptApps
    from runpod_flash.control.trees import StoredFile
    from runpod_flash.gateway.app import Gateway
    from runpod_flash.gateway.messages import Receive, Scope
    from runpod_flash.plane.plane import Plane
    from runpod_flash.plane.pool import Pool
    from runpod_flash.project.catalog import Catalog, Discovered

PREFIX = "/s/"
# A program that is not heard of for so long has ended.
LEASE_SECONDS = 10.0
_BODY_LIMIT = 64_000_000
_BLOBS_LIMIT = 512_000_000


@dataclass(frozen=True)
class Place:
    """Where programs' apps are put: a folder for their trees, the files that are known, and what
    outlives the server. `datacenter` is where all that stands, if that was said.
    """

    folder: Path
    blobs: Blobs
    kept: KeptApps
    datacenter: str = ""


@dataclass(eq=False)
class Session:
    """A program's app. `listening` counts the connections that hear its events, of which
    the last one, number `reader`, is told them.
    """

    id: str
    gateway: Gateway
    tree: AppTree
    lines: Lines
    listening: int = 0
    reader: int = 0
    detached: bool = False
    ending: asyncio.TimerHandle | None = None
    names: set[str] = field(default_factory=set)


class Sessions:
    """Answers below /v2/sessions and /v2/blobs, on the plane's loop.

    `find` tells what is deployed here under a name, and what its addresses begin with;
    `open_gateway` makes what serves an app. Without a `place` no app can be brought: only what is
    deployed can be called.
    """

    def __init__(
        self,
        plane: Plane,
        find: Callable[[str, str, str], tuple[Discovered, str] | None],
        open_gateway: Callable[[], Gateway],
        place: Place | None,
    ) -> None:
        self._plane = plane
        self._find = find
        self._open_gateway = open_gateway
        self._place = place
        self._sessions: dict[str, Session] = {}
        # Held by whoever begins, changes or ends the session of that id.
        self._changing: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._tasks = Tasks()

    def gateway(self, session_id: str) -> Gateway:
        """What serves the app of a session; 404 once it has ended."""
        return self._get(session_id).gateway

    async def answer(self, scope: Scope, receive: Receive) -> Answer | Events | None:
        """The answer to a request, or None for an address that is none of these."""
        method, (_, _, kind, *rest) = scope["method"], scope["path"].split("/")
        if kind == "blobs" and not rest and method == "POST":
            return await self._upload(scope, receive)
        if kind != "sessions" or not rest or not is_session_id(rest[0]):
            return None
        session_id, *more = rest
        if not more and method == "PUT":
            return await self._bring(session_id, scope, receive)
        if not more and method == "DELETE":
            await self._end(self._get(session_id))
            return answer(200, {"ended": session_id})
        if more == ["events"] and method == "GET":
            return self._events(self._get(session_id), receive)
        return None

    def _get(self, session_id: str) -> Session:
        session = self._sessions.get(session_id)
        if session is None:
            raise Refusal(404, "the program's app is not here: it has ended, or the server has")
        return session

    # Bringing an app

    async def _upload(self, scope: Scope, receive: Receive) -> Answer:
        blobs = self._room().blobs
        body = await read_body(scope, receive, _BLOBS_LIMIT, "upload fewer files at a time")
        try:
            kept = await asyncio.to_thread(_put_all, blobs, frames.decode(body))
        except UNREADABLE as error:
            raise Refusal(400, f"the upload cannot be read: {error}") from None
        return answer(200, {"kept": kept})

    def _room(self) -> Place:
        if self._place is None:
            raise Refusal(404, "this server takes no code: it serves what is in its directory")
        return self._place

    async def _bring(self, session_id: str, scope: Scope, receive: Receive) -> Answer:
        value = parse_text_json(await read_body(scope, receive, _BODY_LIMIT, "leave files out"))
        async with self._lock(session_id):
            told = await self._take_in(session_id, _Wanted.read(value))
            if "base" in told:
                await asyncio.to_thread(self._room().kept.keep, session_id, value)
        return answer(200, told)

    def _lock(self, session_id: str) -> asyncio.Lock:
        return self._changing.setdefault(session_id, asyncio.Lock())

    async def restore(self) -> None:
        """Serve again what an earlier server has served, until it is clear who comes back."""
        place = self._room()
        for session_id, value in place.kept.all():
            told: dict[str, Any] = {}
            with suppress(Refusal):
                async with self._lock(session_id):
                    told = await self._take_in(session_id, _Wanted.read(value))
            if "base" in told:
                self._get(session_id).gateway.declare_all()  # jobs may wait
            else:
                place.kept.drop(session_id)

    async def _take_in(self, session_id: str, wanted: _Wanted) -> dict[str, Any]:
        """Serve what is not deployed, if all of its files are here; what the program is told.

        With the session's lock.
        """
        deployed = {} if wanted.whole else self._deployed(wanted)
        left = [each for each in wanted.catalog.endpoints if each.spec.name not in deployed]
        if not left and not wanted.whole:
            return {"deployed": deployed, "missing": []}
        if self._place is None:
            names = ", ".join(each.spec.name for each in left)
            raise Refusal(404, f"there is no endpoint {names} here, and this server takes no code")
        try:
            missing = self._place.blobs.missing(file.digest for file in wanted.files)
        except ValueError as error:
            raise Refusal(400, f"the app cannot be read: {error}") from None
        if missing:
            return {"deployed": deployed, "missing": missing}
        replaced = await self._serve(session_id, wanted, left)
        base = f"{PREFIX}{session_id}"
        return {"deployed": deployed, "missing": [], "base": base, "replaced": replaced}

    def _deployed(self, wanted: _Wanted) -> dict[str, dict[str, str]]:
        """What is deployed under this app and environment: its code's digest, and where it is."""
        deployed = {}
        for each in wanted.catalog.endpoints:
            found = self._find(wanted.app, wanted.environment, each.spec.name)
            if found is not None:
                there, base = found
                deployed[each.spec.name] = {"code": there.spec.build.code, "base": base}
        return deployed

    async def _serve(
        self, session_id: str, wanted: _Wanted, endpoints: Sequence[Discovered]
    ) -> list[str]:
        session = self._sessions.get(session_id) or self._open(session_id)
        try:
            root = await asyncio.to_thread(session.tree.show, wanted.files)
        except (ValueError, OSError) as error:
            raise Refusal(400, f"the app's files cannot be laid out: {error}") from None
        finally:
            self._watch(session)
        catalog = replace(wanted.catalog, endpoints=tuple(endpoints))
        session.detached = wanted.detached
        session.names = {each.spec.name for each in endpoints}
        running = {pool.key for pool in session.gateway.pools() if pool.live()}
        changed = session.gateway.serve(placed(catalog, session_id, root), wanted.caller_env)
        new = session.gateway.declare_all() if wanted.warm and not running else []
        for pool in (*new, *(pool for pool in changed if pool.key in running)):
            self._warm(pool)
        return [pool.spec.name for pool in changed]

    def _warm(self, pool: Pool) -> None:
        """Have a worker before the next request; what becomes of it is told as it is."""

        async def start() -> None:
            began = time.monotonic()
            try:
                await self._plane.warm(pool)
                text = f"ready in {time.monotonic() - began:.1f} s"
            except Exception as error:  # the user's own, from a module that does not import
                text = str(error)
            self._plane.events.publish(Notice(pool.spec.name, text, pool.spec.app))

        self._tasks.spawn(start())

    def _open(self, session_id: str) -> Session:
        place = self._room()
        tree = AppTree(place.folder / session_id, place.blobs)
        lines = Lines(session_id, self._plane.events)
        session = Session(session_id, self._open_gateway(), tree, lines)
        self._sessions[session_id] = session
        return session

    # Its life

    def _watch(self, session: Session) -> None:
        """End it after a while without its program."""
        if session.ending is not None:
            session.ending.cancel()
            session.ending = None
        if not session.listening and self._sessions.get(session.id) is session:
            loop = asyncio.get_running_loop()
            session.ending = loop.call_later(LEASE_SECONDS, self._lapsed, session)

    def _lapsed(self, session: Session) -> None:
        if session.detached and self._plane.unfinished(session.id):
            self._watch(session)
            return
        session.ending = None
        self._tasks.spawn(self._end(session, lapsed=True))

    async def _end(self, session: Session, *, lapsed: bool = False) -> None:
        """End it, unless it has ended; one that has `lapsed`, unless its program came back."""
        async with self._lock(session.id):
            came_back = lapsed and (session.listening or session.ending is not None)
            if came_back or self._sessions.get(session.id) is not session:
                return
            del self._sessions[session.id]
            if session.ending is not None:
                session.ending.cancel()
            await session.gateway.close(session.id)
            session.lines.close()
            self._room().kept.drop(session.id)
            await asyncio.to_thread(session.tree.remove)

    def _events(self, session: Session, receive: Receive) -> Events:
        session.reader += 1
        number = session.reader

        def count(by: int) -> None:
            session.listening += by
            self._watch(session)

        return Events(
            session.lines,
            receive,
            joined=partial(count, 1),
            left=partial(count, -1),
            superseded=lambda: session.reader != number,
        )


@dataclass(frozen=True)
class _Wanted:
    """What a program wants to have served. `whole`: whatever is deployed under these names; `warm`:
    with a worker of each endpoint before there is work.
    """

    app: str
    environment: str
    files: Sequence[StoredFile]
    catalog: Catalog
    caller_env: dict[str, str]
    whole: bool
    detached: bool
    warm: bool

    @classmethod
    def read(cls, value: Any) -> _Wanted:
        try:
            return cls.of(value)
        except (*UNREADABLE, ConfigurationError) as error:
            raise Refusal(400, f"the app cannot be read: {error}") from None

    @classmethod
    def of(cls, value: dict[str, Any]) -> _Wanted:
        return cls(
            app=str(value["app"]),
            environment=str(value["environment"]),
            files=read_files(value),
            catalog=read_catalog(value),
            caller_env={str(k): str(v) for k, v in value["caller_env"].items()},
            whole=bool(value.get("whole")),
            detached=bool(value.get("detached")),
            warm=bool(value.get("warm")),
        )


def _put_all(blobs: Blobs, sent: Iterable[frames.Frame]) -> dict[str, int]:
    """Keep whole files and parts; how much of each is here."""
    kept = {}
    for frame in sent:
        digest, data = str(frame.fields["digest"]), b"".join(frame.buffers)
        if frame.type == "part":
            offset, size = int(frame.fields["offset"]), int(frame.fields["size"])
            kept[digest] = blobs.add(digest, offset, size, data)
        else:
            blobs.put(digest, data)
            kept[digest] = len(data)
    blobs.sweep()
    return kept
