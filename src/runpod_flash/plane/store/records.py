"""Jobs as bytes in a file: what they are made of, how they ended, and their streams' chunks."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, NamedTuple

from runpod_flash.plane.store.base import Call, JobState, NewJob, Outcome, Policy
from runpod_flash.wire import failures, frames
from runpod_flash.wire.codec import Payload, payload_of
from runpod_flash.wire.failures import Failure
from runpod_flash.wire.frames import FrameError

if TYPE_CHECKING:
    from runpod_flash.plane.store.base import CallForm

# SQLite keeps values below a gigabyte.
MOST_BYTES = 900_000_000
# Of the text of an exception that has more than a frame's header can carry.
_KEPT_CHARACTERS = 100_000
_DONE = frames.header_of("outcome", {})
_VALUE = frames.header_of("value", {})


def call_to_bytes(new: NewJob) -> bytes:
    """All of a new job but its id and endpoint."""
    call = new.call
    buffers = _buffers(call.payload)
    split = len(buffers)
    if call.constructor is not None:
        buffers += _buffers(call.constructor)
    if new.extras:
        buffers += (new.extras.encode(),)
    head = _Head(
        call.form, call.method, new.policy, new.parent, new.credits, new.webhook,
        bool(new.extras), split,
    )  # fmt: skip
    return _bytes(_header_of(head), buffers)


def call_from_bytes(job_id: str, endpoint: str, data: bytes) -> NewJob:
    header, buffers = frames.take_apart(data)
    head = _head_of(header)
    extras = buffers.pop().decode() if head.extras else ""
    payload = payload_of(buffers[: head.constructor])
    if payload is None:
        raise FrameError(f"the call of {job_id} has no arguments")
    call = Call(payload, head.form, head.method, payload_of(buffers[head.constructor :]))
    return NewJob(
        job_id, endpoint, call, head.policy, head.parent, head.credits, head.webhook, extras
    )


class _Head(NamedTuple):
    """What the header of a call says. Jobs of one endpoint have few, which are remembered.

    `constructor` is the number of the buffer from which on the constructor's arguments come.
    """

    form: CallForm
    method: str
    policy: Policy
    parent: str
    credits: int
    webhook: str
    extras: bool
    constructor: int


@functools.lru_cache(maxsize=1000)
def _header_of(head: _Head) -> bytes:
    return frames.header_of("call", {**head._asdict(), "policy": head.policy._asdict()})


@functools.lru_cache(maxsize=1000)
def _head_of(header: bytes) -> _Head:
    fields = frames.fields_of(header)
    return _Head(**{**fields, "policy": Policy(**fields["policy"])})


def outcome_to_bytes(outcome: Outcome) -> bytes:
    """The result or the failure; the state is in a column of its own."""
    header = _DONE
    if outcome.failure is not None:
        header = frames.header_of("outcome", {"failure": failures.to_wire(outcome.failure)})
    buffers = () if outcome.payload is None else _buffers(outcome.payload)
    try:
        return _bytes(header, buffers)
    except FrameError:
        assert outcome.failure is not None, "results have come in frames"
        return outcome_to_bytes(outcome._replace(failure=_shortened(outcome.failure)))


def _shortened(failure: Failure) -> Failure:
    """What of an exception fits for certain."""
    message, traceback = (text[:_KEPT_CHARACTERS] for text in (failure.message, failure.traceback))
    kind, name = failure.module, failure.qualname
    return Failure(kind, name, message, traceback, origin=failure.origin)


def outcome_from_bytes(state: JobState, data: bytes) -> Outcome:
    (frame,) = frames.decode(data)
    failure = frame.fields.get("failure")
    restored = None if failure is None else failures.from_wire(failure)
    return Outcome(state, payload_of(frame.buffers), restored)


def value_to_bytes(payload: Payload) -> bytes:
    return _bytes(_VALUE, _buffers(payload))


def value_from_bytes(data: bytes) -> Payload:
    (frame,) = frames.decode(data)
    payload = payload_of(frame.buffers)
    assert payload is not None
    return payload


def _buffers(payload: Payload) -> tuple[frames.Buffer, ...]:
    return (payload.body, *payload.buffers)


def _bytes(header: bytes, buffers: tuple[frames.Buffer, ...]) -> bytes:
    return b"".join(frames.assemble(header, buffers))
