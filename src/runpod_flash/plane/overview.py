"""What there is now: endpoints, workers, devices, and who waits for what. For all who show it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from runpod_flash.plane.pool import WorkerState
from runpod_flash.plane.store.memory import now

if TYPE_CHECKING:
    from collections.abc import Sequence

    from runpod_flash.engines.base import Device, Engine
    from runpod_flash.plane.plane import Plane
    from runpod_flash.plane.pool import Pool, Worker
    from runpod_flash.spec import EndpointSpec

# The states of a worker, as they are counted. "draining" ones end once they have nothing to do.
STATES = ("initializing", "idle", "running", "draining")


@dataclass(frozen=True)
class WorkerView:
    """A worker. `age` counts from its order, `uptime` from its process (None: not yet), in seconds.

    `stale` says that it runs an earlier version of its endpoint. `memory` is in bytes.
    """

    id: str
    state: str
    node: str
    age: float
    uptime: float | None
    devices: tuple[str, ...]
    jobs: tuple[str, ...]
    requests: int
    memory: int
    gpu_seconds: float
    stale: bool


@dataclass(frozen=True)
class EndpointView:
    """An endpoint of an app: `queued` and `running` jobs; `requests` of routes, waiting ones too.

    `oldest` is how long the first in line has waited, in seconds. `waits_for` says what it lacks,
    `held_by` which workers have that.
    """

    name: str
    app: str
    kind: str
    low: int
    high: int
    queued: int = 0
    running: int = 0
    requests: int = 0
    oldest: float | None = None
    waits_for: str = ""
    held_by: tuple[str, ...] = ()
    workers: tuple[WorkerView, ...] = ()

    def count(self, state: str) -> int:
        """How many workers are in that state."""
        return sum(worker.state == state for worker in self.workers)


@dataclass(frozen=True)
class Overview:
    """Everything at one moment."""

    endpoints: tuple[EndpointView, ...]
    devices: tuple[Device, ...]

    def endpoint(self, name: str, app: str | None = None) -> EndpointView | None:
        """The endpoint of that name: of the app, where one is given."""
        found = (each for each in self.endpoints if each.name == name)
        return next((each for each in found if app in (None, each.app)), None)

    def deployed(self, endpoint_id: str) -> EndpointView | None:
        """The endpoint of that id, which begins with what it belongs to."""
        named = (each for each in self.endpoints if each.app)
        return next((each for each in named if f"{each.app}-{each.name}" == endpoint_id), None)


def overview(plane: Plane, declared: Sequence[EndpointSpec] = ()) -> Overview:
    """What the plane has; `declared` endpoints that nobody has used yet are there as well.

    On the plane's loop. Devices and memory are read from the system, in a millisecond or so.
    """
    shown = (pool for pool in plane.pools() if not pool.staged)
    pools = {pool.key: pool for pool in shown if not pool.withdrawn or pool.workers}
    unused = [_unused(spec) for spec in declared if spec.key not in pools]
    used = [endpoint_view(plane, pool) for pool in pools.values()]
    endpoints = sorted([*used, *unused], key=lambda each: each.name)
    return Overview(tuple(endpoints), tuple(plane.engine.devices()))


def endpoint_view(plane: Plane, pool: Pool) -> EndpointView:
    """One endpoint."""
    counts, scaling = now(plane.store.counts(pool.key)), pool.spec.scaling
    clock, workers = plane.clock(), list(pool.workers.values())
    queued_at = [at for at in (counts.oldest_queued_at, *_waiting_since(pool)) if at is not None]
    return EndpointView(
        name=pool.spec.name,
        app=pool.spec.app,
        kind=kind_of(pool.spec),
        low=scaling.workers_min,
        high=scaling.workers_max,
        queued=counts.queued,
        running=counts.running,
        requests=len(pool.waiting) + sum(len(worker.exchanges) for worker in workers),
        oldest=max(clock - min(queued_at), 0.0) if queued_at else None,
        waits_for=pool.waits_for,
        held_by=pool.held_by,
        workers=tuple(_worker_view(worker, clock, plane.engine) for worker in workers),
    )


def _waiting_since(pool: Pool) -> list[float]:
    return [since for since, _ in list(pool.waiting)[:1]]


def kind_of(spec: EndpointSpec) -> str:
    """What the endpoint has: a queue, or routes."""
    return "routes" if spec.entry.kind == "routes" else "queue"


def _unused(spec: EndpointSpec) -> EndpointView:
    scaling = spec.scaling
    bounds = (scaling.workers_min, scaling.workers_max)
    return EndpointView(spec.name, spec.app, kind_of(spec), *bounds)


def _worker_view(worker: Worker, clock: float, engine: Engine) -> WorkerView:
    return WorkerView(
        id=worker.id,
        state=_state(worker),
        node=worker.node,
        age=clock - worker.ordered_at,
        uptime=None if worker.started_at is None else clock - worker.started_at,
        devices=worker.devices,
        jobs=tuple(worker.jobs),
        requests=len(worker.exchanges),
        memory=engine.memory(worker.id),
        gpu_seconds=worker.gpu_seconds(clock),
        stale=worker.stale,
    )


def _state(worker: Worker) -> str:
    if worker.state is WorkerState.STARTING:
        return "initializing"
    if worker.state is WorkerState.DRAINING:
        return "draining"
    return "running" if worker.busy else "idle"
