"""The gateway: one ASGI application for everything that clients ask of a plane.

Dispatch is by hand, since a framework's router would halve the throughput of the hot paths.
"""

from __future__ import annotations

import asyncio
import logging
import time
from functools import partial
from typing import TYPE_CHECKING

from runpod_flash.control.key import KeyRing
from runpod_flash.errors import (
    ConnectionClosedError,
    FlashError,
    JobTimeoutError,
    PayloadTooLargeError,
    StoreFullError,
    WorkerLostError,
)
from runpod_flash.gateway import sentinel
from runpod_flash.gateway.access import (
    Keyless,
    admit,
    headers_for_routes,
    identity_of,
    require,
)
from runpod_flash.gateway.addresses import Addresses, prefix_of
from runpod_flash.gateway.apps import Apps
from runpod_flash.gateway.control import ControlApi
from runpod_flash.gateway.deployments import PREFIX as DEPLOYED
from runpod_flash.gateway.deployments import Deployments
from runpod_flash.gateway.documents import V2_DOCUMENT, Documents
from runpod_flash.gateway.external import with_externals
from runpod_flash.gateway.functions import FunctionApi
from runpod_flash.gateway.guard import Guard, kept_to_its_folder, preflight
from runpod_flash.gateway.jobs import Jobs
from runpod_flash.gateway.management import NOTHING, Management, Records
from runpod_flash.gateway.messages import Answer, Refusal, not_now, wrong_method
from runpod_flash.gateway.noting import Noting, for_route, is_answered, operation_of
from runpod_flash.gateway.parts import Parts
from runpod_flash.gateway.probes import probed
from runpod_flash.gateway.queue_api import QueueApi
from runpod_flash.gateway.rate_limit import Caller
from runpod_flash.gateway.sessions import Sessions
from runpod_flash.gateway.tallies import Tallies
from runpod_flash.gateway.tenure import Tenure
from runpod_flash.gateway.workers import Workers
from runpod_flash.gateway.workers_control import WorkersControl
from runpod_flash.project.catalog import Catalog
from runpod_flash.suggest import near

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from runpod_flash.control.releases import AppEnv
    from runpod_flash.gateway.access import Access
    from runpod_flash.gateway.messages import Message, Receive, Scope, Send, Sendable
    from runpod_flash.gateway.noting import Answered
    from runpod_flash.gateway.rate_limit import RateLimiter
    from runpod_flash.plane.logs.worker_logs import WorkerLogs
    from runpod_flash.plane.plane import Plane
    from runpod_flash.plane.pool import Pool
    from runpod_flash.project.catalog import Discovered, Problem
    from runpod_flash.spec import EndpointSpec


class Gateway:
    """Serves a catalog, which may be replaced at any time; create it on the plane's loop.

    `access` says who may do what; without it nobody has a key, and anybody may call. `records` are
    what a server keeps beside its jobs. `on_request` is told of each request, once its status is
    known. `logs` are those of the plane's workers, and `tallies` what is counted of them.
    `deployed_as` are the app and environment of this catalog, if it goes by these, and with the
    `prefix` its endpoints' names are ids. `limiter` says how often endpoints may be asked.
    """

    def __init__(
        self,
        plane: Plane,
        *,
        allowed_hosts: Iterable[str] = (),
        access: Access | None = None,
        records: Records = NOTHING,
        on_request: Callable[[Answered], None] | None = None,
        jobs: Jobs | None = None,
        deployed_as: AppEnv | None = None,
        prefix: str = "",
        logs: WorkerLogs | None = None,
        tallies: Tallies | None = None,
        limiter: RateLimiter | None = None,
    ) -> None:
        self._plane = plane
        self._guard = Guard(allowed_hosts)
        self._deployed_as = deployed_as
        self._prefix = prefix
        # Whether new clients should come here; /readyz says so.
        self.ready = True
        self._given = Catalog("")
        self._addresses = Addresses(self._given)
        self._pools: dict[str, Pool] = {}
        self._caller_env: Mapping[str, str] | None = None
        jobs = jobs or Jobs(plane)
        self._functions = FunctionApi(jobs, self.pool_of)
        self._queue = QueueApi(jobs, self.pool_of, self._find, self._ids)
        self._access = access = access or Keyless(KeyRing(time.time))
        self._limiter = limiter
        tallies = tallies or Tallies(plane.events, plane.names_of)
        self._noting = Noting(tallies, on_request)
        # As the operator's, where there are keys: workers of another app may call as well.
        allow_logs = self._allow_operator if records.keys is None else _allow_admin
        self._control = ControlApi(
            plane, tallies, self._declared, logs, self._allow_operator, allow_logs
        )
        inner = partial(Gateway, plane, access=access, jobs=jobs, tallies=tallies, limiter=limiter)
        self._sessions = Sessions(plane, self._locate, inner, records.place)
        self._deployments = _deployments(plane, inner, records)
        self._apps = Apps(self._sessions, self._deployments, self.named, access.identify)
        self._tokens, place = records.tokens, records.place
        self._workers: Workers | None = None
        tokens_api: WorkersControl | None = None
        if self._tokens is not None:
            folder = None if place is None else place.folder
            self._workers = Workers(plane, self._tokens, self._named, folder)
            tokens_api = WorkersControl(plane, self._tokens, self._named, self._serve_again)
        self._management = Management(plane, jobs, records, self._deployments, tokens_api)
        self._documents = Documents(self._describe, self._management.described)
        self._parts = Parts(self._workers, self._management)

    # What is served

    def serve(
        self,
        catalog: Catalog,
        caller_env: Mapping[str, str] | None = None,
        *,
        rolling: bool = False,
    ) -> list[Pool]:
        """Serve this from now on; requests in flight finish. The pools whose workers change.

        Endpoints of a file that is broken now go on with their jobs until it is mended.
        `caller_env` is what modules see while they are imported, if not what this process has.
        With `rolling`, workers go on until `Plane.roll` replaces them.
        """
        self._caller_env = caller_env
        self._given = catalog
        if self._tokens is not None:
            catalog = with_externals(catalog, self._tokens.externals)
        self._addresses = Addresses(catalog, self._addresses.homes)
        self._documents.serve(catalog)
        found = {each.spec.key: each for each in catalog.endpoints}
        broken = {problem.file for problem in catalog.problems}
        changed = []
        for key, pool in list(self._pools.items()):
            each = found.get(key)
            if each is not None:
                if pool.differs(each.spec, each.env):
                    changed.append(pool)
                self._plane.declare(each.spec, each.env, caller_env, rolling=rolling)
            elif pool.spec.entry.file not in broken:
                del self._pools[key]
                self._plane.withdraw(pool)
        return changed

    def _serve_again(self) -> None:
        self.serve(self._given, self._caller_env)

    def _named(self, name: str) -> tuple[Discovered, Pool] | None:
        """The endpoint of that name or of that id, and its pool."""
        found = self.named(name)
        if found is not None:
            return found, self.pool_of(found)
        at = None if self._deployments is None else self._deployments.at_id(name)
        return None if at is None else at[0].gateway._named(at[1])

    def pool_of(self, endpoint: Discovered) -> Pool:
        """The endpoint's pool, made by its first use.

        It is as it is served now: a request may have found the endpoint in an earlier catalog.
        """
        pool = self._pools.get(endpoint.spec.key)
        if pool is None or pool.withdrawn:
            now = self.named(endpoint.spec.name)
            if now is not None and now.spec.key == endpoint.spec.key:
                endpoint = now
            pool = self._plane.declare(endpoint.spec, endpoint.env, self._caller_env)
            self._pools[pool.key] = pool
        return pool

    def declare_all(self) -> list[Pool]:
        """The pools of all endpoints."""
        return [self.pool_of(each) for each in self._addresses.catalog.endpoints]

    def pools(self) -> list[Pool]:
        """The pools that were used so far."""
        return list(self._pools.values())

    def named(self, name: str) -> Discovered | None:
        """The endpoint of that name."""
        return self._addresses.names.get(name)

    def _find(self, app: str, environment: str, name: str) -> Discovered | None:
        """The endpoint that is deployed here under these names."""
        here = self._deployed_as is None or self._deployed_as == (app, environment)
        return self.named(name) if here else None

    def _find_named(self, app: str, environment: str, name: str) -> Discovered | None:
        """As `_find`; whoever names no app means what is served here."""
        return self._find(app, environment, name) if app else self.named(name)

    def _ids(self) -> Mapping[str, str]:
        """The ids of endpoints that are deployed here, with their names."""
        return {} if self._deployments is None else self._deployments.ids()

    def _locate(self, app: str, environment: str, name: str) -> tuple[Discovered, str] | None:
        """That endpoint, also of another app, and before which address its own are."""
        if self._deployments is not None:
            found = self._deployments.find(app, environment, name)
            if found is not None:
                return found, f"{DEPLOYED}{app}-{environment}"
        own = self._find(app, environment, name)
        return None if own is None else (own, "")

    def deployed(self, app: str) -> AppEnv | None:
        """The environment that an app of the plane is, if it is deployed."""
        return None if self._deployments is None else self._deployments.place_of(app)

    async def restore(self) -> None:
        """Serve what was deployed, and the apps of programs, when an earlier server ended."""
        if self._deployments is not None:
            await self._deployments.restore()
        await self._sessions.restore()

    async def stop(self) -> None:
        """Prepare nothing more."""
        if self._deployments is not None:
            await self._deployments.close()

    async def close(self, app: str) -> None:
        """Serve nothing more: all that runs of this app is ended, and its workers with it."""
        await self._plane.discard(app)
        self.serve(Catalog(""))  # (a request that was on its way may have brought some back)
        await self._plane.discard(app)

    def _declared(self) -> list[EndpointSpec]:
        return [each.spec for each in self._addresses.catalog.endpoints]

    def _allow_operator(self, scope: Scope) -> None:
        """Refuse whoever may not see what happens here; where none needs a key, anybody may."""
        if not isinstance(self._access, Keyless):
            require(scope, "admin")

    async def _describe(self, endpoint: Discovered) -> dict[str, object] | None:
        pool = self._pools.get(endpoint.spec.key)
        return None if pool is None else await self._plane.describe_routes(pool)

    # ASGI

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        kind = scope["type"]
        if kind == "lifespan":
            raise RuntimeError("the gateway has no lifespan")
        noted = self._noting.begin(scope, send)
        try:
            if (found := probed(scope, self.ready)) is not None:
                await found.send(noted)
                return
            self._guard.check(scope)
            if kind == "websocket":
                await self._web_socket(scope, receive, noted)
            else:
                await self._http(scope, receive, noted)
        except Refusal as refusal:
            await _refuse(scope, self._management.worded(scope, refusal), noted)
        except (StoreFullError, ConnectionClosedError) as error:
            await _refuse(scope, not_now(error), noted)
        except PayloadTooLargeError as error:
            await _refuse(scope, self._management.worded(scope, Refusal(413, str(error))), noted)
        except ConnectionAbortedError:
            raise  # the server closes the connection: the response is not whole
        except ConnectionError:
            pass  # the client has left
        except asyncio.CancelledError:
            if kind == "http" and not is_answered(scope):
                stops = ConnectionClosedError("the server stopped before it had an answer")
                await _refuse(scope, not_now(stops), noted)
            raise
        except Exception as error:
            # A fault of ours: the client hears of it where it can, the terminal in full.
            logging.getLogger(__name__).exception("%s %s failed", kind, scope["path"])
            text = f"an internal error in Flash's server: {error!r}; please report it"
            await _refuse(scope, self._management.worded(scope, Refusal(500, text)), noted)

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        part = self._parts.at(scope["path"])
        if part.workers is not None:
            await (await part.workers.answer(scope, receive)).send(send)  # they have other keys
            return
        if part.uploads is not None:
            await (await part.uploads.upload(scope, receive)).send(send)
            return
        if (inner := self._apps.within(scope)) is not None:
            gateway, scope = inner
            await gateway._http(scope, receive, send)
            return
        scope = sentinel.at_own_path(scope, self._find_named)
        endpoint = self._addresses.route(scope["path"], scope["method"])
        # Browsers ask without a key whether they may send one.
        found = preflight(scope) if endpoint is None else None
        if found is None:
            admit(self._access, scope, self._endpoint_at, self._prefix)
            self._check_rate(scope, endpoint)
        else:
            await found.send(send)
            return
        key = identity_of(scope).key
        if key is None:
            await self._respond(endpoint, scope, receive, send)
            return
        tenure = Tenure(self._access.ring, key, receive, send)
        try:
            await self._respond(endpoint, scope, tenure.receive, tenure.send)
        finally:
            if tenure.streams:
                await tenure.close()

    async def _respond(
        self, endpoint: Discovered | None, scope: Scope, receive: Receive, send: Send
    ) -> None:
        """Answer a request that may be made; `endpoint` is the one whose route it is."""
        if endpoint is not None:
            await self._route(endpoint, scope, receive, send)
        else:
            await (await self._answer(scope, receive)).send(send)

    def _endpoint_at(self, scope: Scope) -> Discovered | None:
        if sentinel.asked(scope["path"]):
            return self._find(*sentinel.named_by_headers(scope))
        method = scope["method"] if scope["type"] == "http" else "WEBSOCKET"
        return self._addresses.endpoint_at(scope["path"], method)

    def _check_rate(self, scope: Scope, routed: Discovered | None) -> None:
        """Refuse whoever asks an endpoint too often."""
        if self._limiter is None:
            return
        endpoint = routed or self._endpoint_at(scope)
        if endpoint is not None:
            key = identity_of(scope).key
            operation = operation_of(scope["path"]) if routed is None else "route"
            self._limiter.check(Caller("" if key is None else key.id, endpoint.spec.key, operation))

    def _makes_workers(self, scope: Scope) -> bool:
        """Whether it is about tokens of workers; reading what there is, is the control API's."""
        path, method = scope["path"], scope["method"]
        changes = self._workers is not None and method in ("POST", "DELETE")
        return changes and path.startswith("/v2/serverless/")

    async def _answer(self, scope: Scope, receive: Receive) -> Sendable:
        part = self._parts.at(scope["path"])
        if part.control and not self._makes_workers(scope):
            return await self._control.answer(scope, receive)
        if part.brought:
            require(scope, "deploy")
            own = await self._sessions.answer(scope, receive)
            if own is not None:
                return own
        if part.managed is not None:
            return await part.managed.answer(scope, receive)
        found = await self._of_jobs(scope, receive)
        if found is not None:
            if not (isinstance(found, Answer) and found.kept):
                # What is said of a job must not be taken back by a crash.
                await self._plane.store.durable()
            return found
        found = await self._documents.answer(scope)
        if found is None:
            raise self._unknown(scope)
        return found

    async def _of_jobs(self, scope: Scope, receive: Receive) -> Sendable | None:
        path = scope["path"]
        if path.startswith("/v2/") and path != V2_DOCUMENT:
            return await self._queue.answer(self._addresses, scope, receive)
        return await self._functions.answer(self._addresses, scope, receive)

    def _unknown(self, scope: Scope) -> Refusal:
        path = scope["path"]
        methods = self._addresses.methods(path)
        if methods:
            return wrong_method(scope, ", ".join(m for m in methods if m != "WEBSOCKET"))
        problem = self._addresses.problem(path)
        if problem is not None:
            return refusal_of(problem)
        known = list(self._addresses.known())
        nearest = near(path, known)
        hint = f"; did you mean {' or '.join(nearest)}?" if nearest else "; see /docs"
        return Refusal(404, f"nothing is served at {path}{hint}")

    # Routes

    async def _web_socket(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            if self._workers is not None and self._workers.connects(scope["path"]):
                await self._workers.connect(scope, receive, send)
                return
            if (inner := self._apps.within(scope)) is not None:
                gateway, scope = inner
                await gateway._web_socket(scope, receive, send)
                return
            admit(self._access, scope, self._endpoint_at, self._prefix)
            endpoint = self._addresses.route(scope["path"], "WEBSOCKET")
            if endpoint is None:
                raise self._unknown(scope)
            self._check_rate(scope, endpoint)
        except Refusal as refusal:
            if "websocket.http.response" not in scope.get("extensions", {}):
                raise
            await refusal.answer.send(_in_handshake(send))
            return
        key = identity_of(scope).key
        if key is None:
            await self._route(endpoint, scope, receive, send)
            return
        tenure = Tenure(self._access.ring, key, receive, send)
        try:
            await self._route(endpoint, scope, tenure.receive, tenure.send)
        finally:
            if tenure.streams:
                await tenure.close()

    async def _route(
        self, endpoint: Discovered, scope: Scope, receive: Receive, send: Send
    ) -> None:
        outer, spec = scope.get("root_path", ""), endpoint.spec
        scope = {
            **scope,
            "root_path": f"{outer}{prefix_of(endpoint)}",
            "path": f"{outer}{scope['path']}",  # (ASGI: the root path is a part of it)
            "headers": for_route(scope, spec.name, spec.app, headers_for_routes(scope)),
        }
        pool = self.pool_of(endpoint)
        try:
            await self._plane.serve_request(pool, scope, receive, kept_to_its_folder(scope, send))
        except (ConnectionError, Refusal):
            raise
        except Exception as error:
            raise _failed_route(error) from None


def _deployments(
    plane: Plane, open_gateway: Callable[..., Gateway], records: Records
) -> Deployments | None:
    place, releases = records.place, records.releases
    if releases is None or place is None:
        return None
    return Deployments(plane, open_gateway, releases, place.folder, place.blobs, records.volumes)


def _allow_admin(scope: Scope) -> None:
    require(scope, "admin")


def refusal_of(problem: Problem) -> Refusal:
    """The answer for what a broken file would serve."""
    more = {"detail": problem.detail} if problem.detail else {}
    return Refusal(500, problem.message, **more)


def _failed_route(error: Exception) -> Refusal:
    """The answer in the place of a route that gave none."""
    status = 503
    if isinstance(error, JobTimeoutError):
        status = 504
    elif isinstance(error, WorkerLostError):
        status = 502
    elif not isinstance(error, FlashError):
        status = 500
    text = str(error) if isinstance(error, FlashError) else f"{type(error).__name__}: {error}"
    cause = error.__cause__
    return Refusal(status, text, **({"detail": str(cause).strip().strip('"')} if cause else {}))


def _in_handshake(send: Send) -> Send:
    """Sends a response in the place of a WebSocket that was not accepted."""

    async def sent(message: Message) -> None:
        await send({**message, "type": f"websocket.{message['type']}"})

    return sent


async def _refuse(scope: Scope, refused: Answer, send: Send) -> None:
    if scope["type"] == "websocket":
        # (Before it is accepted, closing answers the handshake with 403.)
        await send({"type": "websocket.close", "code": 1008})
    else:
        await refused.send(send)
