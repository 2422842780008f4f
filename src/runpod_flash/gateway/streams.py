"""Streams of jobs for HTTP clients: numbered chunks, in parts that known clients can take."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from runpod_flash.gateway.messages import Answer, Refusal, query
from runpod_flash.gateway.results import NotJsonError, to_json
from runpod_flash.plane.store.base import JobState
from runpod_flash.plane.store.memory import now

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from runpod_flash.gateway.jobs import Jobs
    from runpod_flash.gateway.messages import Scope
    from runpod_flash.plane.pool import Pool
    from runpod_flash.plane.store.base import Chunk, Store

# One request for chunks waits so long, below the time limit of known clients.
_SECONDS = 8.0
CHUNK_LIMIT = 1_000_000
# An answer ends with the chunk that takes it over this; the next one goes on.
_ANSWER_BYTES = 10_000_000
_CURSORS = 10_000


class Streams:
    """`/stream`: each chunk is given out once, or again from the number that is asked for."""

    def __init__(self, jobs: Jobs, store: Store) -> None:
        self._jobs = jobs
        self._store = store
        self._cursors: dict[str, int] = {}
        self._most_cursors = _CURSORS

    async def answer(self, pool: Pool, job_id: str, scope: Scope) -> Answer:
        """The chunks since the last time; `?start=N` asks from number N instead."""
        if self._jobs.get(pool, job_id).state is JobState.CANCELLED:
            # Known clients would ask for ever.
            raise Refusal(409, f"job {job_id} was cancelled")
        chunks = await self._drain(job_id, _start(scope))
        shown = b", ".join(item for chunk in chunks for item in items(chunk))
        state = self._jobs.get(pool, job_id).state.value
        return Answer(200, b'{"status": "' + state.encode() + b'", "stream": [' + shown + b"]}")

    async def _drain(self, job_id: str, asked: int | None) -> Sequence[Chunk]:
        if asked is not None:
            found, _ = await self._jobs.chunks(job_id, asked, _SECONDS)
            return _within_an_answer(found)
        start = self._cursors.get(job_id, 0)
        found, _ = await self._jobs.chunks(job_id, start, _SECONDS)
        # Another client may have asked meanwhile: each chunk is given out once.
        start = max(self._cursors.get(job_id, 0), start)
        fresh = _within_an_answer([chunk for chunk in found if chunk.index >= start])
        if fresh:
            self._move(job_id, fresh[-1].index + 1)
        return fresh

    def _move(self, job_id: str, cursor: int) -> None:
        self._cursors[job_id] = cursor
        if len(self._cursors) > self._most_cursors:
            gone = [each for each in self._cursors if now(self._store.get(each)) is None]
            for each in gone:
                del self._cursors[each]
            self._most_cursors = max(_CURSORS, 2 * len(self._cursors))

    def forget(self, job_id: str) -> None:
        """The stream is gone, or begins anew."""
        self._cursors.pop(job_id, None)


def _start(scope: Scope) -> int | None:
    start = query(scope).get("start")
    if start is None:
        return None
    if not (start.isascii() and start.isdigit() and len(start) < 10):
        raise Refusal(400, f"start={start!r} is no number of a chunk; the first one is 0")
    return int(start)


def _within_an_answer(chunks: Sequence[Chunk]) -> Sequence[Chunk]:
    size = 0
    for position, chunk in enumerate(chunks, 1):
        size += chunk.payload.nbytes
        if size > _ANSWER_BYTES:
            return chunks[:position]
    return chunks


def items(chunk: Chunk) -> Iterator[bytes]:
    """What stands for a chunk in an answer: it, or a long text in parts of at most a megabyte."""
    try:
        text = to_json(chunk.payload)
    except NotJsonError as error:
        yield _refused(chunk.index, str(error))
        return
    if len(text) <= CHUNK_LIMIT:
        yield _item(chunk.index, text)
    elif text.startswith(b'"'):
        for part in _parts(json.loads(text)):
            yield _item(chunk.index, part)
    else:
        yield _refused(
            chunk.index,
            f"chunk {chunk.index} has {len(text) / 1e6:.1f} MB of JSON, and one that is not text "
            "may have 1 MB: yield smaller values",
        )


def _parts(text: str) -> Iterator[bytes]:
    whole = json.dumps(text).encode()
    if len(whole) <= CHUNK_LIMIT:
        yield whole
        return
    # (At a multiple of four: each part of base64 is base64.)
    middle = (len(text) // 2) & ~3
    yield from _parts(text[:middle])
    yield from _parts(text[middle:])


def _item(index: int, text: bytes) -> bytes:
    return b'{"index": %d, "output": %s}' % (index, text)


def _refused(index: int, why: str) -> bytes:
    return json.dumps({"index": index, "output": None, "error": why}).encode()
