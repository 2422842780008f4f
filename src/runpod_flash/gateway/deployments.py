"""What is deployed: each environment of an app is served by a gateway of its own.

A release takes over when a worker of each endpoint that it changes has started; until then, and
where one does not start, the one before it is served.
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from dataclasses import dataclass, field, replace
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from runpod_flash.control.releases import AppEnv, Content, Release
from runpod_flash.control.rollouts import Rollouts
from runpod_flash.control.trees import AppTree
from runpod_flash.errors import FlashError
from runpod_flash.gateway.brought import placed
from runpod_flash.gateway.pinning import pinned
from runpod_flash.gateway.session_events import Lines
from runpod_flash.plane.events import Notice
from runpod_flash.plane.tasks import Tasks
from runpod_flash.project.catalog import Catalog

if TYPE_CHECKING:
    from collections.abc import Callable

    from runpod_flash.control.blobs import Blobs
    from runpod_flash.control.releases import Releases, Variables
    from runpod_flash.control.volumes.registry import Volume, Volumes
    from runpod_flash.gateway.app import Gateway
    from runpod_flash.plane.plane import Plane
    from runpod_flash.plane.pool import Pool
    from runpod_flash.project.catalog import Discovered

T = TypeVar("T")

PREFIX = "/d/"
# So many workers are started at a time to see whether they start.
_TOGETHER = 4


@dataclass(eq=False)
class Deployment:
    """An environment that is served; `active` is the number of its release, 0 before the first.

    `declared` is what that serves, without values of variables.
    """

    place: AppEnv
    gateway: Gateway
    tree: AppTree
    active: int = 0
    declared: Catalog = field(default_factory=lambda: Catalog(""))

    def roots(self) -> set[str]:
        """The folders that its workers have their code from."""
        workers = (each for pool in self.gateway.pools() for each in pool.workers.values())
        return {each.order.spec.entry.root for each in workers if each.order is not None}

    def locks(self) -> dict[str, str]:
        """The locks of its endpoints, by their names."""
        found = {}
        for each in self.declared.endpoints:
            build = each.spec.build
            if build.lock:
                with suppress(OSError):  # (another release takes over just now)
                    place = Path(each.spec.entry.root, build.lock_file)
                    found[each.spec.name] = place.read_text(encoding="utf-8")
        return found

    def changes(self, catalog: Catalog) -> list[Discovered]:
        """The endpoints of another catalog whose workers would not be those of now."""
        pools = {pool.key: pool for pool in self.gateway.pools()}
        return [
            each
            for each in catalog.endpoints
            if (pool := pools.get(each.spec.key)) is None or pool.differs(each.spec, each.env)
        ]


class Deployments:
    """On the plane's loop. `open_gateway` makes what serves an environment; `volumes` are those
    that its endpoints may name.
    """

    def __init__(
        self,
        plane: Plane,
        open_gateway: Callable[..., Gateway],
        releases: Releases,
        folder: Path,
        blobs: Blobs,
        volumes: Volumes | None = None,
    ) -> None:
        self._volumes = volumes
        self.releases = releases
        self.rollouts = Rollouts(releases, self)
        self.blobs = blobs
        self._plane = plane
        self._open_gateway = open_gateway
        self._folder = folder
        self._deployments: dict[AppEnv, Deployment] = {}
        # By what their addresses and the ids of their endpoints begin with, and by those ids.
        self._by_text: dict[str, Deployment] = {}
        self._by_id: dict[str, tuple[Deployment, str]] = {}
        self._lines: dict[AppEnv, Lines] = {}
        # The files of what is being prepared.
        self._needed: dict[AppEnv, set[str]] = {}
        self._changing: dict[AppEnv, asyncio.Lock] = {}
        self._tasks = Tasks()
        self._preparing: dict[AppEnv, asyncio.Task[None]] = {}

    # What is served

    def __bool__(self) -> bool:
        """Whether anything is deployed: else no request needs a look here."""
        return bool(self._deployments)

    def get(self, place: AppEnv) -> Deployment | None:
        return self._deployments.get(place)

    def find(self, app: str, environment: str, name: str) -> Discovered | None:
        """The endpoint that is deployed under these names."""
        found = self._deployments.get(AppEnv(app, environment))
        return None if found is None else found.gateway.named(name)

    def at(self, text: str) -> Deployment | None:
        """The one that is served at that place's text."""
        return self._by_text.get(text)

    def place_of(self, app: str) -> AppEnv | None:
        """The environment that an app of the plane is, if it is deployed."""
        found = self._by_text.get(app)
        return None if found is None else found.place

    def at_id(self, endpoint_id: str) -> tuple[Deployment, str] | None:
        """Where an endpoint of that id is served, and under which name."""
        return self._by_id.get(endpoint_id)

    def ids(self) -> dict[str, str]:
        """The ids of all endpoints, with their names."""
        return {endpoint_id: name for endpoint_id, (_, name) in self._by_id.items()}

    def all(self) -> list[Deployment]:
        """Those in which something is served."""
        return [each for each in self._deployments.values() if each.active]

    def volumes(self, place: AppEnv) -> list[Volume]:
        """Those that its endpoints have."""
        found, deployment = self._volumes, self._deployments.get(place)
        if found is None or deployment is None:
            return []
        endpoints = deployment.declared.endpoints
        mounts = (mount for each in endpoints for mount in each.spec.placement.volumes)
        known = dict.fromkeys(map(found.named, mounts))
        return [volume for volume in known if volume is not None]

    async def restore(self) -> None:
        """Serve what an earlier server has served."""
        await self.releases.recover()
        self.blobs.pinned = await self.releases.digests()
        for place in await self.releases.environments():
            for release in await self.releases.of(place):
                if release.state == "active":
                    content = await self.releases.content(release)
                    variables = await self.releases.variables(place)
                    deployment = self._opened(place)
                    try:
                        declared = await self._laid_out(deployment, content)
                    except OSError as error:
                        text = "%s is not served, for its files are not here: %s; deploy it again"
                        logging.getLogger(__name__).error(text, place, error)
                        continue
                    catalog = _with_values(declared, variables)
                    self._serve(deployment, release, declared, catalog)

    async def close(self) -> None:
        """Prepare nothing more."""
        await self._tasks.close()

    # Releases

    def lines(self, place: AppEnv) -> Lines | None:
        """What is written while a release of the environment is prepared."""
        return self._lines.get(place)

    def preparing(self, place: AppEnv) -> bool:
        """Whether a release of the environment is being prepared."""
        return place in self._lines

    async def settled(self, place: AppEnv) -> None:
        """Wait until none is."""
        while (task := self._preparing.get(place)) is not None:
            await asyncio.wait([task])

    async def pinned(self, content: Content) -> Content:
        """The same, with the digests of those images that the engine has here."""
        return await pinned(self._plane.engine, content, {})

    def prepare(self, release: Release, content: Content, variables: Variables) -> None:
        """Start its workers and have it take over; goes on without its client.

        `variables` are values that it brings.
        """
        place = release.place
        lines = self._lines[place] = Lines(str(place), self._plane.events)
        needed = self._needed[place] = {file.digest for file in content.files}
        self.blobs.pinned |= needed
        task = self._tasks.spawn(self._prepare(release, content, variables, lines, needed))
        self._preparing[place] = task
        task.add_done_callback(lambda _: _drop(self._preparing, place, task))

    def refresh(self, place: AppEnv) -> None:
        """Replace workers that have another value of a variable than it has now, one by one."""
        self._tasks.spawn(self._refresh(place))

    def _changes(self, place: AppEnv) -> asyncio.Lock:
        """Held while an environment comes to have other workers."""
        return self._changing.setdefault(place, asyncio.Lock())

    async def _refresh(self, place: AppEnv) -> None:
        async with self._changes(place):
            deployment = self._deployments.get(place)
            if deployment is None:
                return
            variables = await self.releases.variables(place)
            catalog = _with_values(deployment.declared, variables)
            for pool in deployment.gateway.serve(catalog, {}, rolling=True):
                try:
                    await self._plane.roll(pool)
                except FlashError as error:  # those that are there go on
                    self._plane.events.publish(Notice(pool.spec.name, str(error), str(place)))

    async def remove(self, place: AppEnv) -> None:
        """End an environment: its jobs, its workers, its releases."""
        async with self._changes(place):
            await self.releases.remove(place)
            deployment = self._deployments.pop(place, None)
            self._by_text.pop(str(place), None)
            if deployment is not None:
                self._index()
                await deployment.gateway.close(str(place))
                await asyncio.to_thread(deployment.tree.remove)
        await self._sweep()

    async def _sweep(self) -> None:
        """Files that no release has any more are kept as others are: while there is room."""
        kept = await self.releases.digests()
        self.blobs.pinned = kept.union(*self._needed.values())
        await asyncio.to_thread(self.blobs.sweep)

    async def _prepare(
        self,
        release: Release,
        content: Content,
        variables: Variables,
        lines: Lines,
        needed: set[str],
    ) -> None:
        try:
            async with self._changes(release.place):
                deployment = self._opened(release.place)
                await self._take_over(deployment, release, content, variables)
        except FlashError as error:
            await self.releases.fail(release, str(error))
        except Exception as error:
            await self.releases.fail(release, f"{type(error).__name__}: {error}")
            if not isinstance(error, OSError | ValueError):
                raise
        finally:
            lines.close()
            _drop(self._lines, release.place, lines)
            _drop(self._needed, release.place, needed)
            await self._sweep()

    async def _take_over(
        self, deployment: Deployment, release: Release, content: Content, variables: Variables
    ) -> None:
        known = await self.releases.variables(release.place)
        merged = {**known, **{n: {**known.get(n, {}), **v} for n, v in variables.items()}}
        found = await pinned(self._plane.engine, content, merged, self._teller(release.place))
        if found != content:
            await self.releases.pin(release, found)
        declared = await self._laid_out(deployment, found)
        catalog = _with_values(declared, merged)
        if self._volumes is not None:
            endpoints = catalog.endpoints
            await self._volumes.ensure(m for e in endpoints for m in e.spec.placement.volumes)
        staged = await self._staged(deployment.changes(catalog))
        try:
            await self.releases.activate(release, variables)
        except BaseException:
            await asyncio.gather(*map(self._plane.unstage, staged.values()))
            raise
        self._serve(deployment, release, declared, catalog)
        for name, pool in staged.items():
            endpoint = deployment.gateway.named(name)
            assert endpoint is not None
            self._plane.adopt(pool, deployment.gateway.pool_of(endpoint))
        with suppress(OSError):  # (it is served, whatever becomes of what was before)
            await asyncio.to_thread(deployment.tree.forget, deployment.roots())

    def _teller(self, place: AppEnv) -> Callable[[str, str], None]:
        """Says something of an endpoint to whoever deploys it."""
        return lambda name, text: self._plane.events.publish(Notice(name, text, str(place)))

    def _serving(self, endpoint: Discovered) -> int:
        """How many workers are to take over: as many as serve the endpoint now, or a first one."""
        pool = self._plane.find(endpoint.spec.key)
        now = 0 if pool is None else sum(not worker.attached for worker in pool.live())
        return max(1, min(now, endpoint.spec.scaling.workers_max))

    async def _staged(self, endpoints: list[Discovered]) -> dict[str, Pool]:
        """Workers of each, or none at all: then it raises why."""
        room = asyncio.Semaphore(_TOGETHER)
        staged: dict[str, Pool] = {}

        async def stage(each: Discovered) -> None:
            count = self._serving(each)
            async with room:
                staged[each.spec.name] = await self._plane.stage(each.spec, each.env, {}, count)

        wanted = [each for each in endpoints if each.spec.scaling.workers_max > 0]
        tasks = [asyncio.ensure_future(stage(each)) for each in wanted]
        try:
            await asyncio.gather(*tasks)
        except BaseException:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await asyncio.gather(*map(self._plane.unstage, staged.values()))
            raise
        return staged

    def _opened(self, place: AppEnv) -> Deployment:
        if place not in self._deployments:
            folder = self._folder / f"deployed-{sha256(str(place).encode()).hexdigest()[:24]}"
            gateway = self._open_gateway(deployed_as=place, prefix=f"{place}-")
            made = Deployment(place, gateway, AppTree(folder, self.blobs))
            self._deployments[place] = self._by_text[str(place)] = made
        return self._deployments[place]

    async def _laid_out(self, deployment: Deployment, content: Content) -> Catalog:
        """What is to be served, with its files on the disk."""
        root = await asyncio.to_thread(deployment.tree.show, content.files)
        return placed(Catalog.from_wire(content.catalog), str(deployment.place), root)

    def _serve(
        self, deployment: Deployment, release: Release, declared: Catalog, catalog: Catalog
    ) -> None:
        deployment.active, deployment.declared = release.number, declared
        deployment.gateway.serve(catalog, {})
        deployment.gateway.declare_all()
        self._index()

    def _index(self) -> None:
        self._by_id = {
            f"{text}-{each.spec.name}": (found, each.spec.name)
            for text, found in self._by_text.items()
            for each in found.declared.endpoints
        }


def _drop(known: dict[AppEnv, T], place: AppEnv, own: T) -> None:
    """Take a release's entry out; the next one may have begun, and has one of its own."""
    if known.get(place) is own:
        del known[place]


def _with_values(catalog: Catalog, variables: Variables) -> Catalog:
    """The catalog with the present values of what it declares, and with those of secrets."""
    secrets = variables.get("", {})

    def filled(each: Discovered) -> Discovered:
        known = variables.get(each.spec.name, {})
        own = {name: known.get(name, value) for name, value in each.env.items()}
        return replace(each, env={**own, **secrets})

    return replace(catalog, endpoints=tuple(map(filled, catalog.endpoints)))
