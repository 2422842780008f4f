"""Jobs inside a store, and the lines in which they wait."""

from __future__ import annotations

from collections import deque
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from runpod_flash.plane.store.base import Job, JobState, Tally

if TYPE_CHECKING:
    from collections.abc import Iterator

    from runpod_flash.plane.store.base import Chunk, NewJob, Outcome
    from runpod_flash.wire.codec import Payload


@dataclass(slots=True, eq=False)
class Row:
    """A job inside the store. `key` is its own, and grows with each; `number` is its place in the
    queue, `depth` how deeply nested it is.

    `told` says that the webhook knows of its end. `mark` is the store's own: when it last wrote the
    row.
    """

    new: NewJob
    key: int
    number: int
    depth: int
    created_at: float
    state: JobState = JobState.IN_QUEUE
    attempt: int = 0
    deaths: int = 0
    started_at: float | None = None
    finished_at: float | None = None
    outcome: Outcome | None = None
    owner: str = ""
    leased_until: float = 0.0
    worker: str = ""
    progress: Payload | None = None
    stream: list[Chunk] | None = None
    told: bool = False
    mark: int = 0

    @property
    def streamed(self) -> int:
        return len(self.stream) if self.stream else 0

    @property
    def owing(self) -> bool:
        """Whether the job has ended and its webhook is still to be told."""
        return bool(self.new.webhook) and self.state.final and not self.told

    @property
    def tally(self) -> Tally:
        """What the row shows of what has been."""
        failed = self.state in (JobState.FAILED, JobState.TIMED_OUT)
        return Tally(self.state is JobState.COMPLETED, failed, max(self.attempt - 1, 0))

    def job(self) -> Job:
        new = self.new
        return Job(
            new.id, new.endpoint, new.call, new.policy, new.parent, new.credits, self.state,
            self.attempt, self.deaths, self.streamed, self.created_at, self.started_at,
            self.finished_at, self.outcome, new.webhook, new.extras, self.worker, self.progress,
        )  # fmt: skip


@dataclass(slots=True, eq=False)
class Queue:
    """One endpoint's waiting jobs (ended ones are skipped lazily), owner and running jobs.

    `levels` holds the waiting ones by depth: 0 for those that clients submitted, 1 for those that
    these submitted, and so on.
    """

    levels: dict[int, deque[Row]] = field(default_factory=dict)
    queued: int = 0
    nested: int = 0
    patient: int = 0
    completed: int = 0
    failed: int = 0
    retried: int = 0
    running: dict[str, Row] = field(default_factory=dict)
    owner: str = ""
    epoch: int = 0
    owned_until: float = 0.0

    def heads(self) -> Iterator[Row]:
        """The first waiting job of each level, the deepest first."""
        if not self.queued:
            self.levels.clear()
        for depth in sorted(self.levels, reverse=True):
            level = self.levels[depth]
            while level and level[0].state is not JobState.IN_QUEUE:
                level.popleft()
            if level:
                yield level[0]
            else:
                del self.levels[depth]

    def put(self, row: Row) -> None:
        """Line the job up by its number: one that comes back takes its old place."""
        level = self.levels.setdefault(row.depth, deque())
        if not level or level[-1].number < row.number:
            level.append(row)
        else:
            ahead = (i for i, other in enumerate(level) if other.number > row.number)
            level.insert(next(ahead), row)
        self.count(row, 1)

    def take_out(self, row: Row) -> None:
        """Remove what may be left of a job that has ended while it waited."""
        with suppress(KeyError, ValueError):
            self.levels[row.depth].remove(row)

    def count(self, row: Row, by: int) -> None:
        self.queued += by
        if row.depth:
            self.nested += by
        if row.new.policy.low_priority:
            self.patient += by

    def tell(self, state: JobState) -> None:
        """Count an end."""
        if state is JobState.COMPLETED:
            self.completed += 1
        elif state is not JobState.CANCELLED:
            self.failed += 1

    @property
    def tally(self) -> Tally:
        """What has become of its jobs."""
        return Tally(self.completed, self.failed, self.retried)

    def add(self, tally: Tally) -> None:
        """Count what was before."""
        self.completed += tally.completed
        self.failed += tally.failed
        self.retried += tally.retried
