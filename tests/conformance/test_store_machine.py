"""Random commands against a small model: no job is lost, held twice, or ended twice."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)

from runpod_flash.plane.store.base import (
    Call,
    Chunk,
    Job,
    JobState,
    Lease,
    NewJob,
    Outcome,
    Policy,
    Release,
)
from runpod_flash.testing import ManualClock
from runpod_flash.wire.codec import Payload
from runpod_flash.wire.failures import Failure

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from runpod_flash.links.base import JobRef
    from runpod_flash.plane.store.base import Store

T = TypeVar("T")

CALL = Call(Payload(b"[]"))
KILLED = Failure("runpod_flash.errors", "WorkerLostError", "it was killed")
IDS = [f"job {n}" for n in range(8)]
OWNERS = ["first", "second"]
LEASE_SECONDS = 10.0
TTL_SECONDS = 25.0


@dataclass
class Known:
    """What must be true of a job, by the commands that the store has accepted."""

    new: NewJob
    created_at: float
    state: JobState = JobState.IN_QUEUE
    attempt: int = 0
    deaths: int = 0
    chunks: int = 0
    leased_until: float = 0.0
    outcome: Outcome | None = None

    @property
    def rerunnable(self) -> bool:
        return not self.chunks or self.new.policy.restartable


@dataclass
class Model:
    clock: ManualClock
    jobs: dict[str, Known] = field(default_factory=dict)

    def holder(self, ref: JobRef) -> Known | None:
        known = self.jobs.get(ref.job_id)
        held = known is not None and known.state is JobState.IN_PROGRESS
        return known if held and known is not None and known.attempt == ref.attempt else None

    def started(self, job: Job) -> None:
        known = self.jobs[job.id]
        assert known.state is JobState.IN_QUEUE, "a job was handed out twice"
        known.state, known.attempt = JobState.IN_PROGRESS, known.attempt + 1
        known.leased_until = self.clock() + LEASE_SECONDS
        assert job.attempt == known.attempt

    def ended(self, known: Known, outcome: Outcome) -> None:
        assert not known.state.final, "a job ended twice"
        known.state, known.outcome = outcome.state, outcome

    def lapse(self) -> set[str]:
        changed = set()
        for id_, known in self.jobs.items():
            if known.state is JobState.IN_PROGRESS and known.leased_until <= self.clock():
                once = known.new.policy.max_attempts == 1
                rerun = known.rerunnable and not once
                known.state = JobState.IN_QUEUE if rerun else JobState.FAILED
                changed.add(id_)
            ttl = known.new.policy.ttl_ms
            if ttl and not known.state.final and self.clock() >= known.created_at + ttl / 1000:
                known.state = JobState.TIMED_OUT
                changed.add(id_)
        return changed


class StoreMachine(RuleBasedStateMachine):
    make_store: Callable[[ManualClock], Store]
    refs = Bundle("refs")

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()  # (one for each command would be most of the time)
        self.clock = ManualClock()
        self.store = self.make_store(self.clock)
        self.model = Model(self.clock)
        self.leases: dict[str, Lease] = {}

    def do(self, work: Coroutine[Any, Any, T]) -> T:
        return self.loop.run_until_complete(work)

    def teardown(self) -> None:
        self.loop.close()

    @initialize()
    def take_the_endpoint(self) -> None:
        self.own("first")

    @rule(owner=st.sampled_from(OWNERS))
    def own(self, owner: str) -> None:
        epoch = self.do(self.store.own("e", owner, LEASE_SECONDS))
        if epoch is not None:
            self.leases[owner] = Lease(owner, epoch, LEASE_SECONDS)
            self.owner = owner

    @rule(
        id_=st.sampled_from(IDS),
        attempts=st.integers(1, 3),
        restartable=st.booleans(),
        mortal=st.booleans(),
        parent=st.sampled_from(["", *IDS]),
    )
    def submit(self, id_: str, attempts: int, restartable: bool, mortal: bool, parent: str) -> None:
        ttl_ms = int(TTL_SECONDS * 1000) if mortal else 0
        new = NewJob(id_, "e", CALL, Policy(attempts, restartable, 0, ttl_ms), parent)
        ((job, is_new),) = self.do(self.store.submit([new]))
        assert is_new == (id_ not in self.model.jobs)
        if is_new:
            self.model.jobs[id_] = Known(new, self.clock())
        assert job.state is self.model.jobs[id_].state

    @rule(target=refs, owner=st.sampled_from(OWNERS), limit=st.integers(1, 3))
    def claim(self, owner: str, limit: int) -> Any:
        if owner not in self.leases:
            return None
        waiting = [job.id for job in self.do(self.store.waiting("e"))]
        claimed = self.do(self.store.claim("e", limit, self.leases[owner]))
        if owner == self.owner:
            assert [job.id for job in claimed] == waiting[:limit]
        else:
            assert not claimed, "a plane that has lost its endpoint claimed a job"
        for job in claimed:
            self.model.started(job)
        return claimed[0].ref if claimed else None

    @rule(ref=refs)
    def renew(self, ref: JobRef | None) -> None:
        if ref is None:
            return
        known = self.model.holder(ref)
        held = self.do(self.store.renew([ref], self.leases["first"]))
        assert held == ([] if known is None else [ref])
        if known is not None:
            known.leased_until = self.clock() + LEASE_SECONDS

    @rule(ref=refs, value=st.integers())
    def finish(self, ref: JobRef | None, value: int) -> None:
        if ref is None:
            return
        known = self.model.holder(ref)
        outcome = Outcome(JobState.COMPLETED, Payload(str(value).encode()))
        ended = self.do(self.store.finish(ref, outcome))
        assert (ended is not None) == (known is not None)
        if known is not None:
            self.model.ended(known, outcome)

    @rule(ref=refs, lost=st.booleans())
    def release(self, ref: JobRef | None, lost: bool) -> None:
        if ref is None:
            return
        known = self.model.holder(ref)
        changed = self.do(self.store.release([Release(ref, KILLED if lost else None)]))
        assert len(changed) == (known is not None)
        if known is not None:
            known.deaths += lost
            used_up = lost and known.deaths >= known.new.policy.max_attempts
            rerun = known.rerunnable and not used_up
            known.state = JobState.IN_QUEUE if rerun else JobState.FAILED

    @rule(ref=refs, index=st.integers(0, 3))
    def append(self, ref: JobRef | None, index: int) -> None:
        if ref is None:
            return
        known = self.model.holder(ref)
        taken = self.do(self.store.append(ref, Chunk(index, Payload(b"1"))))
        assert taken == (known is not None and index == known.chunks)
        if known is not None and taken:
            known.chunks += 1

    @rule(id_=st.sampled_from(IDS))
    def cancel(self, id_: str) -> None:
        known = self.model.jobs.get(id_)
        outcome = Outcome(JobState.CANCELLED, failure=KILLED)
        ended = self.do(self.store.end(id_, outcome))
        assert (ended is not None) == (known is not None and not known.state.final)
        if known is not None and ended is not None:
            self.model.ended(known, outcome)

    @rule(seconds=st.sampled_from([1.0, 6.0, 11.0]))
    def time_passes(self, seconds: float) -> None:
        self.clock.advance(seconds)

    @rule()
    def expire(self) -> None:
        changed = self.do(self.store.expire())
        assert sorted(job.id for job in changed) == sorted(self.model.lapse())

    @rule(id_=st.sampled_from(IDS))
    def forget(self, id_: str) -> None:
        self.do(self.store.forget([id_]))
        known = self.model.jobs.get(id_)
        if known is not None and known.state.final:
            del self.model.jobs[id_]

    @rule(target=refs, ref=refs)
    def keep_a_late_ref(self, ref: JobRef | None) -> Any:
        # After `forget` the same id starts again at attempt 1: such a reference tells nothing.
        return ref if ref is not None and ref.job_id in self.model.jobs else None

    @invariant()
    def every_job_is_as_the_model_has_it(self) -> None:
        for id_ in IDS:
            job, known = self.do(self.store.get(id_)), self.model.jobs.get(id_)
            assert (job is None) == (known is None), "a job was lost"
            if job is None or known is None:
                continue
            assert (job.state, job.attempt, job.deaths, job.chunks) == (
                known.state,
                known.attempt,
                known.deaths,
                known.chunks,
            )
            assert known.outcome is None or job.outcome == known.outcome

    @invariant()
    def counts_and_waiting_agree_with_the_jobs(self) -> None:
        counts, waiting = self.do(self.store.counts("e")), self.do(self.store.waiting("e"))
        known = self.model.jobs.values()
        queued = [k for k in known if k.state is JobState.IN_QUEUE]
        assert counts.queued == len(queued) == len({job.id for job in waiting})
        assert counts.running == sum(k.state is JobState.IN_PROGRESS for k in known)
        assert counts.nested == sum(bool(k.new.parent) for k in queued)
        assert counts.oldest_queued_at == min((k.created_at for k in queued), default=None)


@pytest.mark.parametrize("examples", [60, pytest.param(300, marks=pytest.mark.slow)])
def test_no_sequence_of_commands_loses_a_job_or_ends_it_twice(
    make_store: Callable[[ManualClock], Store], examples: int
) -> None:
    machine = type("Machine", (StoreMachine,), {"make_store": staticmethod(make_store)})
    run_state_machine_as_test(
        machine, settings=settings(max_examples=examples, stateful_step_count=40, deadline=None)
    )
