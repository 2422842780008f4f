"""The backend inside a worker: calls to other endpoints go back over the worker's own link."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from runpod_flash.plane.views import Ended, Snapshot
from runpod_flash.wire import failures
from runpod_flash.wire.module_names import NO_ALIAS
from runpod_flash.wire.tags import no_room

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Mapping, Sequence

    from runpod_flash.client.backend import Submission
    from runpod_flash.context import Answer, WorkerContext
    from runpod_flash.wire.codec import Payload
    from runpod_flash.wire.tags import Room


class InWorkerBackend:
    """`Backend` over the link. The operations are listed in docs/protocol.md."""

    names = NO_ALIAS

    def __init__(self, worker: WorkerContext) -> None:
        self._worker = worker
        self.room: Room = no_room

    def submit(
        self,
        submission: Submission,
        on_end: Callable[[Ended], None] | None = None,
        reader: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        call = submission.call
        fields = {
            "job": submission.job_id,
            "spec": submission.spec.to_wire(),
            "env": dict(submission.env),
            "form": call.form,
            "method": call.method,
            "credits": submission.credits,
        }
        self._worker.call("submit", fields, call.payload, call.constructor)
        if on_end is None:
            return
        tell, job_id = on_end, submission.job_id

        def told(end: Ended | None) -> None:
            tell(end or Ended("UNKNOWN"))
            if reader is not None:
                self.forget(job_id)

        self.wait(job_id, told)

    def wait(self, job_id: str, on_end: Callable[[Ended | None], None]) -> None:
        self._ask("wait", {"job": job_id}, lambda answer: on_end(_ended(answer)))

    def chunks(
        self, job_id: str, start: int, on_chunks: Callable[[Sequence[Payload], Ended | None], None]
    ) -> None:
        def arrived(answer: Answer) -> None:
            if answer.fields.get("chunk"):
                assert answer.payload is not None
                on_chunks([answer.payload], None)
            else:
                on_chunks([], _ended(answer) or Ended("UNKNOWN"))

        self._ask("chunk", {"job": job_id, "start": start}, arrived)

    def look(self, job_id: str, on_look: Callable[[Snapshot | None], None]) -> None:
        def seen(answer: Answer) -> None:
            fields = dict(answer.fields)
            if "state" not in fields:
                on_look(None)
                return
            ended = _ended(answer) if fields.pop("ended") else None
            fields.pop("failure", None)
            on_look(Snapshot(**fields, ended=ended))

        self._ask("look", {"job": job_id}, seen)

    def cancel(self, job_id: str) -> None:
        self._worker.call("cancel", {"job": job_id})

    def forget(self, job_id: str) -> None:
        self._worker.call("forget", {"job": job_id})

    def _ask(
        self, operation: str, fields: Mapping[str, Any], on_answer: Callable[[Answer], None]
    ) -> None:
        self._worker.call(operation, fields, on_answer=on_answer)


def _ended(answer: Answer) -> Ended | None:
    state, failure = answer.fields.get("state"), answer.fields.get("failure")
    if not state:
        return None
    restored = failures.from_wire(failure) if failure else None
    return Ended(state, answer.payload, restored)
