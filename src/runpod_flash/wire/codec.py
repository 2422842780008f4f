"""Python values to and from the wire: a JSON body, and large binary parts beside it.

Plain JSON values are encoded as themselves. Other common values carry a tag, `{"$": tag, ...}`,
and are read without a pickle (`codec_tags`). A value with anything else in it (subclasses, cycles,
objects of the user's classes) is cloudpickled as a whole (`pickling`).
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, NamedTuple

from runpod_flash.errors import SerializationError
from runpod_flash.wire.json_text import dumper, loader
from runpod_flash.wire.module_names import NO_ALIAS
from runpod_flash.wire.tags import (
    MAX_DEPTH,
    SCALARS,
    TAG_MARK,
    Buffer,
    NotSafe,
    Room,
    TagWriter,
    no_room,
    read_tagged,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from runpod_flash.wire.module_names import ModuleNames

__all__ = ["Buffer", "Payload", "decode", "encode", "encode_safe", "payload_of"]

# Every pickled body starts so, and no other is ever unpickled.
_PICKLE_PREFIX = b'{"$":"pickle",'

_CONTAINERS = frozenset({dict, list})
_PLAIN = SCALARS | _CONTAINERS
_STR = frozenset({str})

# Checks for cycles and non-finite floats are the caller's: is_plain() bounds the depth.
_dump_text = dumper(ensure_ascii=False, allow_nan=False)
_load = loader()


class Payload(NamedTuple):
    """An encoded value. (A named tuple, since importing dataclasses imports inspect.)

    `buffers` of type bytes may be the user's own objects, read-only memoryviews shared memory.
    Decoding takes over buffers of type bytearray and writable memoryviews: they become the memory
    of decoded arrays.
    """

    body: bytes
    buffers: tuple[Buffer, ...] = ()

    @property
    def nbytes(self) -> int:
        """Size of the body and all buffers."""
        size = len(self.body)
        return size + sum(memoryview(b).nbytes for b in self.buffers) if self.buffers else size

    @property
    def pickled(self) -> bool:
        """Whether reading it runs a pickle."""
        return self.body.startswith(_PICKLE_PREFIX)

    @property
    def plain(self) -> bool:
        """Whether `json.loads(body)` is the value itself: no tags in it."""
        return TAG_MARK not in self.body


def payload_of(buffers: Sequence[Buffer]) -> Payload | None:
    """The value that a frame's buffers hold, body first; None where there are none."""
    return Payload(bytes(buffers[0]), tuple(buffers[1:])) if buffers else None


def encode(value: Any, names: ModuleNames = NO_ALIAS, room: Room = no_room) -> Payload:
    """Encode any value that can travel.

    `names` gives the caller's script the name under which workers import it. Arrays are copied to
    memory that `room` gives. Raises SerializationError that names the part that cannot travel and
    what to do.
    """
    payload = encode_safe(value, room)
    if payload is not None:
        return payload
    from runpod_flash.wire.pickling import write_pickle

    header, buffers = write_pickle(value, names, room)
    return Payload(_dump_text(header).encode(), buffers)


def encode_safe(value: Any, room: Room = no_room) -> Payload | None:
    """Encode a value that needs no pickle; None for any other."""
    try:
        if _is_plain(value, 0):
            return Payload(_dump_text(value).encode())
    except (ValueError, RuntimeError):
        pass  # a NaN, a lone surrogate, a huge int, or nearly no stack left: the tags know
    # Scalars inside tagged values are rarely special either: look at each one only if they are.
    for strict in (False, True):
        writer = TagWriter(strict=strict, room=room)
        try:
            return Payload(_dump_text(writer.write(value)).encode(), tuple(writer.buffers))
        except (NotSafe, RuntimeError):
            return None
        except ValueError:
            continue
    return None


def decode(payload: Payload, *, trusted: bool, names: ModuleNames = NO_ALIAS) -> Any:
    """Decode a payload; a pickled one only if its sender is `trusted`.

    Raises SerializationError, also for malformed payloads.
    """
    try:
        if payload.plain:
            return _load(str(payload.body, "utf-8"))
        if payload.pickled:
            return _unpickle(payload, trusted, names)
        return read_tagged(str(payload.body, "utf-8"), payload.buffers)
    except (ValueError, RecursionError) as error:
        message = f"The value cannot be read, for its encoding is malformed: {error}"
        raise SerializationError(message) from error


def _unpickle(payload: Payload, trusted: bool, names: ModuleNames) -> Any:
    if not trusted:
        raise SerializationError(
            "The value is pickled and its sender is not trusted here: send JSON values, bytes, "
            "dates or NumPy arrays instead of objects of other classes."
        )
    from runpod_flash.wire.unpickling import read_pickle

    return read_pickle(json.loads(payload.body), payload.buffers, names)


def _is_plain(value: Any, depth: int) -> bool:
    """Whether JSON gives back the same value. Leaves are never visited one by one."""
    kind = type(value)
    if kind is list:
        children = value
    elif kind is dict:
        if "$" in value or not _STR.issuperset(map(type, value)):
            return False
        children = value.values()
    else:
        return kind in SCALARS
    kinds = set(map(type, children))
    if kinds <= SCALARS:
        return True
    if depth >= MAX_DEPTH or not kinds <= _PLAIN:
        return False
    for child in children:  # a generator would cost a frame a level
        if type(child) in _CONTAINERS and not _is_plain(child, depth + 1):
            return False
    return True
