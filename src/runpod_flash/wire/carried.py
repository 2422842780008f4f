"""The values that a frame carries: a result, or arguments and those of an object's constructor."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from runpod_flash.wire.codec import payload_of
from runpod_flash.wire.frames import Frame

if TYPE_CHECKING:
    from collections.abc import Mapping

    from runpod_flash.wire.codec import Payload
    from runpod_flash.wire.frames import Buffer


def carrying(
    kind: str,
    fields: Mapping[str, Any],
    payload: Payload | None,
    constructor: Payload | None = None,
) -> Frame:
    """A frame of that type with the buffers of both; a field says how many are the second one's."""
    buffers, count = buffers_of(payload, constructor)
    more = {"constructor": count} if count else {}
    return Frame(kind, {**fields, **more}, buffers)


def buffers_of(
    payload: Payload | None, constructor: Payload | None
) -> tuple[tuple[Buffer, ...], int]:
    """The buffers of both, and how many are the second one's."""
    buffers: tuple[Buffer, ...] = () if payload is None else (payload.body, *payload.buffers)
    if constructor is None:
        return buffers, 0
    return (*buffers, constructor.body, *constructor.buffers), 1 + len(constructor.buffers)


def carried(frame: Frame) -> tuple[Payload | None, Payload | None]:
    """The value, and the constructor's arguments; the field is gone from the frame then."""
    split = len(frame.buffers) - frame.fields.pop("constructor", 0)
    return payload_of(frame.buffers[:split]), payload_of(frame.buffers[split:])
