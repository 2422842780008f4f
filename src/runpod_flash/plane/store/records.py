"""Jobs as bytes in a file: what they are made of, how they ended, and their streams' chunks."""

from __future__ import annotations

from typing import TYPE_CHECKING

from runpod_flash.plane.store.base import Call, JobState, NewJob, Outcome, Policy
from runpod_flash.wire import failures, frames
from runpod_flash.wire.codec import Payload, payload_of
from runpod_flash.wire.failures import Failure
from runpod_flash.wire.frames import Frame, FrameError

if TYPE_CHECKING:
    from typing import Any

# SQLite keeps values below a gigabyte.
MOST_BYTES = 900_000_000
# Of the text of an exception that has more than a frame's header can carry.
_KEPT_CHARACTERS = 100_000


def call_to_bytes(new: NewJob) -> bytes:
    """All of a new job but its id and endpoint."""
    call = new.call
    fields: dict[str, Any] = {
        "form": call.form,
        "method": call.method,
        "policy": new.policy._asdict(),
        "parent": new.parent,
        "credits": new.credits,
        "webhook": new.webhook,
        "extras": bool(new.extras),
    }
    buffers = _buffers(call.payload)
    fields["constructor"] = len(buffers)
    if call.constructor is not None:
        buffers += _buffers(call.constructor)
    if new.extras:
        buffers += (new.extras.encode(),)
    return _bytes(Frame("call", fields, buffers))


def call_from_bytes(job_id: str, endpoint: str, data: bytes) -> NewJob:
    (frame,) = frames.decode(data)
    fields = frame.fields
    *buffers, extras = frame.buffers if fields["extras"] else (*frame.buffers, b"")
    split = fields["constructor"]
    payload = payload_of(tuple(buffers[:split]))
    assert payload is not None
    return NewJob(
        id=job_id,
        endpoint=endpoint,
        call=Call(payload, fields["form"], fields["method"], payload_of(tuple(buffers[split:]))),
        policy=Policy(**fields["policy"]),
        parent=fields["parent"],
        credits=fields["credits"],
        webhook=fields["webhook"],
        extras=bytes(extras).decode(),
    )


def outcome_to_bytes(outcome: Outcome) -> bytes:
    """The result or the failure; the state is in a column of its own."""
    fields = {} if outcome.failure is None else {"failure": failures.to_wire(outcome.failure)}
    buffers = () if outcome.payload is None else _buffers(outcome.payload)
    try:
        return _bytes(Frame("outcome", fields, buffers))
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
    return _bytes(Frame("value", {}, _buffers(payload)))


def value_from_bytes(data: bytes) -> Payload:
    (frame,) = frames.decode(data)
    payload = payload_of(frame.buffers)
    assert payload is not None
    return payload


def _buffers(payload: Payload) -> tuple[frames.Buffer, ...]:
    return (payload.body, *payload.buffers)


def _bytes(frame: Frame) -> bytes:
    return b"".join(frames.encode(frame))
