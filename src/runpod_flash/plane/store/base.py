"""The store: what a plane may not forget, and the commands that change it.

Every command is atomic and safe to repeat. A job is accepted when `submit` has returned. It runs
at least once, and its final state is written exactly once: later writes are refused. Claims are
leases; `attempt` grows with each claim and is the fence by which the answer of an earlier holder is
told from that of the present one.

(The values are named tuples: a warm call makes several, and frozen dataclasses take five times as
long to make.)
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Literal, NamedTuple, Protocol

from runpod_flash.errors import JobTimeoutError, WorkerLostError
from runpod_flash.links.base import JobRef
from runpod_flash.wire.failures import capture

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence

    from runpod_flash.errors import StoreFullError
    from runpod_flash.spec import Placement
    from runpod_flash.wire.codec import Payload
    from runpod_flash.wire.failures import Failure

CallForm = Literal["call", "input"]
_LONGEST_NAME = 1000


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


class Call(NamedTuple):
    """What to run. `form` tells how `payload` maps to parameters.

    A `call` payload is `{"args": [...], "kwargs": {...}}`; an `input` payload is the JSON input of
    the queue API. For a class, `method` names what is called and `constructor` holds its arguments.
    """

    payload: Payload
    form: CallForm = "call"
    method: str = ""
    constructor: Payload | None = None


class Policy(NamedTuple):
    """How often a job may be tried, and how long it may take (milliseconds, 0 for no limit).

    `ttl_ms` counts from the submission, waiting included. A job of `low_priority` does not make the
    endpoint grow. The ended job is kept for `retention_ms` (0: as long as the plane keeps any).
    """

    max_attempts: int = 2
    restartable: bool = False
    execution_timeout_ms: int = 0
    ttl_ms: int = 0
    low_priority: bool = False
    retention_ms: int = 0

    @classmethod
    def of(cls, placement: Placement) -> Policy:
        """What an endpoint says for all of its jobs."""
        return cls(placement.max_attempts, placement.restartable, placement.execution_timeout_ms)


class NewJob(NamedTuple):
    """A job to accept. Submitting the same `id` again gives the job that is there.

    `parent` is the job whose code submitted this one. `credits` is how many stream chunks its
    consumer takes before it grants more; 0 for no bound. `webhook` is told of the job's end;
    `extras` are other fields of the request, as the text of a JSON object. Whoever submits one that
    is not `kept` is told of its end, and nobody asks for the job after that: one of that id is new.
    """

    id: str
    endpoint: str
    call: Call
    policy: Policy = Policy()
    parent: str = ""
    credits: int = 0
    webhook: str = ""
    extras: str = ""
    kept: bool = True

    def check(self) -> None:
        """Raise `ValueError` where another program has put it together wrongly."""
        names = (self.id, self.call.method, self.parent)
        if not all(isinstance(name, str) and len(name) <= _LONGEST_NAME for name in names):
            raise ValueError("an id or a method that is no name")
        if self.call.form not in ("call", "input"):
            raise ValueError(f"the form {self.call.form!r:.80} of its arguments is not known")
        if type(self.credits) is not int or self.credits < 0:
            raise ValueError(f"credits of {self.credits!r:.80}")

    @property
    def nbytes(self) -> int:
        """Size of what it carries."""
        payload, constructor = self.call.payload, self.call.constructor
        more = 0 if constructor is None else constructor.nbytes
        return payload.nbytes + more + len(self.extras)


class Outcome(NamedTuple):
    """How a job ended: a final state with the result's `payload`, or the `failure`."""

    state: JobState
    payload: Payload | None = None
    failure: Failure | None = None


class Job(NamedTuple):
    """A job as stored. Times are the store's clock, in seconds; `deaths` counts lost workers.

    `worker` is the one that has it, or had it last. `progress` is what it has said of itself.
    """

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
    webhook: str = ""
    extras: str = ""
    worker: str = ""
    progress: Payload | None = None

    @property
    def ref(self) -> JobRef:
        return JobRef(self.id, self.attempt)


class Lease(NamedTuple):
    """Who holds claimed jobs, under which fence, and for how many seconds.

    `epoch` is what `own` returned: a plane that has lost its endpoint claims nothing more.
    """

    owner: str
    epoch: int
    seconds: float


class Release(NamedTuple):
    """A claim given back without an outcome.

    `lost` says that the job's worker died by itself: that counts against `max_attempts`, and
    `failure` is what the job fails with once they are used up. Draining does not count.
    """

    ref: JobRef
    lost: Failure | None = None


@dataclass(frozen=True)
class Chunk:
    """One value of a stream; `index` counts from 0 over all attempts."""

    index: int
    payload: Payload


class Accepted(NamedTuple):
    """A submitted job; `new` is false where a job of that id was there already."""

    job: Job
    new: bool


class Tally(NamedTuple):
    """What has become of an endpoint's jobs since the store began.

    `failed` counts those that timed out as well, `retried` how often one was begun anew.
    """

    completed: int = 0
    failed: int = 0
    retried: int = 0

    def plus(self, other: Tally) -> Tally:
        """Both together."""
        return Tally(*(mine + theirs for mine, theirs in zip(self, other, strict=True)))


class Counts(NamedTuple):
    """An endpoint's queue: how many wait and run, and the clock at which the oldest was queued.

    `nested` is how many of those that wait were submitted by other jobs, `patient` how many are of
    low priority.
    """

    queued: int = 0
    running: int = 0
    oldest_queued_at: float | None = None
    nested: int = 0
    patient: int = 0


class Change(NamedTuple):
    """One entry of the store's stream: a job took `state`, or has `chunks` chunks by now."""

    cursor: int
    job_id: str
    endpoint: str
    state: JobState
    chunks: int = 0


class CursorLostError(LookupError):
    """Changes after the cursor are no longer kept: look at the jobs themselves, then watch anew."""


def not_rerun(job_id: str, why: str) -> Outcome:
    """The end of a job whose holder is gone and that may not be run a second time."""
    text = f"job {job_id} lost its worker and is not run again: {why}"
    return Outcome(JobState.FAILED, failure=capture(WorkerLostError(text), origin="system"))


def outlived(job_id: str, ttl_ms: int) -> Outcome:
    text = f"job {job_id} had not ended within its ttl of {ttl_ms} ms"
    return Outcome(JobState.TIMED_OUT, failure=capture(JobTimeoutError(text), origin="system"))


class Store(Protocol):
    """The commands. `immediate` stores never suspend, so any thread may call them (see `now`).

    (But for `durable` and `close`, which wait for a disk.) `claim` and `get` give jobs whole; what
    other commands give may lack the values of the call, and those of earlier outcomes.
    """

    immediate: bool

    async def own(self, endpoint: str, owner: str, seconds: float) -> int | None:
        """Take or keep the endpoint; its epoch, or None while another owner's lease lasts."""

    async def submit(
        self, jobs: Sequence[NewJob], claim: Lease | None = None, worker: str = ""
    ) -> Sequence[Accepted]:
        """Accept jobs. With `claim`, a new one with none waiting before it is claimed at once.

        Raises `StoreFullError` where there is no room for more; then none is accepted.
        """

    async def claim(
        self, endpoint: str, limit: int, lease: Lease, worker: str = ""
    ) -> Sequence[Job]:
        """Take up to `limit` waiting jobs for a worker: the deepest nested first, then the oldest.

        Whoever waits for a nested job holds a worker meanwhile.
        """

    async def renew(self, refs: Sequence[JobRef], lease: Lease) -> Sequence[JobRef]:
        """Prolong claims; returns those that still hold."""

    async def release(self, releases: Sequence[Release]) -> Sequence[Job]:
        """Give claims back: each job is queued again, at its old place, or has FAILED.

        It fails if its deaths have used up its attempts, or if it has delivered a chunk and is
        not restartable.
        """

    async def finish(self, ref: JobRef, outcome: Outcome) -> Job | None:
        """End a claimed job. None if the claim is no longer this one, or the job has ended."""

    async def end(self, job_id: str, outcome: Outcome) -> Job | None:
        """End a job whatever it is doing (cancel, time-out). None if it has ended already."""

    async def retry(self, job_id: str) -> Job | None:
        """Queue a job again that has FAILED or TIMED_OUT, as new. None if it has not."""

    async def note(self, ref: JobRef, progress: Payload) -> bool:
        """Keep what a claimed job says of its progress, while it runs. False as for `append`."""

    async def append(self, ref: JobRef, chunk: Chunk) -> bool:
        """Keep a stream chunk. False if the claim is not this one or the number was seen before."""

    async def chunks(self, job_id: str, start: int, limit: int = 1000) -> Sequence[Chunk]: ...

    async def expire(self) -> Sequence[Job]:
        """Queue jobs whose lease ran out, time out those past their time to live; what changed.

        A lapsed lease counts as no death, but a job that may run once only, or has delivered a
        chunk and is not restartable, is not run again: it fails.
        """

    async def get(self, job_id: str) -> Job | None: ...

    async def counts(self, endpoint: str) -> Counts: ...

    async def tally(self, endpoint: str) -> Tally: ...

    async def waiting(self, endpoint: str, limit: int = 1000) -> Sequence[Job]:
        """Jobs that wait, in the order in which `claim` will take them."""

    async def recent(self, endpoint: str, limit: int = 100) -> Sequence[Job]:
        """Jobs of any state, the youngest first."""

    async def forget(self, job_ids: Sequence[str]) -> None:
        """Drop ended jobs with their results and chunks."""

    async def retire(self, older_than: float) -> int:
        """Forget jobs that ended more than so many seconds ago; how many.

        A job whose policy has a retention of its own is kept by that.
        """

    async def owed(self) -> Sequence[str]:
        """Ended jobs whose webhook is still to be told. Until it is, they are not forgotten."""

    async def told(self, job_id: str) -> None:
        """An ended job's webhook has been told, or was given up: the job may be forgotten."""

    async def durable(self) -> None:
        """Return once a crash can take back nothing that was commanded before.

        Raises `StoreFullError` where it cannot be written.
        """

    def when_durable(self, call: Callable[[StoreFullError | None], None]) -> None:
        """Call back on the running loop, at once or when `durable` would return or raise."""

    async def close(self) -> None:
        """Write what is left, and let go of everything."""

    def watch(self, cursor: int | None = None) -> AsyncIterator[Change]:
        """Changes after `cursor` (None: from now), for gateways that do not own the endpoint.

        Raises `CursorLostError` to a watcher that has fallen behind what is kept.
        """
