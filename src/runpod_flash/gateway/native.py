"""The queue API in frames, for Flash's own SDK: the code's owner calls as if embedded."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from runpod_flash.gateway.messages import Refusal, body_pieces, whole_number
from runpod_flash.plane.store.base import Call, NewJob, Policy
from runpod_flash.plane.views import ended
from runpod_flash.project.catalog import choose_method
from runpod_flash.wire import frames
from runpod_flash.wire.carried import carried, carrying
from runpod_flash.wire.codec import decode, encode
from runpod_flash.wire.frames import MEDIA_TYPE, Frame, FrameReader

if TYPE_CHECKING:
    from collections.abc import Sequence

    from runpod_flash.gateway.jobs import Jobs
    from runpod_flash.gateway.messages import Receive, Scope, Send
    from runpod_flash.plane.pool import Pool
    from runpod_flash.plane.store.base import Chunk, Job
    from runpod_flash.plane.views import Snapshot
    from runpod_flash.project.catalog import Discovered
    from runpod_flash.wire.codec import Payload

# Values of one's own programs are bounded by memory, not by a contract.
_LIMIT = 8_000_000_000
_MOST_SECONDS = 60.0
_ANY = (0, 1 << 31)


class NativeApi:
    """Runs on the plane's loop; the caller has been found to be the code's owner."""

    def __init__(self, jobs: Jobs) -> None:
        self._jobs = jobs

    async def answer(
        self, endpoint: Discovered, pool: Pool, rest: Sequence[str], scope: Scope, receive: Receive
    ) -> Told:
        """The answer to one request."""
        verb, job_id = rest[0] if rest else "", rest[1] if len(rest) > 1 else ""
        if job_id and not self._jobs.has(pool, job_id):
            return NOT_KNOWN
        if verb in ("run", "runsync"):
            sent = await _sent(scope, receive)
            job_id = self._accept(endpoint, pool, sent, verb, scope)
            return await self._state(job_id, _seconds(scope) if verb == "runsync" else 0)
        return await self.of_job(verb, job_id, scope)

    async def of_job(self, verb: str, job_id: str, scope: Scope) -> Told:
        """The answer about a job that is there."""
        seconds = _seconds(scope)
        if verb == "status":
            return await self._state(job_id, seconds)
        if verb == "stream":
            return await self._stream(job_id, whole_number(scope, "start", 0, _ANY))
        if verb == "cancel":
            self._jobs.cancel(job_id)
            return await self._state(job_id, 0)
        raise Refusal(404, f"{scope['path']} is no operation of the queue API")

    def _accept(
        self, endpoint: Discovered, pool: Pool, sent: Sequence[Frame], verb: str, scope: Scope
    ) -> str:
        try:
            (frame,) = sent
            fields = frame.fields
            payload, constructor = carried(frame)
            job_id: str = fields["job"]
            form = fields["form"]
        except (ValueError, KeyError, TypeError) as error:
            raise Refusal(400, f"the body is no job of this version: {error}") from None
        if payload is None:
            raise Refusal(400, "the body is no job of this version: it lacks the arguments")
        method = fields.get("method", "")
        if form == "input" and endpoint.owner and not method:
            method, payload = _split(endpoint, payload)
        if bool(method) != bool(endpoint.owner):
            raise Refusal(409, f"{endpoint.spec.name} is another kind of endpoint than here")
        call = Call(payload, form, method, constructor)
        # Of one that is only submitted, the end may be asked for by another program.
        kept_ms = self._jobs.settings.run_retention_ms if verb == "run" else 0
        policy = Policy.of(pool.spec.placement)._replace(retention_ms=kept_ms)
        credits_, webhook = fields.get("credits", 0), str(fields.get("webhook", ""))
        if webhook:
            self._jobs.targets.check(webhook, scope)
        new = NewJob(job_id, pool.key, call, policy, credits=credits_, webhook=webhook)
        try:
            new.check()
        except ValueError as error:
            raise Refusal(400, f"the body is no job of this version: {error}") from None
        self._jobs.accept(pool, new)
        return job_id

    async def _state(self, job_id: str, seconds: float) -> Told:
        ended = await self._jobs.end(job_id, seconds) if seconds else None
        answer = Told([_look(self._jobs.views.look(job_id))])
        if ended is not None:
            self._jobs.delivered(ended)  # last: a large result may be forgotten by it
        return answer

    async def _stream(self, job_id: str, start: int) -> Told:
        chunks, job = await self._jobs.chunks(job_id, start, _MOST_SECONDS / 2)
        frames_ = [_chunk(chunk) for chunk in chunks]
        known = self._jobs.views.look(job_id)
        last = _end(job) if job is not None else Frame("look", {"state": known and known.state})
        return Told([*frames_, last])


def _seconds(scope: Scope) -> float:
    """How long the answer may wait for the job's end."""
    return min(whole_number(scope, "wait", 0, _ANY) / 1000, _MOST_SECONDS)


def _split(endpoint: Discovered, payload: Payload) -> tuple[str, Payload]:
    """An input that names its method by a key, from a caller who does not know the class."""
    try:
        value = decode(payload, trusted=False)
        methods = [operation.method for operation in endpoint.operations]
        method, rest = choose_method(endpoint.owner, methods, value)
    except (TypeError, ValueError) as error:
        raise Refusal(400, str(error)) from None
    return method, encode(rest)


def _chunk(chunk: Chunk) -> Frame:
    buffers = (chunk.payload.body, *chunk.payload.buffers)
    return Frame("chunk", {"index": chunk.index}, buffers)


def _look(seen: Snapshot | None) -> Frame:
    if seen is None:
        return Frame("look", {})
    return carrying("look", seen.to_wire(), seen.ended.payload if seen.ended else None)


def _end(job: Job) -> Frame:
    end = ended(job)
    return carrying("look", {**end.to_wire(), "ended": True}, end.payload)


async def _sent(scope: Scope, receive: Receive) -> list[Frame]:
    """The frames of the body, which are put together as it comes: a large value is there once."""
    reader, found = FrameReader(None), []
    try:
        async for piece in body_pieces(scope, receive, _LIMIT, "pass it through a volume"):
            found += reader.feed(piece)
    except frames.FrameError as error:
        raise Refusal(400, f"the body is no job of this version: {error}") from None
    if not reader.between_frames:
        raise Refusal(400, "the body is no job of this version: it ends within a frame")
    return found


@dataclass(frozen=True, slots=True)
class Told:
    """A response of frames; large values in them are not copied."""

    frames: Sequence[Frame]

    async def send(self, send: Send) -> None:
        pieces = [piece for frame in self.frames for piece in frames.encode(frame)]
        size = sum(memoryview(piece).nbytes for piece in pieces)
        headers = [
            (b"content-type", MEDIA_TYPE.encode()),
            (b"content-length", str(size).encode()),
        ]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        for piece in pieces[:-1]:
            await send({"type": "http.response.body", "body": piece, "more_body": True})
        await send({"type": "http.response.body", "body": pieces[-1]})


NOT_KNOWN = Told([Frame("look", {})])
