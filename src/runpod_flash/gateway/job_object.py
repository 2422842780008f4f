"""The job object: what an answer, or a webhook, says of a job."""

from __future__ import annotations

import json
import platform
from typing import TYPE_CHECKING, Any

import runpod_flash
from runpod_flash.gateway.messages import Answer
from runpod_flash.gateway.results import NotJsonError, error_text, to_json
from runpod_flash.plane.store.base import JobState
from runpod_flash.plane.store.memory import now
from runpod_flash.wire.json_text import dumper

if TYPE_CHECKING:
    from runpod_flash.plane.plane import Plane
    from runpod_flash.plane.store.base import Job
    from runpod_flash.wire.failures import Failure

_dumps = dumper(ensure_ascii=True, allow_nan=True, separators=(", ", ": "))
# HTTP statuses of jobs that did not complete, where the status is to say so.
_STATUSES = {JobState.FAILED: 500, JobState.TIMED_OUT: 504, JobState.CANCELLED: 409}


class JobObjects:
    """Describes jobs of a plane."""

    def __init__(self, plane: Plane) -> None:
        self._plane = plane

    def answer(self, job: Job, *, kept: bool = False) -> Answer:
        """As the queue API describes a job."""
        return Answer(200, self.body(job), kept=kept)

    def body(self, job: Job, *, with_input: bool = False) -> bytes:
        """The job object of the queue API."""
        fields, output = self._common(job)
        if job.outcome is not None and job.outcome.failure is not None:
            fields["error"] = _hosted_error(job.outcome.failure, job.worker)
        if job.webhook:
            fields["webhook"] = job.webhook
        parts = {"output": output}
        if with_input and job.call.payload.plain:
            parts["input"] = job.call.payload.body
        return _joined(fields, parts)

    def told_by_status(self, job: Job) -> Answer:
        """As the addresses of functions describe a job that was waited for."""
        fields, output = self._with_error(job)
        status = _STATUSES.get(JobState(fields["status"]), 200)
        return Answer(status, _joined(fields, {"output": output}), kept=True)

    def described(self, job: Job) -> Answer:
        """As the addresses of functions describe a job that was asked for."""
        fields, output = self._with_error(job)
        return Answer(200, _joined(fields, {"output": output}))

    def _with_error(self, job: Job) -> tuple[dict[str, Any], bytes]:
        fields, output = self._common(job)
        if job.outcome is not None and job.outcome.failure is not None:
            failure = job.outcome.failure
            fields |= {"error": error_text(failure), "error_type": failure.type_name}
            if failure.traceback:
                fields["traceback"] = failure.traceback
        return fields, output

    def _common(self, job: Job) -> tuple[dict[str, Any], bytes]:
        fields = summary(job)
        output = b""
        try:
            output = self._output(job)
        except NotJsonError as error:
            if job.state is JobState.COMPLETED:
                fields |= {"status": JobState.FAILED.value, "error": str(error)}
        if job.state is JobState.IN_QUEUE and (waits_for := self._plane.waits_for(job)):
            fields["waitsFor"] = waits_for
        return fields, output

    def _output(self, job: Job) -> bytes:
        if job.state is JobState.IN_PROGRESS and job.progress is not None:
            return to_json(job.progress)
        result = None if job.outcome is None else job.outcome.payload
        if job.state is not JobState.COMPLETED:
            # (Other workers may say beside an error what they have done.)
            return b"" if result is None else to_json(result)
        if job.chunks:
            found = now(self._plane.store.chunks(job.id, 0, job.chunks))
            return b"[" + b", ".join(to_json(chunk.payload) for chunk in found) + b"]"
        return b"null" if result is None else to_json(result)


def summary(job: Job) -> dict[str, Any]:
    """What every job object has: known clients refuse one that lacks any of it."""
    began, end = job.started_at, job.finished_at
    fields = {
        "id": job.id,
        "status": job.state.value,
        "delayTime": _milliseconds(job.created_at, began),
        "executionTime": _milliseconds(began, end),
        "workerId": "" if job.state is JobState.IN_QUEUE else job.worker,
    }
    if job.attempt > 1:
        fields["retries"] = job.attempt - 1
    return fields


def _milliseconds(since: float | None, until: float | None) -> int:
    # (A server's clock may be set back between the two.)
    return 0 if since is None or until is None else max(round((until - since) * 1000), 0)


def _hosted_error(failure: Failure, worker_id: str) -> str:
    """The text in `error`: of what the function raised, a JSON object, as hosted workers post.

    What a worker has said itself, without a type, is passed on as it is.
    """
    if failure.origin == "system" or not failure.type_name:
        return error_text(failure)
    error = {
        "error_type": f"<class '{failure.type_name}'>",
        "error_message": failure.message,
        "error_traceback": failure.traceback,
        "hostname": platform.node(),
        "worker_id": worker_id,
        "runpod_version": f"flash-{runpod_flash.__version__}",
    }
    return json.dumps(error)


def _joined(fields: dict[str, Any], parts: dict[str, bytes]) -> bytes:
    """One JSON object; the parts are JSON already."""
    body = _dumps(fields).encode()
    more = b"".join(b', "%s": %s' % (name.encode(), text) for name, text in parts.items() if text)
    return body[:-1] + more + b"}"
