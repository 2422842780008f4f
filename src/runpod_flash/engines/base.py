"""What the plane asks of a place where workers live, and what it hears back."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from runpod_flash.links.base import WorkerLink
    from runpod_flash.spec import EndpointSpec


@dataclass(frozen=True)
class StartOrder:
    """One worker to start: `spec` and `env` of its endpoint, the id it will carry.

    `near` lists the workers whose jobs wait, directly or through others, for the job that this
    worker is started for: where no device is free, theirs may be shared. `identity` are the
    variables by which its server knows it. `caller_env` is what its modules may read while they are
    imported; None where that is not known yet. `pool` tells the workers of an endpoint that are
    served from those that are staged to take their place.
    """

    worker_id: str
    spec: EndpointSpec
    env: Mapping[str, str]
    near: tuple[str, ...] = ()
    identity: Mapping[str, str] = field(default_factory=dict)
    caller_env: Mapping[str, str] | None = None
    pool: str = ""


@dataclass(frozen=True)
class Device:
    """A GPU of a node, with its memory in bytes and who has it: workers by id, others by a phrase.

    `used` is the memory that is taken now, by whomever.
    """

    node: str
    index: int
    name: str
    memory: int
    used: int
    holders: tuple[str, ...] = ()


@dataclass(frozen=True)
class Platform:
    """What packages have to fit: the `python` of endpoints that declare none ("3.12"), the system
    in uv's words, and the highest CUDA version that all GPUs' drivers run (None without a GPU).

    `wheels` are the names of files that are at hand here, so that nobody needs to bring them.
    """

    python: str
    system: str
    cuda: str | None = None
    wheels: tuple[str, ...] = ()


@dataclass(frozen=True)
class WorkerExit:
    """How a worker ended: `reason` is a phrase ("exited with code 1"), `output` its last lines."""

    worker_id: str
    reason: str
    output: str = ""


@dataclass(frozen=True)
class Refusal:
    """Why a worker cannot be started now: `reason` completes "waits for …"; `holders` are workers.

    `permanent` refusals fail the waiting jobs; the others are tried again when a worker stops.
    """

    reason: str
    holders: tuple[str, ...] = ()
    permanent: bool = False


class CapacityError(Exception):
    """Raised by `Engine.start` when the place cannot take the worker; carries a `Refusal`."""

    def __init__(self, refusal: Refusal) -> None:
        super().__init__(refusal.reason)
        self.refusal = refusal


class WorkerHandle(Protocol):
    """A started worker. `node` names the machine; no process id leaves the engine."""

    @property
    def worker_id(self) -> str: ...

    @property
    def node(self) -> str: ...

    @property
    def devices(self) -> tuple[str, ...]:
        """The names of the GPUs that it has."""

    @property
    def link(self) -> WorkerLink: ...


class EngineEvents(Protocol):
    """What an engine tells the plane, always on the plane's own loop."""

    def worker_exited(self, exit: WorkerExit) -> None:
        """The worker and everything it started are gone, and its devices are free."""

    def worker_output(self, worker_id: str, text: str) -> None:
        """A line that the worker's process wrote to its standard output or error by itself."""

    def notice(self, endpoint: str, text: str) -> None:
        """One line for the user: a build's progress, a limit that holds, a fallback."""


class Engine(Protocol):
    """A place where workers live. It never sees jobs."""

    async def start(self, order: StartOrder, events: EngineEvents) -> WorkerHandle:
        """Start one worker and return when its process exists.

        Raises `CapacityError`, `EnvironmentBuildError` or `WorkerStartError`.
        """

    async def prepare(self, order: StartOrder, events: EngineEvents) -> None:
        """Have ready what such a worker starts from, and start none; returns when it is there.

        A start meanwhile waits for no more than it needs. Raises as `start`.
        """

    async def stop(self, worker_id: str) -> None:
        """End a worker and everything it started; its exit is reported as an event."""

    def limit(self, spec: EndpointSpec) -> tuple[int, str]:
        """How many workers of the endpoint fit here at most, and which limit says so."""

    def advice(self, worker_id: str) -> str:
        """What may explain an exception in this worker (it asked for a device that is not here)."""

    def devices(self) -> Sequence[Device]:
        """The GPUs of all nodes, whoever has them."""

    def platform(self) -> Platform:
        """What the packages of workers have to fit."""

    async def pin(
        self, spec: EndpointSpec, env: Mapping[str, str], report: Callable[[str], None] | None
    ) -> str:
        """The content that the image of an endpoint has now, as `Container.digest` has it.

        An image that is not here is pulled, and `report` told how far that is; without it, only
        what is here is looked at, and the answer may be empty. Raises `WorkerStartError` where the
        image cannot be had.
        """

    def memory(self, worker_id: str) -> int:
        """Bytes of main memory that a worker has now; 0 where that is not known."""

    def forget_endpoint(self, key: str) -> None:
        """Drop what is kept for an endpoint that is not served any more, and has no workers."""

    async def forget_app(self, app: str) -> None:
        """Remove what is kept here for an app that has ended, with all of its workers."""

    async def close(self) -> None:
        """End every worker and release what the engine holds."""

    def close_in_child(self) -> None:
        """Let go of everything in a forked copy of this process; the workers are the parent's."""
