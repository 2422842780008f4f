"""The store: what a plane may not forget, and the commands that change it.

Every command is atomic and safe to repeat. A job is accepted when `submit` has returned. It runs
at least once, and its final state is written exactly once: later writes are refused. Claims are
leases; `attempt` grows with each claim and is the fence by which the answer of an earlier holder is
told from that of the present one.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, Literal, Protocol

from runpod_flash.links.base import JobRef

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from runpod_flash.wire.codec import Payload
    from runpod_flash.wire.failures import Failure

CallForm = Literal["call", "input"]


class JobState(str, Enum):
    """The states of the queue API."""

    IN_QUEUE = "IN_QUEUE"
    IN_PROGRESS = "IN_PROGRESS"
    COMPLETED = "COMPLETED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"
    TIMED_OUT = "TIMED_OUT"

    @property
    def final(self) -> bool:
        return self not in (JobState.IN_QUEUE, JobState.IN_PROGRESS)


@dataclass(frozen=True, slots=True)
class Call:
    """What to run. `form` tells how `payload` maps to parameters.

    A `call` payload is `{"args": [...], "kwargs": {...}}`; an `input` payload is the JSON input of
    the queue API. For a class, `method` names what is called and `constructor` holds its arguments.
    """

    payload: Payload
    form: CallForm = "call"
    method: str = ""
    constructor: Payload | None = None


@dataclass(frozen=True, slots=True)
class Policy:
    """How often a job may be tried, and how long it may take (milliseconds, 0 for no limit)."""

    max_attempts: int = 2
    restartable: bool = False
    execution_timeout_ms: int = 0
    ttl_ms: int = 0


@dataclass(frozen=True, slots=True)
class NewJob:
    """A job to accept. Submitting the same `id` again gives the job that is there.

    `parent` is the job whose code submitted this one. `credits` is how many stream chunks its
    consumer takes before it grants more; 0 for no bound. A `transient` job is forgotten by
    `forget` as soon as its only consumer has its result.
    """

    id: str
    endpoint: str
    call: Call
    policy: Policy = Policy()
    parent: str = ""
    credits: int = 0


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a job ended: a final state with the result's `payload`, or the `failure`."""

    state: JobState
    payload: Payload | None = None
    failure: Failure | None = None


@dataclass(frozen=True, slots=True)
class Job:
    """A job as stored. Times are the store's clock, in seconds; `deaths` counts lost workers."""

    id: str
    endpoint: str
    call: Call
    policy: Policy
    parent: str
    credits: int
    state: JobState
    attempt: int
    deaths: int
    chunks: int
    created_at: float
    started_at: float | None
    finished_at: float | None
    outcome: Outcome | None

    @property
    def ref(self) -> JobRef:
        return JobRef(self.id, self.attempt)


@dataclass(frozen=True, slots=True)
class Lease:
    """Who holds claimed jobs, under which fence, and for how many seconds.

    `epoch` is what `own` returned: a plane that has lost its endpoint claims nothing more.
    """

    owner: str
    epoch: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Release:
    """A claim given back without an outcome.

    `lost` says that the job's worker died by itself: that counts against `max_attempts`, and
    `failure` is what the job fails with once they are used up. Draining does not count.
    """

    ref: JobRef
    lost: Failure | None = None


@dataclass(frozen=True, slots=True)
class Chunk:
    """One value of a stream; `index` counts from 0 over all attempts."""

    index: int
    payload: Payload


@dataclass(frozen=True, slots=True)
class Counts:
    """An endpoint's queue: how many wait and run, and the clock at which the oldest was queued."""

    queued: int = 0
    running: int = 0
    oldest_queued_at: float | None = None


@dataclass(frozen=True, slots=True)
class Change:
    """One entry of the store's stream: a job took `state`, or has `chunks` chunks by now."""

    cursor: int
    job_id: str
    endpoint: str
    state: JobState
    chunks: int = field(default=0)


class Store(Protocol):
    """The commands. `immediate` stores never suspend, so any thread may call them (see `now`)."""

    immediate: bool

    async def own(self, endpoint: str, owner: str, seconds: float) -> int | None:
        """Take or keep the endpoint; its epoch, or None while another owner's lease lasts."""

    async def submit(self, jobs: Sequence[NewJob], claim: Lease | None = None) -> Sequence[Job]:
        """Accept jobs. With `claim`, a job whose endpoint has none waiting is claimed at once."""

    async def claim(self, endpoint: str, limit: int, lease: Lease) -> Sequence[Job]:
        """Take up to `limit` waiting jobs, oldest first."""

    async def renew(self, refs: Sequence[JobRef], lease: Lease) -> Sequence[JobRef]:
        """Prolong claims; returns those that still hold."""

    async def release(self, releases: Sequence[Release]) -> Sequence[Job]:
        """Give claims back: each job is queued again, first in line, or has FAILED."""

    async def finish(self, ref: JobRef, outcome: Outcome) -> Job | None:
        """End a claimed job. None if the claim is no longer this one, or the job has ended."""

    async def end(self, job_id: str, outcome: Outcome) -> Job | None:
        """End a job whatever it is doing (cancel, time-out). None if it has ended already.

        The job comes back as it was before, so that its holder can be told.
        """

    async def append(self, ref: JobRef, chunk: Chunk) -> bool:
        """Keep a stream chunk. False if the claim is not this one or the number was seen before."""

    async def chunks(self, job_id: str, start: int, limit: int = 1000) -> Sequence[Chunk]: ...

    async def expire(self) -> Sequence[Job]:
        """Queue jobs whose lease ran out, time out those past their time to live; what changed."""

    async def get(self, job_id: str) -> Job | None: ...

    async def counts(self, endpoint: str) -> Counts: ...

    async def waiting(self, endpoint: str, limit: int = 1000) -> Sequence[Job]: ...

    async def forget(self, job_ids: Sequence[str]) -> None:
        """Drop ended jobs with their results and chunks."""

    async def retire(self, older_than: float) -> int:
        """Forget jobs that ended more than so many seconds ago; how many."""

    def watch(self, cursor: int | None = None) -> AsyncIterator[Change]:
        """Changes after `cursor` (None: from now), for gateways that do not own the endpoint."""
