"""What those share who look after the workers of one plane."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from runpod_flash.engines.base import StartOrder
from runpod_flash.plane.identities import Nobody
from runpod_flash.plane.tasks import Tasks

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from runpod_flash.engines.base import Engine, EngineEvents
    from runpod_flash.links.base import LinkEvents
    from runpod_flash.plane.dispatcher import Dispatcher
    from runpod_flash.plane.events import EventStream
    from runpod_flash.plane.identities import Identities
    from runpod_flash.plane.pool import Pool, Worker
    from runpod_flash.plane.requests import Requests
    from runpod_flash.wire.failures import Failure


@dataclass
class Surroundings:
    """The parts of the plane that they act on, all of them on its loop."""

    engine: Engine
    dispatcher: Dispatcher
    requests: Requests
    events: EventStream
    clock: Callable[[], float]
    own_env: Mapping[str, str]
    link_events: Callable[[Worker], LinkEvents]
    engine_events: Callable[[Pool], EngineEvents]
    tasks: Tasks = field(default_factory=Tasks)
    identities: Identities = field(default_factory=Nobody)

    def caller_env(self, pool: Pool) -> Mapping[str, str]:
        """What the pool's modules may read while they are imported."""
        return self.own_env if pool.caller_env is None else pool.caller_env

    def order(self, worker_id: str, pool: Pool, near: tuple[str, ...] = ()) -> StartOrder:
        """What a worker of the pool is to be started by now."""
        identity = self.identities.variables(worker_id, pool.spec, pool.env)
        caller_env = self.caller_env(pool)
        return StartOrder(worker_id, pool.spec, pool.env, near, identity, caller_env, pool.key)

    def say(self, pool: Pool, text: str) -> None:
        """Say it once of each endpoint."""
        if text not in pool.said:
            pool.said.add(text)
            self.engine_events(pool).notice(pool.spec.name, text)

    def fail_waiting(self, pool: Pool, failure: Failure) -> None:
        """Jobs and requests alike."""
        self.dispatcher.fail_waiting(pool, failure)
        self.requests.fail_waiting(pool, failure)
